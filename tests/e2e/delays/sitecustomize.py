"""A slow disk, a model that cannot be written, a rank that waits or hangs: on PYTHONPATH, it changes a run's ranks.

EXPORT_DELAY_S: the final model takes so many seconds longer to be written, on rank 0.
EXPORT_FAILS: the final model cannot be written, on rank 0.
HANG_AT: in this step rank 0 hangs without end, and rank 1 raises an error of its own.
HIDES: a rank of another node does not see the file or folder of this name in its first four seconds, as over NFS.
HOLD_AT: in each of these steps rank 0 makes the file HOLD/held-STEP, and waits for HOLD/go-STEP: project.Hold.
STEP_DELAY_S: every step takes so many seconds longer, in which rank 0 sleeps and the others wait for it.
"""

import os
import pathlib
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

if os.environ.get("RANK", "0") != "0" and "HIDES" in os.environ:
    seen_at = None

    def is_hidden(path):
        """Whether it is that file, in the first seconds after the first look at it."""
        global seen_at
        if os.path.basename(os.fspath(path)) != os.environ["HIDES"]:
            return False
        seen_at = seen_at or time.monotonic()
        return time.monotonic() - seen_at < 4

    list_all, look_up = os.listdir, os.stat

    def list_some(path="."):
        return [name for name in list_all(path) if not is_hidden(name)]

    def look_up_some(path, *arguments, **options):
        if isinstance(path, str | os.PathLike) and is_hidden(path):
            raise FileNotFoundError(2, "No such file or directory", path)
        return look_up(path, *arguments, **options)

    os.listdir, os.stat = list_some, look_up_some

if os.environ.get("RANK") == "0" and "HOLD_AT" in os.environ:
    from deepspeed.runtime.engine import DeepSpeedEngine

    step_on = DeepSpeedEngine.step

    def waiting_step(engine):
        at = str(engine.global_steps + 1)
        if at in os.environ["HOLD_AT"].split(","):
            folder = pathlib.Path(os.environ["HOLD"])
            (folder / f"held-{at}").touch()
            while not (folder / f"go-{at}").exists():
                time.sleep(0.05)
        step_on(engine)

    DeepSpeedEngine.step = waiting_step

if os.environ.get("RANK") == "0" and "STEP_DELAY_S" in os.environ:
    from deepspeed.runtime.engine import DeepSpeedEngine

    quick_step = DeepSpeedEngine.step

    def slow_step(engine):
        time.sleep(float(os.environ["STEP_DELAY_S"]))
        quick_step(engine)

    DeepSpeedEngine.step = slow_step
