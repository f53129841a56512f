"""Where settings come from: default, `.env`, environment, `make train NAME=value`; the later wins.

An empty value behind `make` empties a setting that may be empty, and gives any other its default instead of the value
in `.env`. An empty variable of the environment counts as not set: other programs leave them behind.
All errors are reported at once, one line each.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from sft import redaction
from sft.errors import SettingsError, UserError, shown, wrong
from sft.settings import hosts, libraries, mixture_file, rules, variables
from sft.settings.explain import explain
from sft.settings.fields import DEMO, FOLDERS, TINY, Settings, secret_names
from sft.settings.stages import Decided, Resolved, without_plan

# `make demo`: what a tiny model learns in a minute on a CPU, over two nodes.
DEMO_SETTINGS: dict[str, object] = {
    "model_name": TINY, "dataset": DEMO, "device": "cpu", "launcher": "local", "nodes": 2, "gpus_per_node": 1,
    "batch_size": 16, "learning_rate": 3e-3, "warmup_ratio": 0.05, "max_epochs": 2, "max_length": 128,
    "max_new_tokens": 24, "eval_batch_size": 100,
}  # fmt: skip

# Names of settings in other trainers that are not similar enough to the names here to be guessed.
ELSEWHERE = {
    "LR": "LEARNING_RATE", "MODEL": "MODEL_NAME", "DATA": "DATASET", "EPOCHS": "MAX_EPOCHS", "STEPS": "MAX_STEPS",
    "NUM_EPOCHS": "MAX_EPOCHS", "NUM_TRAIN_EPOCHS": "MAX_EPOCHS", "MAX_SEQ_LENGTH": "MAX_LENGTH",
    "SEQ_LEN": "MAX_LENGTH", "CUTOFF_LEN": "MAX_LENGTH", "PER_DEVICE_TRAIN_BATCH_SIZE": "BATCH_SIZE",
    "MICRO_BATCH_SIZE": "BATCH_SIZE", "MAX_GRAD_NORM": "GRAD_CLIP", "LORA_R": "LORA_RANK",
    "RANK": "LORA_RANK", "GPUS": "GPUS_PER_NODE",
    "NPROC_PER_NODE": "GPUS_PER_NODE", "PORT": "MASTER_PORT", "OUTPUT_DIR": "RUNS_PATH", "NAME": "RUN_NAME",
    "HF_TOKEN": "HUGGINGFACE_API_KEY", "DEEPSPEED": "DS_CONFIG", "ZERO_STAGE": "DS_CONFIG",
}  # fmt: skip


def load(
    env_file: Path | None = variables.ENV_FILE, defaults: Mapping[str, object] | None = None, **given: object
) -> Settings:
    """Return the settings from `defaults`, `env_file`, the environment and `given`.

    Raises SettingsError with a line for everything that is wrong.
    """
    problems: list[str] = []
    written: dict[str, str] = {}
    try:
        written = variables.from_file(env_file) if env_file else {}
    except UserError as error:
        problems.append(str(error))
    problems += unknown_names(list(written), str(env_file)) + unknown_names(variables.behind_make(), "make")
    names = Settings.model_fields
    values: dict[str, object] = dict(defaults or {})
    emptied = {name for name in names if name.upper() in variables.emptied()}
    written = {name: value for name, value in written.items() if name.lower() not in emptied}
    values |= {name.lower(): value for name, value in written.items() if name.lower() in names}
    cleared = {name: "" for name in emptied if str(names[name].default) == ""}
    around = variables.around(list(names)) | cleared
    values |= around | given
    problems += settle_data(values, written, around | given)
    problems += hosts.settle(values, set(around) | set(given))
    while True:
        try:
            settings = Settings.model_validate(values)
            break
        except ValidationError as error:
            # Replace what is wrong with defaults, to find the contradictions among the rest.
            for item in error.errors():
                context = item.get("ctx", {})
                problems.append(explain(item["loc"], item["type"], item["input"], item["msg"], context))
                values.pop(str(item["loc"][0]))
    problems += rules.contradictions(settings) + libraries.problems(os.environ)
    if problems:
        raise SettingsError(problems)
    explicit = {name for name in names if name.upper() in written}
    settings.model_fields_set.intersection_update(explicit | set(around) | set(given))
    redaction.know(list(settings.secrets().values()))
    return settings


def settle_data(values: dict[str, object], written: Mapping[str, str], later: Mapping[str, object]) -> list[str]:
    """Leave DATASET or DATASETS in `values`, whichever was given last, and put the file's content in place of its name.

    `later`: what was given after `.env` was `written`. Returns a line for everything that is wrong.
    """
    for given in (later, {name.lower(): value for name, value in written.items()}):
        names = {name for name, value in given.items() if value}
        if {"dataset", "datasets"} <= names:
            remedy = "leave one of them out"
            return [wrong("DATASETS", values.pop("datasets"), f"DATASET={values['dataset']} is set too", remedy)]
        if "dataset" in names:
            values.pop("datasets", None)
            return []
        if "datasets" in names:
            break
    if not values.get("datasets"):
        return []
    values.pop("dataset", None)
    try:
        values |= {"dataset": "", "datasets": mixture_file.read(str(values["datasets"]))}
    except SettingsError as error:
        del values["datasets"]
        return error.problems
    return []


def repeat(frozen: Mapping[str, object], env_file: Path | None = variables.ENV_FILE, **given: object) -> Settings:
    """Return settings for a new run from those of a frozen one. The environment, `make`'s words and `given` win.

    Only the keys are taken from `env_file`, as they are never frozen; the rest of it is about other runs. Raises
    SettingsError.
    """
    kept = {name: value for name, value in frozen.items() if name != "run_name"}
    return load(None, defaults=kept | keys_of(env_file), **(given | {"fresh": True}))


def resume(before: Decided, env_file: Path | None = variables.ENV_FILE, **given: object) -> Settings:
    """Return settings to resume a run with: its own, unless the environment, `make`'s words or `given` say otherwise.

    Only the keys are taken from `env_file`. If the number of ranks has changed, the global batch size stays the same,
    unless it is set.
    Raises SettingsError.
    """
    defaults = before.freeze() | {"fresh": False} | keys_of(env_file)
    settings = load(None, defaults=defaults, **given)
    if settings.fresh:
        remedy = "leave it out, or start over with `make train FRESH=1` and the same settings"
        raise SettingsError([wrong("FRESH", 1, "`resume` continues a run", remedy)])
    sizes = {"global_batch_size", "gradient_accumulation_steps", "batch_size"}
    if settings.world_size != before.world_size and not any(os.environ.get(name.upper()) for name in sizes):
        defaults |= {"global_batch_size": before.sequences_per_step, "gradient_accumulation_steps": 1}
        defaults |= {"max_tokens_per_micro_step": None}  # planned again for the present number of ranks
        settings = load(None, defaults=defaults, **given)
    return settings


def thaw(frozen: Mapping[str, object]) -> Decided:
    """Return settings from the content of a run's `settings.json`. Secrets and folders come from the environment.

    In a container, the same folders are in other places. A name that is not a setting is an error, unlike an unknown
    key of another record: it may be a setting of a newer version, which decides what is trained. Raises ValueError.
    """
    here = {name: os.environ.get(name.upper(), "") for name in secret_names()}
    here |= {name: os.environ[name.upper()] for name in FOLDERS if os.environ.get(name.upper())}
    try:
        settings = Settings.model_validate({**frozen, **here})
        settings.model_fields_set.clear()  # nobody has set them for this start
        return settled(settings)
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()]
        raise ValueError(", ".join(problems[:3])) from None


def settled(frozen: Settings) -> Decided:
    """Return frozen settings as decided ones. Older runs lack the settings that had no `auto` in their time."""
    return without_plan(Resolved.of(frozen, learning_rate=frozen.peak_learning_rate))


def keys_of(env_file: Path | None) -> dict[str, str]:
    """Return the secrets in an env file, by the names of their settings."""
    written = variables.from_file(env_file) if env_file else {}
    return {
        name: written[name.upper()]
        for name in secret_names()
        if name.upper() in written and name.upper() not in variables.emptied()
    }


def unknown_names(names: list[str], where: str, options: tuple[str, ...] = ()) -> list[str]:
    """Return a line for every name that is neither a setting nor an option, with the one that was probably meant."""
    known = [*options, *(name.upper() for name in Settings.model_fields)]
    problems = []
    for name in names:
        if name not in known and not variables.is_of_compose(name):
            usual = name.upper() if name.upper() in known else ELSEWHERE.get(name.upper())
            near = [usual] if usual else difflib.get_close_matches(name.upper(), known, n=1)
            remedy = f"did you mean {near[0]}?" if near else "docs/settings.md lists every setting"
            problems.append(f"{shown(name)}: no such setting (from {where}); {remedy}")
    return problems
