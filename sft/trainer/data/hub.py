"""Data sets on the hub: loaded once into DATA_PATH/hub, and checked before anything large is downloaded."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sft.errors import SettingsError, wrong
from sft.rows import arrow
from sft.rows.files.arrow_files import BATCH_ROWS
from sft.rows.forms import kinds
from sft.rows.forms.columns import Columns
from sft.rows.look import check_columns
from sft.rows.row import ReadRow, row_or_error
from sft.rows.split_names import split_for
from sft.settings.fields import Settings

COLUMN_ROWS = 100  # at least one of them must have the columns


def load(settings: Settings) -> Any:
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


def commit(settings: Settings) -> str | None:
    """Return the commit that DATASET_REVISION stood for when the data set was loaded, or None if it is not known.

    It is part of the path under which `datasets` stores the rows.
    """
    folders = (Path(file["filename"]).parts for split in load(settings).values() for file in split.cache_files)
    return next((part for parts in folders for part in parts if re.fullmatch("[0-9a-f]{40}", part)), None)


def readers(settings: Settings) -> dict[str, Iterator[ReadRow]]:
    """Return readers of a hub data set's training and validation rows. Raises SettingsError without training rows."""
    splits = load(settings)
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


def check(settings: Settings) -> None:
    """Check the first rows of a data set from the hub.

    Raises SettingsError if it cannot be loaded, or lacks the columns, and DataError for preferences and pictures.
    """
    first = [
        (where, row)
        for where, row in itertools.islice(readers(settings)["train"], COLUMN_ROWS)
        if isinstance(row, dict)
    ]
    for where, row in first:
        if problem := kinds.problem(Columns.of(row, where, settings)):
            raise problem
    check_columns([row for _, row in first], settings)
