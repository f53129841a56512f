"""Data sets on the hub: the files that the settings ask for, downloaded into DATA_PATH/hub and read like local ones."""

from __future__ import annotations

import functools
import glob
import itertools
import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field

from sft.errors import DataError, SettingsError, wrong
from sft.hub.problems import explained
from sft.hub.repository import Repository
from sft.rows.forms import kinds
from sft.rows.forms.columns import Columns
from sft.rows.layouts import NotReadHere
from sft.rows.look import check_columns
from sft.rows.row import ReadRow
from sft.rows.selections import DataFile
from sft.rows.splits import LocalFiles, files_of, walk
from sft.run import files
from sft.settings.fields import Settings
from sft.trainer.data import hub_library
from sft.trainer.hub.download import download

ABOUT = ["README.md", "*dataset_dict.json", "*state.json"]  # files that say what the others are for
CONVERTED = "refs/convert/parquet"  # the branch to which the hub has converted data sets of other kinds
COLUMN_ROWS = 100  # at least one of them must have the columns
LARGE_BYTES = 2 * 2**30  # a download that is announced


@dataclass(frozen=True)
class HubFile(DataFile):
    """A file of a data set on the hub. Errors call it by its name there."""

    repository: Repository = field(kw_only=True)

    def fetch(self) -> None:
        """Download it, unless it is there."""
        if not self.path.is_file():
            download(self.repository, [glob.escape(self.name)])

    def read(self) -> Iterator[ReadRow]:
        self.fetch()
        name = f"{self.repository.name}/{self.name}"
        for where, row in super().read():
            there = where.replace(str(self.path), name)
            yield there, DataError(str(row).replace(str(self.path), name)) if isinstance(row, DataError) else row


def find(settings: Settings) -> LocalFiles:
    """Return what each file of a data set on the hub is for; it is downloaded when it is read. Raises SettingsError.

    One that is not read here is loaded whole, by the library `datasets`.
    """
    repository = pinned(Repository.of_dataset(settings))
    sizes = listing(repository)
    check_kind(repository, list(sizes))

    def file(name: str) -> HubFile:
        return HubFile(repository.snapshot / name, name, repository=repository)

    names = [name for name in sorted(sizes) if not any(part.startswith((".", "__")) for part in name.split("/"))]
    try:
        return files_of(repository.snapshot, names, settings, file)
    except NotReadHere:
        needed_bytes([name for name in names if not (repository.snapshot / name).is_file()], repository)
        return hub_library.load(repository, settings)


def commit(settings: Settings) -> str:
    """Return the commit that DATASET_REVISION stands for, from the first time that this process asked."""
    return pinned(Repository.of_dataset(settings)).revision


@functools.cache
def pinned(repository: Repository) -> Repository:
    """Return the data set at the commit of its revision, so that a branch that moves cannot mix two versions."""
    root = download(repository, ABOUT)
    return Repository(repository.kind, repository.name, root.name, repository.cache, repository.token)


def listing(repository: Repository) -> dict[str, int]:
    """Return the sizes of all files of a commit, which are kept for when the hub cannot be reached."""
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    kept = repository.folder / "listings" / f"{repository.revision}.json"
    if kept.is_file():
        return dict(json.loads(kept.read_text()))
    api = HfApi(token=repository.token or None)
    try:
        entries = api.list_repo_tree(
            repository.name, recursive=True, revision=repository.revision, repo_type=repository.kind
        )
        sizes = {entry.path: entry.size for entry in entries if isinstance(entry, RepoFile)}
    except Exception as error:  # explained raises again what is not about the hub
        names = walk(repository.snapshot, repository.cache)
        there = {name: (repository.snapshot / name).stat().st_size for name in names}
        if len(there) <= len(ABOUT):
            raise explained(error, repository) from None
        return there  # from the user's Hugging Face cache
    kept.parent.mkdir(exist_ok=True)
    files.write_json(kept, sizes)
    return sizes


def check_kind(repository: Repository, names: list[str]) -> None:
    """Raise SettingsError for a data set that is a Python script: what its files mean, only the script knows."""
    script = f"{repository.name.rpartition('/')[2]}.py"
    if script in names:
        what = f"is a Python script ({script}), which is not run"
        raise repository.wrong(
            what, f"set DATASET_REVISION={CONVERTED} for the hub's copy without one, or take another"
        )


def fetch(settings: Settings) -> LocalFiles:
    """Find the files, and download those of which every row is needed or has to be counted.

    Those of a slice such as train[:1000] come one by one when it is read, until it ends. Raises SettingsError.
    """
    found = find(settings)
    if names := missing(found):
        repository = pinned(Repository.of_dataset(settings))
        if needed_bytes(names, repository) > LARGE_BYTES:
            print(f"downloading {needed_bytes(names, repository) / 1e9:.1f} GB of {repository.name}", file=sys.stderr)
        download(repository, [glob.escape(name) for name in names])
    return found


def missing(found: LocalFiles) -> list[str]:
    """Return the files that are not here yet, of those of which every row is needed or has to be counted."""
    selections = [selection for several in found.selections.values() for selection in several]
    whole = [part for part in selections if part.slice.stop is None or part.slice.needs_count]
    return list(dict.fromkeys(file.name for part in whole for file in part.files if not file.path.is_file()))


def needed_bytes(names: list[str], repository: Repository) -> int:
    """Return the size of files of a data set. Raises SettingsError if the disk has no room for them."""
    sizes = listing(repository)
    needed, free = sum(sizes.get(name, 0) for name in names), shutil.disk_usage(repository.cache).free
    if needed > free:
        what = f"{repository.name} needs {needed / 1e9:.1f} GB, but only {free / 1e9:.1f} GB are free"
        remedy = "choose another disk, or fewer rows, as in TRAIN_SPLIT=train[:1000]"
        raise SettingsError([wrong("DATA_PATH", repository.cache.parent, what, remedy)])
    return needed


def check(settings: Settings) -> None:
    """Check the first rows of a data set from the hub.

    Raises SettingsError if it cannot be loaded, or lacks the columns, and DataError for preferences and pictures.
    """
    found = find(settings)
    needed_bytes(missing(found), pinned(Repository.of_dataset(settings)))
    rows = (row for selection in found.selections["train"] for row in selection.read())
    first = [(where, row) for where, row in itertools.islice(rows, COLUMN_ROWS) if isinstance(row, dict)]
    for where, row in first:
        if problem := kinds.problem(Columns.of(row, where, settings)):
            raise problem
    check_columns([row for _, row in first], settings)
