"""Data sets on the hub that this project does not read itself, through the library `datasets`.

That is so for options in a README.md that change how files are read, and for archives and other compressions. The
library reads the downloaded files once and stores the rows with `save_to_disk`, in a folder that is read like any other
of that kind. So a row is named by its number there instead of its line.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from sft.hub.repository import Repository
from sft.rows.splits import LocalFiles, local_files
from sft.run import files
from sft.settings.fields import Settings
from sft.trainer.hub.download import download


def load(repository: Repository, settings: Settings) -> LocalFiles:
    """Download a data set at the repository's commit, and return what each file of the stored one is for.

    Raises SettingsError.
    """
    folder = repository.folder / "stored" / f"{repository.revision}-{settings.dataset_config or 'default'}"
    if not folder.is_dir():
        with files.whole_folder(folder, Path.is_dir) as temporary:
            store(download(repository, ["*"]), temporary, repository, settings.dataset_config)
    return local_files(folder, Settings.of(settings, dataset_config=""))


def store(root: Path, folder: Path, repository: Repository, config: str) -> None:
    """Have `datasets` read the files in `root`, and store their rows in `folder`. Raises SettingsError."""
    import datasets

    with tempfile.TemporaryDirectory(dir=folder.parent) as cache:
        try:
            datasets.load_dataset(str(root), config or None, cache_dir=cache).save_to_disk(folder)
        except OSError:
            raise
        except Exception as error:  # of any kind: the library's own, or one of the package that reads the files
            first = error.__cause__ or error  # it wraps what it met
            reason = f"{type(first).__name__}: {(str(first).strip().splitlines() or ['no message'])[0][:200]}"
            remedy = "write the rows as JSON lines, and give that file"
            raise repository.wrong(f"cannot be read by `datasets` ({reason})", remedy) from None
