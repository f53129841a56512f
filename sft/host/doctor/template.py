"""The check of the model's chat template: what is found out about it before rows are prepared.

A program of the trainer finds that out. It imports transformers, which takes seconds: it works beside the other checks.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator

from sft import model_files
from sft.errors import shown
from sft.host.check import Check
from sft.host.plan import lookup
from sft.host.rows.visible import visible
from sft.run.records import TemplateFacts
from sft.run.typed_json import WrongType
from sft.settings.fields import TINY, Settings

NAME = "chat template"
TIMEOUT_S = 60  # after the other checks
REMEDY = "`make rows` shows rows as they are trained"


@contextlib.contextmanager
def started(settings: Settings) -> Iterator[subprocess.Popen[str] | None]:
    """Start finding out, if the model's tokenizer is on this machine; end it with the checks."""
    if not is_here(settings):
        yield None
        return
    process = subprocess.Popen(
        [sys.executable, "-m", "sft.trainer.data.show_rows", "--probe"],
        env=os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def is_here(settings: Settings) -> bool:
    """Tell whether the template can be looked at without a download; `tiny` is made with its data."""
    there = model_files.local_model(settings) is not None or lookup.in_cache(settings) is not None
    return settings.model_name != TINY and there and importlib.util.find_spec("transformers") is not None


def check(process: subprocess.Popen[str] | None) -> Check:
    """Return what was found out. Waits for it, TIMEOUT_S at most."""
    if process is None:
        return Check(NAME, "ok", "not looked at: `make rows` gets or makes the tokenizer that it needs")
    try:
        said, _ = process.communicate(timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return Check(NAME, "warning", f"nothing was found out within {TIMEOUT_S} s", REMEDY)
    return result((said.strip().splitlines() or [""])[-1], process.returncode)


def result(line: str, code: int) -> Check:
    """Return the check for the last line that the program printed, and its exit code."""
    try:
        content = json.loads(line)
        if isinstance(content, dict) and "error" in content:
            what, _, remedy = str(content["error"]).partition("; ")
            return Check(NAME, "failure", shown(what, 400), shown(remedy, 400))
        if isinstance(content, dict) and "texts" in content:
            return Check(NAME, "ok", "not needed, as the rows of DATASET are texts")
        return found(TemplateFacts.from_json(content))
    except (ValueError, WrongType):
        what = f"the program that looks at it ended with exit code {code}"
        return Check(NAME, "failure", what, f"{REMEDY}, or the reason")


def found(facts: TemplateFacts) -> Check:
    """Return the check for what was found out: every line of it is about something unusual, and nothing is wrong."""
    lines = [f"{facts.source}; answers end with {facts.end_mark}", *facts.said]
    return Check(NAME, "ok", visible("; ".join(lines), ""))
