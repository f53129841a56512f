"""DATASETS=file.toml: several data sets, each with settings of its own.

    [[datasets]]
    dataset = "data/chats.jsonl"
    share = 0.5

    [[datasets]]
    dataset = "org/questions"
    dataset_config = "hard"
    columns = { ask = "prompt", reply = "response" }

The settings of a run hold what the file says, not its name: no container needs the file, and a change of it is seen
when the run is resumed.
"""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Iterator

from pydantic import ValidationError

from sft.errors import SettingsError, shown, wrong
from sft.settings import mixture, rules, variables
from sft.settings.explain import explain
from sft.settings.fields import Settings, marked
from sft.settings.kinds import OF_PART
from sft.settings.mixture import SHARE
from sft.settings.shares import ALL, Share

TABLE = "datasets"
# What other trainers call the keys, if it is not similar enough to be guessed.
ELSEWHERE = {
    "path": "dataset", "data": "dataset", "file": "dataset", "hf_hub_url": "dataset", "name": "dataset_config",
    "config": "dataset_config", "subset": "dataset_config", "revision": "dataset_revision", "weight": SHARE,
    "split": "train_split", "num_samples": SHARE, "fraction": SHARE, "system": "system_prompt",
}  # fmt: skip


def read(name: str) -> str:
    """Return the text that DATASETS has in a run's settings: the content of the file that it names, checked.

    `name` may be that text itself: of a frozen run. Raises SettingsError with a line for everything that is wrong.
    """
    content = content_of(name)
    place = "the frozen settings" if name.startswith("[") else name
    entries = content if isinstance(content, list) else []
    if isinstance(content, dict):
        others = [key for key in content if key != TABLE]
        if others:
            near = f"did you mean {TABLE}?" if difflib.get_close_matches(others[0], [TABLE]) else f"use [[{TABLE}]]"
            raise SettingsError([wrong("DATASETS", f"{place}: {shown(others[0])}", "is not a key of the file", near)])
        entries = content.get(TABLE, [])
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        what = "describes no data set"
        raise SettingsError(
            [wrong("DATASETS", place, what, f'write [[{TABLE}]] and below it dataset = "data/a.jsonl"')]
        )
    found: list[dict[str, str]] = []
    problems: list[str] = []
    for number, entry in enumerate(entries, 1):
        said = list(problems_of(entry))
        problems += [f"DATASETS={shown(place)}: [{number}].{line}" for line in said]
        if not said:
            found.append({name: str(value) for name, value in plain(entry).items()})
    if problems:
        raise SettingsError(problems)
    return mixture.as_text(found)


def content_of(name: str) -> object:
    """Return what the file holds, or the text itself. Raises SettingsError."""
    try:
        if name.startswith("["):
            return json.loads(name)
        text = variables.expanded(name).read_text(encoding="utf-8-sig")
        return tomllib.loads(text)
    except UnicodeDecodeError:
        what, remedy = "is not UTF-8 text", "save it as UTF-8"
    except (tomllib.TOMLDecodeError, RecursionError, json.JSONDecodeError) as error:
        what, remedy = f"is not valid TOML ({error})", f"write [[{TABLE}]] before the keys of each data set"
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a possible path"
        what, remedy = f"cannot be read ({reason})" + variables.in_container(), "check the path"
    raise SettingsError([wrong("DATASETS", name, what, remedy)])


def problems_of(entry: dict[str, object]) -> Iterator[str]:
    """Yield what is wrong with one data set, as in "colums: is not a key; did you mean columns?"."""
    keys = marked(OF_PART)
    for key in entry:
        if key not in keys and key != SHARE:
            usual = ELSEWHERE.get(key.lower())
            near = [usual] if usual else difflib.get_close_matches(key.lower(), [*keys, SHARE], n=1)
            remedy = f"did you mean {near[0]}?" if near else f"use {', '.join(sorted(keys))} or {SHARE}"
            yield f"{shown(key)}: is not a key of a data set; {remedy}"
    if "dataset" not in entry:
        yield "dataset: is missing; name a file, a folder or a data set on the hub"
    values = {name: value for name, value in plain(entry).items() if name in keys}
    try:
        Settings.model_validate(values)
    except ValidationError as error:
        for item in error.errors():
            line = explain(item["loc"], item["type"], item["input"], item["msg"], item.get("ctx", {}))
            yield str(item["loc"][0]) + line[len(str(item["loc"][0])) :]
    name = entry.get("dataset")
    if isinstance(name, str):
        yield from ("dataset" + line[len("dataset") :] for line in rules.name_problems("dataset", name))
    try:
        Share.parse(str(plain(entry).get(SHARE, ALL)))
    except ValueError as error:
        yield f"{SHARE}={shown(entry[SHARE])}: {error}"


def plain(entry: dict[str, object]) -> dict[str, object]:
    """Return an entry as settings have it: roles of columns as JSON text, and a share as text."""
    found = dict(entry)
    if isinstance(found.get("columns"), dict):
        found["columns"] = json.dumps(found["columns"], default=str, sort_keys=True)
    if SHARE in found and not isinstance(found[SHARE], bool):
        found[SHARE] = str(found[SHARE]).removeprefix("*")
    return found
