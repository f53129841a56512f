"""Fine-tune a language model on a few GPUs, with DeepSpeed underneath.

Data flows one way: ``.env`` -> :mod:`sft.settings.fields` -> run directory (:mod:`sft.run.directory`) -> ranks
(:mod:`sft.trainer`) -> run directory -> monitor and report (:mod:`sft.host`).
"""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]  # the project's folder, with ds_configs/ and docker-compose.yml
