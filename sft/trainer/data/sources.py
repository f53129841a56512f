"""Where rows come from: local files (sft/rows/files.py) or the hub; each row comes with its place, for errors."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sft.errors import SettingsError, wrong
from sft.rows import arrow
from sft.rows.files.arrow_files import BATCH_ROWS
from sft.rows.forms import unused
from sft.rows.forms.columns import Columns
from sft.rows.look import check_columns
from sft.rows.row import ReadRow, row_or_error
from sft.rows.split_names import split_for
from sft.rows.splits import local_files
from sft.run import files
from sft.settings.fields import DEMO, Settings
from sft.trainer.data import demo
from sft.trainer.data.hashes import file_hash

COLUMN_ROWS = 100  # of a data set on the hub: at least one of them must have the columns
VALIDATION_SHARE = 0.05  # of the rows of a data set without validation rows
MOST_VALIDATION_ROWS = 500


def splits(settings: Settings) -> tuple[Iterator[ReadRow], Iterator[ReadRow]]:
    """Return readers of the training and the validation rows.

    If a data set has no validation rows, one row in twenty becomes one, drawn by SEED, MOST_VALIDATION_ROWS at most. To
    know their number, all rows are read once before: they are never in memory together.
    """
    source = readers(settings)
    first = next(source["validation"], None)
    if first is not None:
        return source["train"], itertools.chain([first], source["validation"])
    rows = sum(1 for _ in source["train"])
    number = min(MOST_VALIDATION_ROWS, max(int(rows > 1), int(rows * VALIDATION_SHARE)))
    chosen = set(random.Random(settings.seed).sample(range(rows), number))
    training = (row for i, row in enumerate(readers(settings)["train"]) if i not in chosen)
    validation = (row for i, row in enumerate(readers(settings)["train"]) if i in chosen)
    return training, validation


def readers(settings: Settings) -> dict[str, Iterator[ReadRow]]:
    """Return readers of the rows that the data set itself has, by split: `train`, and `validation`, maybe empty."""
    local = dataset_folder(settings)
    return read_local(local, settings) if local else read_hub(settings)


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


def read_local(path: Path, settings: Settings) -> dict[str, Iterator[ReadRow]]:
    """Return readers of a local data set's training and validation rows (the latter may be empty)."""
    found = local_files(path, settings).by_split()
    return {split: (row for file in files for row in file.read()) for split, files in found.items()}


def load_hub(settings: Settings) -> Any:
    """Return a data set from the hub, downloaded once into DATA_PATH/hub. Raises SettingsError if that fails."""
    import datasets

    try:
        return datasets.load_dataset(
            settings.dataset,
            settings.dataset_config or None,
            revision=settings.dataset_revision,
            cache_dir=str(settings.data_path / "hub"),
            token=settings.huggingface_api_key.get_secret_value() or None,
        )
    except PermissionError:
        raise
    except Exception as error:  # the data set's files, the network, or the HTTP library, whichever that is
        reason = f"{type(error).__name__}: {(str(error).strip().splitlines() or ['no message'])[0][:200]}"
        remedy = "check the name, DATASET_CONFIG and the network, or give a local file or folder"
        raise SettingsError([wrong("DATASET", settings.dataset, f"cannot be loaded ({reason})", remedy)]) from None


def hub_commit(settings: Settings) -> str | None:
    """Return the commit that DATASET_REVISION stood for when the data set was loaded, or None if it is not known.

    It is part of the path under which `datasets` stores the rows.
    """
    folders = (Path(file["filename"]).parts for split in load_hub(settings).values() for file in split.cache_files)
    return next((part for parts in folders for part in parts if re.fullmatch("[0-9a-f]{40}", part)), None)


def read_hub(settings: Settings) -> dict[str, Iterator[ReadRow]]:
    """Return readers of a hub data set's training and validation rows. Raises SettingsError without training rows."""
    splits = load_hub(settings)
    train = split_for(["train"], splits, settings.dataset)
    held_out = split_for(["validation", "test"], splits, settings.dataset)
    if train is None:
        has = ", ".join(splits)
        raise SettingsError([wrong("DATASET", settings.dataset, f"has no train split but {has}", "use another one")])

    def rows(split: str) -> Iterator[ReadRow]:
        as_written = arrow.as_written(splits[split].features.arrow_schema)
        tables = splits[split].with_format("arrow").iter(BATCH_ROWS)
        for number, row in enumerate(row for table in tables for row in table.to_pylist()):
            yield row_or_error(as_written, f"{settings.dataset}[{split}]:row {number}", row)

    return {"train": rows(train), "validation": rows(held_out) if held_out else iter(())}


def check_hub(settings: Settings) -> None:
    """Check the first rows of a data set from the hub.

    Raises SettingsError if it cannot be loaded, or lacks the columns, and DataError for preferences and pictures.
    """
    first = [
        (where, row)
        for where, row in itertools.islice(read_hub(settings)["train"], COLUMN_ROWS)
        if isinstance(row, dict)
    ]
    for where, row in first:
        if problem := unused.problem_of_kind(Columns.of(row, where, settings)):
            raise problem
    check_columns([row for _, row in first], settings)
