"""Prepare a run's data and model, once on node 0: `python -m sft.trainer.prepare --run runs/NAME`.

The base model is made, found or downloaded; the data is read, validated, tokenised and cached. When both are complete,
`prepared.json` in the run directory says where they are: the ranks of all nodes wait for that file. If both are in the
cache, nothing is imported that takes seconds.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np

from sft import long_rows, model_files
from sft.errors import SettingsError, SftError, UserError, kind_of, wrong
from sft.run import files, owners, typed_json
from sft.run.directory import Run
from sft.run.records import Failure, Prepared
from sft.settings import deepspeed
from sft.settings.fields import ALL_LINEAR, Settings
from sft.settings.load import load
from sft.trainer import deepspeed_file, process
from sft.trainer.data import identity
from sft.trainer.data.base_model import base_model, described
from sft.trainer.data.prepared_data import prepared_data, prepared_path
from sft.trainer.trial import cache as trials
from sft.trainer.trial import fits


def main() -> None:
    """Prepare a run, or the settings of `.env` before there is a run. Exit code 2 if the user can fix it."""
    process.begin()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, help="the run directory; without it the settings of .env are prepared")
    path = parser.parse_args().run
    run = Run(path) if path else None
    try:
        prepared = prepare_as_owner(run.settings() if run else load(), run)
        if run:
            typed_json.write(run.prepared, prepared)
    except SftError as error:
        if run:
            run.fail(Failure(kind=error.kind, reason=str(error)))
        # The last line of a program without a run is for the task that started it: libraries write to this output too.
        print(error if run else json.dumps({"error": str(error)}), flush=True)
        sys.exit(error.exit_code)
    except Exception as error:
        if run and (isinstance(error, OSError) or kind_of(error) == "disk_full"):
            run.fail(Failure(kind=kind_of(error), reason=f"preparing: {of_system(error)}"))
        raise


def of_system(error: Exception) -> str:
    """Return an error of the operating system in words, which a library may have made one of its own."""
    if not isinstance(error, OSError) or not error.strerror:
        return str(error)
    return f"{error.strerror}: {error.filename}" if error.filename else error.strerror


def prepare_as_owner(settings: Settings, run: Run | None) -> Prepared:
    """Prepare. Raises UserError if a file belongs to another user, with that user's name."""
    try:
        return prepare(settings, run)
    except PermissionError as error:
        path = Path(error.filename or settings.data_path)
        raise UserError(owners.not_yours(path)) from None


def prepare(settings: Settings, run: Run | None = None) -> Prepared:
    """Prepare the base model and the data. Return their folders, and the data's counts.

    Raises SettingsError if a resumed `run` would train on with another model or other rows than it began with.
    """
    settings.data_path.mkdir(parents=True, exist_ok=True)
    settings.model_path.mkdir(parents=True, exist_ok=True)
    for folder in (settings.data_path, prepared_path(settings), settings.model_path):
        files.sweep(folder)  # what killed processes have left
    started = time.monotonic()
    # The run's own copy of the DS_CONFIG: a container does not see the user's file, which may have changed by now too.
    frozen = run.deepspeed_config() if run else deepspeed.configuration(settings)
    deepspeed_file.check(settings, frozen)
    model_files.check_bitsandbytes(settings)
    settings, commits = identity.pinned(run, settings) if run else (settings, {})
    folder = described(settings)
    check_lora_targets(settings, folder)
    tried = trials.tried(settings, folder)
    model = base_model(settings)
    if model != folder:  # the hub has another commit by now
        tried = trials.tried(settings, model)
    unused = fits.check(settings, model)
    model_there = time.monotonic()
    data, found = prepared_data(settings, model, commits, kept_template(run))
    if settings.evaluate or settings.eval_steps:
        long_rows.check(found.validation, "held-out", settings, "set EVALUATE=0 and EVAL_STEPS=0")
    check_ids(settings, model, data)
    check_frequencies(settings, model, max(found.train.longest, found.validation.longest))
    data_there = time.monotonic()
    inputs = identity.inputs_of(model, found)
    return Prepared(
        model=str(model),
        data=str(data),
        seconds={"base model": model_there - started, "data": data_there - model_there},
        inputs=inputs,
        said=identity.check(run, settings, inputs) if run else [],
        unused=unused,
        train=found.train,
        validation=found.validation,
        template=found.template,
        splits=found.splits,
        row_counts=found.row_counts,
        looks=found.looks,
        parts=found.parts,
        tried=tried,
    )


def check_ids(settings: Settings, folder: Path, data: Path) -> None:
    """Raise SettingsError if rows hold a token that the model has no embedding for: every rank would crash."""
    config = model_files.read_json(folder / "config.json")
    size = model_files.language_part(config).get("vocab_size") if isinstance(config, dict) else None
    if type(size) is not int:
        return
    for tokens in data.glob("*/tokens.npy"):
        highest = int(np.load(tokens, mmap_mode="r").max(initial=0))
        if highest >= size:
            what = f"its tokenizer gives token {highest}, and it has embeddings for {size} (0 to {size - 1})"
            remedy = "use the tokenizer that the model was published with, or resize the model's embeddings"
            raise SettingsError([wrong("MODEL_NAME", settings.model_name, what, remedy)])


def check_frequencies(settings: Settings, folder: Path, longest: int) -> None:
    """Raise SettingsError if the `longest` row would change what the model computes for the rows beside it."""
    config = model_files.read_json(folder / "config.json")
    most = model_files.short_positions(config) if isinstance(config, dict) else None
    if most and longest > most and (settings.batch_size > 1 or settings.packing):
        what = f"beyond {most} tokens {settings.model_name} has other rotary frequencies (longrope)"
        what += f", which a row of {longest} would give to all rows of its micro-batch"
        remedy = f"use {most} or less, or BATCH_SIZE=1 and PACKING=0, with more GRADIENT_ACCUMULATION_STEPS"
        raise SettingsError([wrong("MAX_LENGTH", settings.max_length, what, remedy)])


def kept_template(run: Run | None) -> Path | None:
    """Return a run's copy of CHAT_TEMPLATE's file, if it has one."""
    return run.chat_template if run and run.chat_template.is_file() else None


def check_lora_targets(settings: Settings, folder: Path) -> None:
    """Raise SettingsError if LORA_TARGETS names no layers, before any rank spends time on loading and evaluation."""
    if not settings.lora_rank or settings.adapted_layers == [ALL_LINEAR]:
        return
    import torch

    from sft.trainer.model import adapter, published, towers

    config = published.config_in(folder, settings)
    with torch.device("meta"):
        model = published.from_config(config, settings.trust_remote_code)
    adapter.check_targets(model, settings, towers.unused(model))


if __name__ == "__main__":
    main()
