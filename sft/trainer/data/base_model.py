"""The folder of the base model, whole or without its weights: made, found or downloaded."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path

from sft import model_files, stored_weights
from sft.errors import DataError, SettingsError
from sft.hub.repository import Repository
from sft.rows import forms
from sft.run import files
from sft.settings.fields import TINY, Settings
from sft.settings.mixture import parts_of
from sft.trainer.data import hub, sources
from sft.trainer.data.hashes import file_hash, short_hash
from sft.trainer.data.prepared_data import data_key
from sft.trainer.hub.download import download
from sft.trainer.model.hub import FILES, WITHOUT_WEIGHTS, cached, check_code

TINY_ROWS = 10_000  # that the tiny model's tokenizer is learnt from


def base_model(settings: Settings) -> Path:
    """Return the folder of MODEL_NAME's model. The tiny one is made, one from the hub is downloaded, both only once.

    Raises SettingsError if there is no such model, or if it needs a permission that the settings do not give.
    """
    if settings.model_name == TINY:
        folder = settings.model_path / f"tiny-{tiny_key(settings)}"
        if not folder.is_dir():
            from sft.trainer.model import tiny

            with files.whole_folder(folder, Path.is_dir) as temporary:
                tiny.make(temporary, tiny_texts(settings), settings.seed)
        return folder
    local = model_files.local_model(settings)
    folder = local or download(Repository.of_model(settings), FILES)
    if local is None and settings.allow_pickle and not any(folder.glob("*.safetensors")):
        folder = download(Repository.of_model(settings), [*FILES, *(f"*{suffix}" for suffix in stored_weights.PICKLED)])
    model_files.check_folder(folder, settings)
    if model_files.has_code(folder):
        check_code(folder, settings)
    return folder


def check_hub(settings: Settings) -> None:
    """Check the data sets on the hub before gigabytes of the model are downloaded.

    Raises SettingsError with a line for each that cannot be had, and one for the model if that cannot be had either.
    """
    problems: list[str] = []
    for part in parts_of(settings):
        if sources.dataset_folder(part.settings) is None:
            try:
                hub.check(part.settings)
            except SettingsError as error:
                problems += error.problems
    if problems:
        try:
            download(Repository.of_model(settings), WITHOUT_WEIGHTS)
        except SettingsError as error:
            problems += error.problems
        raise SettingsError(list(dict.fromkeys(problems)))


def described(settings: Settings) -> Path:
    """Return a folder with the configuration of MODEL_NAME's model: as it is here, or downloaded without its weights.

    Raises SettingsError if there is no such model, or no such data set.
    """
    if settings.model_name == TINY or model_files.local_model(settings):
        return base_model(settings)
    if folder := cached(settings):
        return folder
    check_hub(settings)
    return tokenizer_folder(settings)


def tokenizer_folder(settings: Settings) -> Path:
    """Return the folder of MODEL_NAME's configuration and tokenizer. Weights are not downloaded, nor looked for.

    Raises SettingsError as `base_model` does.
    """
    if settings.model_name == TINY:
        return base_model(settings)
    folder = model_files.local_model(settings) or download(Repository.of_model(settings), WITHOUT_WEIGHTS)
    model_files.check_without_weights(folder, settings)
    if model_files.has_code(folder):
        check_code(folder, settings)
    return folder


def tiny_key(settings: Settings) -> str:
    """Return a hash of everything that decides the tiny model: its code, its data and its seed."""
    return short_hash(file_hash(Path(__file__).parents[1] / "model" / "tiny.py"), data_key(settings), settings.seed)


def tiny_texts(settings: Settings) -> Iterator[str]:
    """Yield the training rows' texts, which the tiny model's tokenizer is learnt from."""
    parts = parts_of(settings)
    for part in parts:
        for where, row in itertools.islice(sources.readers(part.settings)["train"], TINY_ROWS // len(parts)):
            with contextlib.suppress(DataError):  # bad rows are named, all at once, when the rows are tokenised
                yield forms.words(row, where, part.settings)
