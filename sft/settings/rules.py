"""Which settings contradict each other, and which must stay the same when a run is resumed."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import NamedTuple

from sft.errors import SettingsError, wrong
from sft.settings import deepspeed, mixture, slices, variables
from sft.settings.fields import COMPRESSED_SUFFIXES, DATA_SUFFIXES, DEMO, TINY, Settings, marked
from sft.settings.kinds import MAY_CHANGE, NOT_OF_RUN
from sft.settings.variables import is_there

# The hub's own rule: a name, or an owner and a name, without `--` and `..`.
HUB_NAME = re.compile(r"(?!.*(--|\.\.))(?=.{1,96}$)\w[\w.-]*(/[\w.-]+)?(?<![.-])", re.ASCII)
MODEL_SUFFIXES = (".safetensors", ".bin", ".gguf", ".json")
NEAR = 0.75  # similarity of names, such as `tinny` and `tiny`, that counts as a typing error
LONGEST_NAME = 100  # characters of a run's name, which W&B and the file system must take
RUN_NAME = re.compile(rf"(?!latest$)\w[\w.-]{{,{LONGEST_NAME - 1}}}", re.ASCII)

# Contradictions


def contradictions(settings: Settings, with_file: bool = True) -> list[str]:
    """Return a line for every pair of settings that contradict each other, and for DS_CONFIG's file (`with_file`)."""
    problems = []
    if 0 < settings.global_batch_size < settings.world_size:
        what = f"is less than NODES x GPUS_PER_NODE = {settings.world_size}, so some would have nothing to do"
        remedy = f"use at least {settings.world_size}"
        problems.append(wrong("GLOBAL_BATCH_SIZE", settings.global_batch_size, what, remedy))
    product = settings.batch_size * settings.gradient_accumulation_steps * settings.world_size
    if (
        settings.global_batch_size
        and settings.gradient_accumulation_steps > 1
        and product != settings.global_batch_size
    ):
        what = f"with BATCH_SIZE and GPUs it makes {product} per step, GLOBAL_BATCH_SIZE={settings.global_batch_size}"
        accumulation = settings.gradient_accumulation_steps
        problems.append(wrong("GRADIENT_ACCUMULATION_STEPS", accumulation, what, "set one of the two"))
    if settings.lora_base_bits == 4 and not settings.lora_rank:
        what = "4-bit weights cannot be trained themselves, and LORA_RANK=0 has no adapter"
        problems.append(wrong("LORA_BASE_BITS", 4, what, "use LORA_RANK=16, or LORA_BASE_BITS=16"))
    tokens = settings.max_tokens_per_micro_step
    if settings.packing and tokens is not None and settings.max_length > tokens:
        what = f"is less than MAX_LENGTH={settings.max_length}, so the longest row may not fit"
        remedy = f"use at least {settings.max_length}, or lower MAX_LENGTH"
        problems.append(wrong("MAX_TOKENS_PER_MICRO_STEP", tokens, what, remedy))
    if settings.run_name and not RUN_NAME.fullmatch(settings.run_name):
        what = "is the name of the link to the newest run" if settings.run_name == "latest" else "is not a valid name"
        remedy = f"use a letter or digit of ASCII, then up to {LONGEST_NAME - 1} of these, `-`, `_` and `.`"
        problems.append(wrong("RUN_NAME", settings.run_name, what, remedy))
    problems += [*name_problems("model_name", settings.model_name), *data_problems(settings)]
    if with_file:
        try:
            deepspeed.configuration(settings)
        except SettingsError as error:
            problems += error.problems
    return problems


def split_problems(settings: Settings) -> list[str]:
    """Return a line for rows that are for training and for evaluation, as far as the two settings say so."""
    train, evaluation = slices.parse(settings.train_split), slices.parse(settings.eval_split)
    if settings.eval_split == slices.NONE and (settings.evaluate or settings.eval_steps):
        what = "leaves no rows to evaluate on"
        return [wrong("EVAL_SPLIT", settings.eval_split, what, "set EVALUATE=0 and EVAL_STEPS=0 too, or name a split")]
    return [shared_rows(settings, one, other) for one in train for other in evaluation if slices.overlap(one, other)]


def shared_rows(settings: Settings, train: slices.Slice, evaluation: slices.Slice) -> str:
    """Return the line for rows that are for training and for evaluation."""
    what = f"rows of {evaluation} are trained too, with TRAIN_SPLIT={settings.train_split or train}"
    split = train.split
    remedy = f"divide the split, as in TRAIN_SPLIT={split}[:90%] EVAL_SPLIT={split}[90%:], or name another"
    return wrong("EVAL_SPLIT", settings.eval_split, what, remedy)


