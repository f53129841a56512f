"""A model loaded by transformers, and what its files lack: such weights are random, and transformers only logs it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import transformers
from transformers import modeling_utils
from transformers.utils.loading_report import log_state_dict_report

from sft.trainer.model import published

SHOWN = 3  # names of weights in a message
OF_AN_ADAPTER = re.compile(r"\.(lora_\w+|base_layer)\.")  # in names that peft gives to weights
AGAIN = "fetch the model again, with the config.json that belongs to its weights"


def from_pretrained(
    path: Path, config: transformers.PreTrainedConfig | None = None, **options: Any
) -> tuple[Any, dict[str, Any]]:
    """Load the model in `path` as `published` does, and return what transformers says of that too.

    It is `{}` for a model whose own code loads it by other means.
    """
    # transformers' output_loading_info makes a pair of the result, which a model's own from_pretrained does not expect.
    found: list[tuple[Any, dict[str, Any]]] = []  # more than one, if a part of the model is loaded by itself
    library: Any = modeling_utils

    def noted(**given: Any) -> None:
        found.append((given["model"], given["loading_info"].to_dict()))
        log_state_dict_report(**given)

    library.log_state_dict_report = noted
    try:
        model = published.from_pretrained(path, config, ignore_mismatched_sizes=True, **options)
    finally:
        library.log_state_dict_report = log_state_dict_report
    return model, next((info for loaded, info in found if loaded is model), {})


def misfit(model: Any, info: dict[str, Any]) -> tuple[str, str] | None:
    """Return why files do not hold a model's weights, and what to do, or None."""
    unexpected = sorted(info.get("unexpected_keys") or ())
    if unmerged := [name for name in unexpected if OF_AN_ADAPTER.search(name)]:
        what = f"its files hold an adapter that was not merged, {in_words(unmerged)}"
        return what, "merge it (merge_and_unload of peft), and give that folder"
    if others := sorted(info.get("mismatched_keys") or ()):
        name, stored, expected = others[0]
        what = f"its files hold {name} as {list(stored)}, and its config.json says {list(expected)}"
        return f"{what} (so do {len(others) - 1} more)" if len(others) > 1 else what, AGAIN
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    if missing := sorted(parameters & set(info.get("missing_keys") or ())):
        what = f"its files lack {in_words(missing)} of {type(model).__name__}, which would be random"
        if prefix := prefix_of(missing, unexpected):
            return what, f"take {prefix} off the names in its files: {prefix}{missing[0]} is one of them"
        return f"{what}, and hold {in_words(unexpected)} that it does not have" if unexpected else what, AGAIN
    return None


def prefix_of(missing: list[str], unexpected: list[str]) -> str:
    """Return what stands before the names of all missing weights in the files, as other programs leave it, or ""."""
    found, first = set(unexpected), f".{missing[0]}"
    prefixes = {name.removesuffix(first[1:]) for name in unexpected if name.endswith(first)}
    return next((prefix for prefix in sorted(prefixes) if found.issuperset(prefix + name for name in missing)), "")


def in_words(names: list[str]) -> str:
    """Return the number of weights and the first names."""
    more = ", …" if len(names) > SHOWN else ""
    return f"{len(names)} weight{'s' * (len(names) > 1)} ({', '.join(names[:SHOWN])}{more})"
