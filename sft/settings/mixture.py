"""The data sets of a run: one, a list of them with shares in DATASET, or those that DATASETS' file describes.

Each of them gets settings of its own, in which DATASET is that data set alone, so that everything that reads a data set
works on each of them unchanged.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sft.errors import SettingsError, shown, wrong
from sft.settings import variables
from sft.settings.fields import Settings
from sft.settings.shares import ALL, Share

FEW = 5  # names in a title
SHARE = "share"  # the key of an entry that is no setting


@dataclass(frozen=True)
class DataPart:
    """One data set of a run."""

    name: str  # DATASET's, with a number if there are several of it
    settings: Settings  # of this data set alone
    share: Share = ALL


def parts_of(settings: Settings) -> tuple[DataPart, ...]:
    """Return the data sets of a run in their order: nearly always one. Raises SettingsError."""
    if settings.datasets:
        entries = json.loads(settings.datasets)
    elif is_list(settings.dataset):
        entries = entries_of(settings.dataset)
    else:
        return (DataPart(settings.dataset, settings),)
    found = [part_of(entry, settings) for entry in entries]
    if problems := twice(found):
        raise SettingsError(problems)
    several = Counter(part.settings.dataset for part in found)
    numbers = Counter[str]()
    named = []
    for part in found:
        name = part.settings.dataset
        numbers[name] += 1
        named.append(DataPart(f"{name} ({numbers[name]})" if several[name] > 1 else name, part.settings, part.share))
    return tuple(named)


def is_mixture(settings: Settings) -> bool:
    """Tell whether there are several data sets, or one of which only a share is trained. Raises SettingsError."""
    parts = parts_of(settings)
    return len(parts) > 1 or not parts[0].share.is_all


def title(settings: Settings) -> str:
    """Return what a line about a run's data calls it: the data sets with their shares. Raises SettingsError."""
    parts = parts_of(settings)
    names = [part.name if part.share.is_all else f"{part.name}*{part.share}" for part in parts[:FEW]]
    return ", ".join(names) + (f" and {len(parts) - FEW} more" if len(parts) > FEW else "")


def part_of(entry: Mapping[str, str], settings: Settings) -> DataPart:
    """Return one data set with the settings that an entry gives it."""
    values = {name: value for name, value in entry.items() if name != SHARE}
    share = Share.parse(entry[SHARE]) if SHARE in entry else ALL
    return DataPart(values["dataset"], Settings.of(settings, datasets="", **values), share)


def twice(parts: list[DataPart]) -> list[str]:
    """Return a line for every data set that is named twice with the same settings."""
    first: dict[tuple[str, str], str] = {}
    problems = []
    for name, settings in ((part.settings.dataset, part.settings) for part in parts):
        path = variables.expanded(name)
        place = str(path.resolve() if variables.is_there(path) else path)
        key = place, str(settings.of_part() | {"dataset": ""})
        if key in first:
            also = f", as {first[key]} before" if first[key] != name else ""
            problems.append(wrong("DATASET", name, f"is named twice{also}", f"write {name}*2x to train each row twice"))
        first.setdefault(key, name)
    return problems


def changes(now: str, then: str) -> str:
    """Say what differs between two texts of DATASETS in settings, as in "[2].share: 0.5, was 0.25"."""
    entries, before = json.loads(now), json.loads(then)
    if len(entries) != len(before):
        return f"{len(entries)} data sets, it has {len(before)}"
    return ", ".join(
        f"[{number}].{key}: {entry.get(key, 'not set')}, was {old.get(key, 'not set')}"
        for number, (entry, old) in enumerate(zip(entries, before, strict=True), 1)
        for key in sorted({*entry, *old})
        if entry.get(key) != old.get(key)
    )


def with_commits(settings: Settings, commits: Mapping[str, str]) -> Settings:
    """Return settings in which data sets on the hub have these commits, by their names, as their revisions."""
    parts = parts_of(settings)
    if not any(part.name in commits for part in parts):
        return settings
    if not is_mixture(settings):
        return Settings.of(settings, dataset_revision=commits[parts[0].name])
    entries = []
    for part in parts:
        values = {name: str(value) for name, value in part.settings.of_part().items()}
        if part.name in commits:
            values["dataset_revision"] = commits[part.name]
        entries.append(values if part.share.is_all else values | {SHARE: str(part.share)})
    return Settings.of(settings, dataset="", datasets=as_text(entries))


def as_text(entries: Sequence[Mapping[str, str]]) -> str:
    """Return entries as DATASETS holds them in a run's settings."""
    return json.dumps(entries, sort_keys=True)


# DATASET with several names


def is_list(text: str) -> bool:
    """Tell whether DATASET names several data sets or a share. A path that is there is a path, whatever its name."""
    return ("," in text or "*" in text) and not variables.is_there(variables.expanded(text))


def entries_of(text: str) -> list[dict[str, str]]:
    """Return the data sets in a list such as `a.jsonl,b.jsonl*0.5`, each with its share. Raises SettingsError."""
    found: list[dict[str, str]] = []
    problems: list[str] = []
    words = text.split(",")
    while words:
        # A name with a comma is one name if it is there.
        ends = [end for end in range(len(words), 1, -1) if is_name(",".join(words[:end]))]
        end = ends[0] if ends else 1
        word, words = ",".join(words[:end]).strip(), words[end:]
        name, share = split_share(word)
        try:
            found.append({"dataset": name} | ({} if share is None else {SHARE: str(Share.parse(share))}))
        except ValueError as error:
            what, _, remedy = f"the share {shown(share, 40)!r} {error}".partition("; ")
            if not re.match(r"\.?\d", str(share)):
                remedy += "; patterns are not read: name the folder, which has all its files, or one file"
            problems.append(wrong("DATASET", word, what, remedy))
        if not word:
            problems.append(wrong("DATASET", text, "has a comma without a name beside it", "remove it, or add a name"))
        elif not name:
            remedy = "name a file, a folder or a data set on the hub"
            problems.append(wrong("DATASET", word, "has no name before the share", remedy))
    if problems:
        raise SettingsError(problems)
    return found


def other_notation(text: str) -> str:
    """Return the line for data sets or a share as other trainers write them; "" for any other text."""
    names = re.split(r"[\s;]+", text.strip())
    if len(names) > 1 and all(variables.is_there(variables.expanded(split_share(name)[0])) for name in names):
        return wrong("DATASET", text, "no such file or folder", f"separate data sets by commas: {','.join(names)}")
    if found := re.fullmatch(r"(.+?)[#:@](\d[\d.]*)", text):
        what = "no such file or folder, and not a hub name"
        return wrong("DATASET", text, what, f"write a share behind *, as in {found[1]}*{found[2]}")
    return ""


def is_name(text: str) -> bool:
    """Tell whether a text with commas is the path of one data set that is there, with or without a share."""
    name, _ = split_share(text.strip())
    return "," in name and variables.is_there(variables.expanded(name))


def split_share(word: str) -> tuple[str, str | None]:
    """Return a name and the text of its share; None without one. A path that is there is a name alone."""
    if "*" not in word or variables.is_there(variables.expanded(word)):
        return word, None
    name, _, share = word.rpartition("*")
    return name.strip(), share.strip()
