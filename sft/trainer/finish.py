"""After the last step: save its checkpoint and export the model to `final/`."""

from __future__ import annotations

from deepspeed import DeepSpeedEngine

from sft.run.directory import Run
from sft.run.records import Prepared
from sft.settings.stages import Effective
from sft.steps import Steps
from sft.trainer.checkpoint.save import Saver
from sft.trainer.distributed import World
from sft.trainer.engine import end_engine
from sft.trainer.model.export import export
from sft.trainer.model.parts import count_weights
from sft.trainer.report import Reporter


def finish(
    engine: DeepSpeedEngine,
    saver: Saver,
    steps: Steps,
    prepared: Prepared,
    run: Run,
    settings: Effective,
    reporter: Reporter,
    world: World,
) -> None:
    """Save the last step, export the model, and free the engine's memory (all ranks).

    One after the other: an export beside the save would take main memory while the save's copies do, and if it were
    killed for that, the steps since the last checkpoint would be lost. Most of the time is the disk's, which both need.
    """
    with reporter.phase("saving"):
        reporter.tell("saving")
        reporter.flush()
        model = engine.module.model
        saver.save_before_export(steps.total, count_weights(model) * model.dtype.itemsize)
        export(engine, prepared, run, settings, world)
        if not settings.save_steps:
            saver.forget(steps.total)  # it was only needed if the export had failed
    end_engine(engine)
