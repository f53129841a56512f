"""Where rows come from: local files (sft/rows/files) or the hub (hub.py); each row comes with its place, for errors."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sft.rows import forms, own_split
from sft.rows.row import ReadRow
from sft.rows.row_kind import RowKind, common_kind
from sft.rows.selections import check_apart
from sft.rows.splits import LocalFiles, local_files
from sft.run import files
from sft.settings.fields import DEMO, Settings
from sft.settings.mixture import DataPart, parts_of
from sft.trainer.data import demo, hub
from sft.trainer.data.hashes import file_hash

VALIDATION_SHARE = 0.05  # of the rows of a data set without validation rows
MOST_VALIDATION_ROWS = 500
FIRST_ROWS = 1000  # at least one of them holds something


@dataclass(frozen=True)
class PartRows:
    """The rows of one data set of a run, read as they are needed."""

    part: DataPart
    train: Iterator[ReadRow]  # those that its share takes, each once
    validation: Iterator[ReadRow]
    there: int | None = None  # training rows that it has; None: all are taken, and they were not counted


def splits(settings: Settings) -> tuple[Iterator[ReadRow], Iterator[ReadRow]]:
    """Return readers of the training and the validation rows of all data sets of a run, in order, each row once."""
    found = [rows_of(part) for part in parts_of(settings)]
    train = itertools.chain.from_iterable(rows.train for rows in found)
    return train, itertools.chain.from_iterable(rows.validation for rows in found)


def rows_of(part: DataPart) -> PartRows:
    """Return readers of the training rows that a data set's share takes, and of its validation rows.

    If it has no validation rows, one row in twenty becomes one, drawn by SEED, MOST_VALIDATION_ROWS at most; the share
    is drawn from the others. To know their number, all rows are read once before: they are never in memory together.
    """
    settings, share = part.settings, part.share
    source = readers(settings)
    first = next(source["validation"], None)
    if first is not None or settings.eval_split:
        validation: Iterator[ReadRow] = itertools.chain([first] if first else [], source["validation"])
        if share.is_all:
            return PartRows(part, source["train"], validation)
        held_out = set[int]()
    rows = sum(1 for _ in source["train"])
    if first is None and not settings.eval_split:
        number = min(MOST_VALIDATION_ROWS, max(int(rows > 1), int(rows * VALIDATION_SHARE)))
        held_out = set(random.Random(settings.seed).sample(range(rows), number))
        validation = (row for i, row in enumerate(readers(settings)["train"]) if i in held_out)
    left_out = held_out if share.is_all else held_out | left_by_share(part, sorted(set(range(rows)) - held_out))
    train = (row for i, row in enumerate(readers(settings)["train"]) if i not in left_out)
    return PartRows(part, train, validation, rows - len(held_out))


def left_by_share(part: DataPart, rows: list[int]) -> set[int]:
    """Return those of a data set's `rows` that its share leaves out, drawn by SEED.

    A larger share has all rows of a smaller one.
    """
    taken = part.share.taken(len(rows))
    if taken == len(rows):
        return set()
    random.Random(part.settings.seed).shuffle(rows)
    return set(rows[taken:])


def kind(settings: Settings) -> RowKind:
    """Return what the rows of a run's data sets hold, as their first training rows say: texts, if all of them do."""
    first = ((itertools.islice(readers(part.settings)["train"], FIRST_ROWS), part) for part in parts_of(settings))
    return common_kind([forms.kind_of(rows, part.settings) or "conversations" for rows, part in first])


def readers(settings: Settings) -> dict[str, Iterator[ReadRow]]:
    """Return readers of the rows that one data set itself has, by purpose: `train`, and `validation`, maybe empty."""
    found = data_files(settings).selections
    check_apart(found, settings)
    return {
        purpose: (
            row for selection in selections for row in own_split.checked(selection.read(), purpose, selection, settings)
        )
        for purpose, selections in found.items()
    }


def data_files(settings: Settings) -> LocalFiles:
    """Return what each file of one data set is for; those on the hub are downloaded, as far as they are needed."""
    local = dataset_folder(settings)
    return local_files(local, settings) if local else hub.fetch(settings)


def dataset_folder(settings: Settings) -> Path | None:
    """Return the local file or folder that DATASET names, or None for a data set on the hub. Writes the demo's first.

    The demo's folder has the hash of its code in its name: other code makes other rows.
    """
    if settings.dataset == DEMO:
        folder = settings.data_path / f"demo-{file_hash(Path(demo.__file__))[:12]}"
        if not folder.is_dir():
            with files.whole_folder(folder, Path.is_dir) as temporary:
                demo.write(temporary)
        return folder
    path = Path(settings.dataset).expanduser()
    return path if path.exists() else None
