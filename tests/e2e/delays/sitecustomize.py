"""A slow disk, a model that cannot be written and a rank that hangs: on PYTHONPATH, it changes the ranks of a run.

EXPORT_DELAY_S: the final model takes so many seconds longer to be written, on rank 0.
EXPORT_FAILS: the final model cannot be written, on rank 0.
HANG_AT: in this step rank 0 hangs without end, and rank 1 raises an error of its own.
"""

import os
import time

if "RANK" in os.environ and "EXPORT_DELAY_S" in os.environ:
    import transformers

    save = transformers.PreTrainedModel.save_pretrained

    def slow_save(model, *arguments, **options):
        time.sleep(float(os.environ["EXPORT_DELAY_S"]))
        return save(model, *arguments, **options)

    transformers.PreTrainedModel.save_pretrained = slow_save

if "RANK" in os.environ and "EXPORT_FAILS" in os.environ:
    import transformers

    def failing_save(model, *arguments, **options):
        raise ValueError("a model that this version cannot write")

    transformers.PreTrainedModel.save_pretrained = failing_save

if "RANK" in os.environ and "HANG_AT" in os.environ:
    from deepspeed.runtime.engine import DeepSpeedEngine

    step = DeepSpeedEngine.step

    def hanging_step(engine):
        if engine.global_steps + 1 == int(os.environ["HANG_AT"]):
            if os.environ["RANK"] == "1":
                raise ArithmeticError("one rank's own error")
            while True:
                time.sleep(1)
        step(engine)

    DeepSpeedEngine.step = hanging_step
