"""The files that prepared data was made from: what each of them is for, and the hashes of local ones."""

from __future__ import annotations

from collections.abc import Mapping

from sft.rows.splits import LocalFiles
from sft.run.records import SplitFiles
from sft.settings.fields import Settings
from sft.trainer.data.hashes import kept_hash


def hashes(there: Mapping[str, LocalFiles], local: set[str], settings: Settings) -> dict[str, str]:
    """Return the SHA-256 of every file that is used, by its name, of the data sets that are `local`.

    `there`: the files of each data set, by its name.
    """
    return {
        named(name, file.name, there): kept_hash(file.path, settings.data_path)
        for name, files in there.items()
        if name in local
        for file in files.used
    }


def splits(there: Mapping[str, LocalFiles]) -> SplitFiles:
    """Return the record of which file is for what."""
    return SplitFiles(
        train=[named(name, file.name, there) for name, files in there.items() for file in files.train],
        validation=[named(name, file.name, there) for name, files in there.items() for file in files.validation],
        unused={named(name, file, there): why for name, files in there.items() for file, why in files.unused.items()},
        said=[named(name, line, there, ": ") for name, files in there.items() for line in files.lines()],
    )


def named(data_set: str, text: str, there: Mapping[str, LocalFiles], between: str = "/") -> str:
    """Return the name of a file, or a line about files, with the data set's name before it if there are several.

    The file's own name gives way to that of a data set that is this file.
    """
    if len(there) == 1:
        return text
    file = data_set.rsplit("/", 1)[-1]
    is_file = text.startswith(file) and [found.name for found in there[data_set].used] == [file]
    return data_set + text.removeprefix(file) if is_file else f"{data_set}{between}{text}"