def data_problems(settings: Settings) -> list[str]:
    """Return the lines for all data sets of a run."""
    if not (settings.dataset or settings.datasets):
        return [wrong("DATASET", "", "is empty", "name a file, a folder or a data set on the hub")]
    try:
        parts = mixture.parts_of(settings)
    except SettingsError as error:
        return error.problems
    found = [line for part in parts for line in name_problems("dataset", part.settings.dataset)]
    return found + list(dict.fromkeys(line for part in parts for line in split_problems(part.settings)))


def name_problems(name: str, value: str) -> list[str]:
    """Return the line for a MODEL_NAME or DATASET that is neither a path here nor a possible name on the hub.

    It is meant as a path if it begins like one, ends like a file, or if its first part is a folder here.
    """
    made, example, suffixes = {
        "model_name": (TINY, "Qwen/Qwen3-0.6B", MODEL_SUFFIXES),
        "dataset": (DEMO, "openai/gsm8k", (*DATA_SUFFIXES, *COMPRESSED_SUFFIXES)),
    }[name]
    if value == made or is_there(variables.expanded(value)):
        return []
    if name == "dataset" and (line := mixture.other_notation(value)):
        return [line]
    meant = as_meant(value)
    is_name = not meant.startswith((".", "~")) and HUB_NAME.fullmatch(meant) and "/" in meant
    if meant != value and (is_name or is_there(variables.expanded(meant))):
        return [wrong(name.upper(), value, "no such file or folder, and not a hub name", f"did you mean {meant}?")]
    first, slash, _ = value.partition("/")
    is_path = value.startswith((".", "/", "~")) or bool(slash and is_there(Path(first)))
    if is_path or value.lower().endswith(suffixes):
        what, remedy = (
            "no such file or folder" + variables.in_container(),
            f"check the path, or give a hub name such as {example}",
        )
    elif not HUB_NAME.fullmatch(value):
        what, remedy = "no such file or folder, and not a hub name", f"give a hub name such as {example}"
    elif not slash and difflib.get_close_matches(value.lower(), [made], cutoff=NEAR):
        what, remedy = "no such file or folder", f"did you mean {made}? (a hub name has an owner, as in {example})"
    else:
        return []
    return [wrong(name.upper(), value, what, remedy)]


def as_meant(value: str) -> str:
    """Return a name without what people copy along: quotes, spaces, a slash at its end, the address of a page."""
    value = value.strip().strip("'\"").strip()
    value = re.sub(r"^(https?://(www\.)?(huggingface\.co|hf\.co)/(datasets/)?|hf://(datasets/)?|file://)", "", value)
    return re.sub(r"/(tree|blob|resolve)/.*$", "", value).rstrip("/") or value


# Resuming


class Change(NamedTuple):
    """A setting whose value differs from an earlier start of the same run."""

    name: str  # as users type it
    now: object
    then: object


def changed(settings: Settings, before: Settings) -> list[Change]:
    """Return the changes to settings that decide what is trained.

    The global batch size is compared by its value, however it was set.
    """
    fixed = [name for name in Settings.model_fields if name not in marked(MAY_CHANGE)]
    sizes = Change("GLOBAL_BATCH_SIZE", settings.sequences_per_step, before.sequences_per_step)
    return [*compared(settings, before, fixed), *([sizes] if sizes.now != sizes.then else [])]


def adjusted(settings: Settings, before: Settings) -> list[Change]:
    """Return the changes to settings that a resumed run may change, if they say anything about the run."""
    unsaid = {*marked(NOT_OF_RUN), "global_batch_size"}  # `changed` compares that one by its value
    return compared(settings, before, [name for name in Settings.model_fields if name in marked(MAY_CHANGE) - unsaid])


def compared(settings: Settings, before: Settings, names: list[str]) -> list[Change]:
    """Return the changes to some settings."""
    pairs = [Change(name.upper(), getattr(settings, name), getattr(before, name)) for name in names]
    return [pair for pair in pairs if pair.now != pair.then]


def differences(settings: Settings, before: Settings) -> list[str]:
    """Return a line for every change that keeps a run from being resumed."""
    problems = []
    for name, now, then in changed(settings, before):
        if name == "DATASETS" and now and then:
            what = f"is not what the unfinished run {before.run_name} has ({mixture.changes(str(now), str(then))})"
            problems.append(
                wrong(name, mixture.title(settings), what, "undo that to resume, or FRESH=1 to start a new run")
            )
            continue
        to_resume = f"set GLOBAL_BATCH_SIZE={then} to resume" if name == "GLOBAL_BATCH_SIZE" else ""
        remedy = f"{to_resume or f'set it to {then} to resume'}, or FRESH=1 to start a new run"
        problems.append(wrong(name, now, f"the unfinished run {before.run_name} has {then}", remedy))
    return problems
