"""Which files of a local data set are for training, which for evaluation, and which are not used.

The names decide, by the rules of Hugging Face's `datasets` (its module data_files), so that a folder is split as the
hub would split it: a word such as train or test, alone or between separators or digits, in the name of a folder or,
if no folder has one, of a file. What a data set says of itself comes before (sft/rows/layouts.py).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from sft.errors import SettingsError, shown, wrong
from sft.rows import file_checks, layouts
from sft.rows.files import KINDS, json_files, kind
from sft.rows.selections import DataFile, Selection, selected
from sft.rows.split_names import PATTERNS, WORDS, is_held_out
from sft.settings.fields import Settings

SHARD = re.compile(r"data/([^/]*)-\d{5}-of-\d{5}[^/]*\.[^/]*")  # how the hub names the files of a split
ABOUT = re.compile(r"(README|LICENSE|LICENCE|CITATION|NOTICE|CHANGELOG|Makefile)\b.*|.*\.(md|rst|py|sh)", re.IGNORECASE)
OWN_FOLDERS = re.compile(r"prepared|hub|demo-[0-9a-f]{12}")  # of DATA_PATH: no data of the user's
PACKED = (".zip", ".tar", ".tar.gz", ".tgz", ".xz", ".bz2", ".lz4")  # that `datasets` reads
FEW = 5  # files that a line names


@dataclass
class LocalFiles:
    """The files of a local data set."""

    selections: dict[str, list[Selection]]  # "train", and "validation" for evaluation, whatever the splits are called
    unused: dict[str, str] = field(default_factory=dict)  # reasons by name

    @property
    def train(self) -> list[DataFile]:
        return self.files_for("train")

    @property
    def validation(self) -> list[DataFile]:
        return self.files_for("validation")

    def files_for(self, purpose: str) -> list[DataFile]:
        """Return the files that are for training or for evaluation, each once."""
        return list(dict.fromkeys(file for selection in self.selections[purpose] for file in selection.files))

    @property
    def used(self) -> list[DataFile]:
        return list(dict.fromkeys([*self.train, *self.validation]))

    def by_split(self) -> dict[str, list[DataFile]]:
        """Return the files as {"train": [...], "validation": [...]}."""
        return {"train": self.train, "validation": self.validation}

    def lines(self) -> list[str]:
        """Say which file is for what, on a line for each purpose."""
        evaluation = f"{self.said('validation')} for evaluation"
        used = f"{self.said('train')} for training; "
        lines = [used + (evaluation if self.validation else "no file for evaluation")]
        reasons = dict.fromkeys(self.unused.values())
        return lines + [
            f"not used ({reason}): {listed(name for name, why in self.unused.items() if why == reason)}"
            for reason in reasons
        ]

    def said(self, purpose: str) -> str:
        """Return the files for a purpose, and the rows of them if they are not all."""
        named = listed(file.name for file in self.files_for(purpose))
        asked = [selection.slice for selection in self.selections[purpose]]
        return named if all(part.is_whole for part in asked) else f"{'+'.join(map(str, asked))} of {named}"


def local_files(path: Path, settings: Settings) -> LocalFiles:
    """Return what each file of a local data set is for.

    Raises SettingsError if there is nothing to train on, or if a name can mean two things.
    """
    if not path.is_dir():
        return chosen(whole_or_parts({"train": [DataFile(path, path.name)]}), {}, settings, {})
    names = sorted(walk(path, settings.data_path))
    if gone := [name for name in names if kind(path / name) and not (path / name).exists()]:
        what = f"{gone[0]} in it is a link to a file that does not exist"
        raise SettingsError([wrong("DATASET", path, what, "put the file there, or remove the link")])
    return files_of(path, names, settings, lambda name: DataFile(path / name, name))


def files_of(root: Path, names: list[str], settings: Settings, file: Callable[[str], DataFile]) -> LocalFiles:
    """Return what each of the files that a data set has is for, as `local_files` does.

    The files that say what the others are for (README.md and the like) are in `root`; `file` makes one of a name.
    """
    left_out = layouts.without_rows(root, names, settings)
    data = [name for name in names if kind(root / name) and name not in left_out]
    file_checks.check_media(names, data, settings)
    said = layouts.declared(root, data, settings)
    if not said.by_split:  # the names decide
        left_out |= file_checks.copies(data)
        data = [name for name in data if name not in left_out]
    inside = f"{said.folder}/" if said.folder else ""
    by_split = said.by_split or named([name for name in data if name.startswith(inside)], settings)
    files = {split: [file(name) for name in found] for split, found in by_split.items()}
    used = {name for found in by_split.values() for name in found}
    others = [name for name in names if name not in left_out and name.lower().endswith(PACKED)]
    if others and not any(by_split.values()):
        what = f"has no file that is read here ({KINDS}), only such as {others[0]}"
        raise layouts.NotReadHere([wrong("DATASET", settings.dataset, what, "unpack it, and give the folder")])
    why = "the data set does not name it" if said.by_split or said.folder else "its name has no word for a split"
    unused = {name: reason for name, reason in left_out.items() if reason}
    unused |= {
        name: "not a kind of file that is read"
        for name in names
        if name not in {*data, *left_out, *used} and not ABOUT.fullmatch(Path(name).name)
    }
    unused |= {name: why for name in data if name not in used}
    return chosen(whole_or_parts(files), unused, settings, said.missing)


def whole_or_parts(files: dict[str, list[DataFile]]) -> dict[str, list[DataFile]]:
    """Return files by split; the parts instead, if the only file has all splits in it."""
    found = [file for several in files.values() for file in several]
    if len(found) != 1 or list(files) != ["train"]:
        return files
    (file,) = found
    if kind(file.path) == ".json":
        file.fetch()
    parts = json_files.parts(file.path) if kind(file.path) == ".json" and file.path.is_file() else []
    return {part: [replace(file, name=f"{file.name}[{part}]", part=part)] for part in parts} or files


def walk(root: Path, data_path: Path) -> Iterator[str]:
    """Yield the names of all files in a folder and its subfolders, links followed, without those that are hidden.

    Folders that the project keeps in `data_path` are no data of the user's.
    """
    seen = set()
    own = data_path.resolve()
    for folder, folders, files in os.walk(root, followlinks=True):
        here = Path(folder)
        real = here.resolve()
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        hidden = [name for name in folders if name.startswith((".", "__"))]
        hidden += [name for name in folders if real == own and OWN_FOLDERS.fullmatch(name)]
        folders[:] = sorted(set(folders) - set(hidden))
        yield from ((here / name).relative_to(root).as_posix() for name in files if not name.startswith("."))


def named(names: list[str], settings: Settings) -> dict[str, list[str]]:
    """Return the files of each split by their names."""
    shards: dict[str, list[str]] = {}
    for name in names:
        if found := SHARD.fullmatch(name):
            shards.setdefault(found[1], []).append(name)
    if shards:
        return shards
    by_folder = sorted_out(names, settings, lambda name: name.split("/")[:-1])
    rest = [name for name in names if all(name not in found for found in by_folder.values())]
    if by_folder.get("train"):
        return by_folder
    by_name = sorted_out(rest, settings, lambda name: name.split("/")[-1:])
    rest = [name for name in rest if all(name not in found for found in by_name.values())]
    both = {split: by_folder.get(split, []) + by_name.get(split, []) for split in WORDS}
    both["train"] = both["train"] or rest
    return {split: found for split, found in both.items() if found}


def sorted_out(names: list[str], settings: Settings, words: Callable[[str], list[str]]) -> dict[str, list[str]]:
    """Return files by the splits that these parts of their names name. Raises SettingsError for one that names two."""
    found: dict[str, list[str]] = {}
    for name in names:
        splits = [split for split, pattern in PATTERNS.items() if any(pattern.search(word) for word in words(name))]
        if "train" in splits and len(splits) > 1:
            what = f"{name} names two splits, {' and '.join(splits)}"
            raise SettingsError([wrong("DATASET", settings.dataset, what, "rename it, or give the file to train on")])
        if splits:
            found.setdefault(splits[0], []).append(name)
    return found


def chosen(
    files: dict[str, list[DataFile]], unused: dict[str, str], settings: Settings, missing: dict[str, str]
) -> LocalFiles:
    """Return the rows that are used, of all that there are. `missing`: patterns of splits that no file matches."""
    found = selected(files, settings)
    for selection in (part for several in found.values() for part in several):
        if pattern := missing.get(selection.slice.split):
            what = f"its README.md names {pattern}, but there is no such data file"
            raise SettingsError([wrong("DATASET", settings.dataset, what, "download it, or name the file to train on")])
    used = {purpose: [selection.slice.split for selection in several] for purpose, several in found.items()}
    if not any(selection.files for selection in found["train"]):
        others = "; ".join(f"{split}: {listed(file.name for file in found)}" for split, found in files.items())
        what = f"holds no training file ({KINDS})" + (f", only {others}" if others else "")
        raise SettingsError([wrong("DATASET", settings.dataset, what, "add train.jsonl, or give the file to train on")])
    for split, several in files.items():
        if split not in used["train"] + used["validation"]:
            evaluation = f"evaluation is on the {', '.join(used['validation'])} files"
            why = evaluation if is_held_out(split) and used["validation"] else f"split {split}"
            unused |= {file.name: why for file in several}
    return LocalFiles(found, unused)


def listed(names: Iterable[str]) -> str:
    """Return file names on a line, many of them shortened."""
    found = list(names)
    more = f" and {len(found) - FEW} more" if len(found) > FEW else ""
    return ", ".join(shown(name) for name in found[:FEW]) + more
