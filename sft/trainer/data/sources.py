"""Where rows come from: local files (sft/rows/files.py) or the hub; each row comes with its place, for errors."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sft.errors import SettingsError, wrong
from sft.rows.files import HELD_OUT_NAMES, Placed, local_files, read_file
from sft.rows.look import check_columns
from sft.settings.fields import Settings

COLUMN_ROWS = 100  # of a hub's data set, that must not all lack a column


def read_local(path: Path) -> dict[str, Iterator[Placed]]:
    """Return readers of a local data set's training and held-out rows (the latter may be empty)."""
    return {
        split: (placed for file in files for placed in read_file(file)) for split, files in local_files(path).items()
    }


def load_hub(settings: Settings) -> Any:
    """Return the splits of a hub data set, downloaded once into DATA_PATH/hub.

    Raises SettingsError where it cannot be had.
    """
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
    except Exception as error:  # of the data set's files, of the network, of the HTTP library, whichever that is
        reason = f"{type(error).__name__}: {(str(error).strip().splitlines() or ['no message'])[0][:200]}"
        remedy = "check the name, DATASET_CONFIG and the network, or give a local file or folder"
        raise SettingsError([wrong("DATASET", settings.dataset, f"cannot be loaded ({reason})", remedy)]) from None


def hub_commit(settings: Settings) -> str | None:
    """Return the commit that DATASET_REVISION stood for when the hub's data set was loaded, if it is known.

    It is the name of the folder in which `datasets` keeps the rows.
    """
    folders = (Path(file["filename"]).parts for split in load_hub(settings).values() for file in split.cache_files)
    return next((part for parts in folders for part in parts if re.fullmatch("[0-9a-f]{40}", part)), None)


def read_hub(settings: Settings) -> dict[str, Iterator[Placed]]:
    """Return readers of a hub data set's training and held-out rows. Raises SettingsError where it cannot be had."""
    splits = load_hub(settings)
    if "train" not in splits:
        has = ", ".join(splits)
        raise SettingsError([wrong("DATASET", settings.dataset, f"has no train split but {has}", "use another one")])
    held_out = next((name for name in HELD_OUT_NAMES if name in splits), None)

    def rows(split: str) -> Iterator[Placed]:
        for number, row in enumerate(splits[split]):
            yield f"{settings.dataset}[{split}]:row {number}", row

    return {"train": rows("train"), "validation": rows(held_out) if held_out else iter(())}


def check_hub(settings: Settings) -> None:
    """Raise SettingsError if a hub's data set cannot be had or has other columns."""
    first = itertools.islice(read_hub(settings)["train"], COLUMN_ROWS)
    check_columns([row for _, row in first if isinstance(row, dict)], settings)
