"""Where rows come from: local files (sft/rows/files) or the hub (hub.py); each row comes with its place, for errors."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from pathlib import Path

from sft.rows import forms
from sft.rows.row import ReadRow
from sft.rows.selections import check_apart
from sft.rows.splits import LocalFiles, local_files
from sft.run import files
from sft.settings.fields import DEMO, Settings
from sft.settings.kinds import RowKind
from sft.trainer.data import demo, hub
from sft.trainer.data.hashes import file_hash

VALIDATION_SHARE = 0.05  # of the rows of a data set without validation rows
MOST_VALIDATION_ROWS = 500
FIRST_ROWS = 1000  # at least one of them holds something


def splits(settings: Settings) -> tuple[Iterator[ReadRow], Iterator[ReadRow]]:
    """Return readers of the training and the validation rows.

    If a data set has no validation rows, one row in twenty becomes one, drawn by SEED, MOST_VALIDATION_ROWS at most. To
    know their number, all rows are read once before: they are never in memory together.
    """
    source = readers(settings)
    if settings.eval_split:
        return source["train"], source["validation"]
    first = next(source["validation"], None)
    if first is not None:
        return source["train"], itertools.chain([first], source["validation"])
    rows = sum(1 for _ in source["train"])
    number = min(MOST_VALIDATION_ROWS, max(int(rows > 1), int(rows * VALIDATION_SHARE)))
    chosen = set(random.Random(settings.seed).sample(range(rows), number))
    training = (row for i, row in enumerate(readers(settings)["train"]) if i not in chosen)
    validation = (row for i, row in enumerate(readers(settings)["train"]) if i in chosen)
    return training, validation


def kind(settings: Settings) -> RowKind:
    """Return what the rows of a data set hold, as its first training rows say."""
    return forms.kind_of(itertools.islice(readers(settings)["train"], FIRST_ROWS), settings) or "conversations"


def readers(settings: Settings) -> dict[str, Iterator[ReadRow]]:
    """Return readers of the rows that the data set itself has, by purpose: `train`, and `validation`, maybe empty."""
    found = data_files(settings).selections
    check_apart(found, settings)
    return {
        purpose: (row for selection in selections for row in selection.read()) for purpose, selections in found.items()
    }


def data_files(settings: Settings) -> LocalFiles:
    """Return what each file of the data set is for; those on the hub are downloaded, as far as they are needed."""
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
