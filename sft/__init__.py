"""Fine-tune a language model on a few GPUs, with DeepSpeed underneath.

Data flows one way: ``.env`` -> :mod:`sft.settings` -> run directory (:mod:`sft.run`) -> ranks
(:mod:`sft.trainer`) -> run directory -> monitor and report (:mod:`sft.host`).
"""
