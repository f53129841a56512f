"""Tokenised rows, cached in DATA_PATH/prepared: made once for each data set, tokenizer and form of rows."""

from __future__ import annotations

import sys
from pathlib import Path

from sft import model_files
from sft.errors import DataError, SettingsError, wrong
from sft.rows import forms
from sft.rows.bad_rows import BadRows
from sft.rows.files import local_files
from sft.run import files, typed_json
from sft.run.records import PreparedData
from sft.settings.fields import Settings
from sft.trainer.data import sources
from sft.trainer.data.hashes import file_hash, kept_hash, short_hash
from sft.trainer.data.sources import dataset_folder

FORMAT = 3  # of the prepared data: part of the cache's key
MANIFEST = "manifest.json"  # of the prepared data


def prepared_path(settings: Settings) -> Path:
    """Return the folder of all prepared data: it has a folder for each `cache_key`."""
    return settings.data_path / "prepared"


def prepared_data(settings: Settings, model: Path, commit: str | None = None) -> tuple[Path, PreparedData]:
    """Return the folder of the tokenised data and its manifest, from the cache if it is there.

    A resumed run gives the `commit` of its data set on the hub, and gets that one, even if the branch has moved since.
    """
    folder = prepared_path(settings) / cache_key(settings, model)
    found = manifest(folder)
    if commit and (found is None or found.commit != commit):
        settings = Settings.of(settings, dataset_revision=commit)
        folder = prepared_path(settings) / cache_key(settings, model)
        found = manifest(folder)
    if found is None:
        with files.whole_folder(folder, lambda found: manifest(found) is not None) as temporary:
            make(settings, model, temporary)
        found = typed_json.read(folder / MANIFEST, PreparedData)
    return folder, found


def manifest(folder: Path) -> PreparedData | None:
    """Return the manifest of prepared data, or None if the data is not complete: the manifest is written last."""
    try:
        return typed_json.read(folder / MANIFEST, PreparedData)
    except (FileNotFoundError, files.Unreadable):
        return None


def cache_key(settings: Settings, model: Path) -> str:
    """Return a hash of everything that decides the tokens: rows, tokenizer, settings, and the code that joins them."""
    tokenizer = [
        file_hash(path)
        for path in sorted(model.iterdir())
        if path.name.startswith(("tokenizer", "special_tokens", "vocab", "merges", "added_tokens", "chat_template"))
    ]
    here = [Path(__file__).with_name(name) for name in ("tokenise.py", "sources.py", "rows.py")]
    code = [file_hash(path) for path in (*here, *sorted(Path(forms.__file__).parents[1].rglob("*.py")))]
    chosen = settings.model_dump(include={"prompt_column", "response_column", "system_prompt", "max_length"})
    return short_hash(FORMAT, code, data_key(settings), tokenizer, chosen, settings.seed)


def data_key(settings: Settings) -> str:
    """Return a hash of where the rows come from: the content of local files, or a name and revision on the hub."""
    local = dataset_folder(settings)
    if local is None:
        return short_hash(settings.dataset, settings.dataset_config, settings.dataset_revision)
    splits = local_files(local)
    parts = [
        (split, path.name, kept_hash(path, settings.data_path)) for split, paths in splits.items() for path in paths
    ]
    return short_hash(*parts)


def make(settings: Settings, model: Path, folder: Path) -> None:
    """Read, validate and tokenise all rows into `folder`; write its manifest last.

    Raises DataError, which names all rows that cannot be used, and SettingsError.
    """
    from sft.trainer.data import rows
    from sft.trainer.data.tokenise import tokenised

    print(f"preparing {settings.dataset} for {settings.model_name}", file=sys.stderr, flush=True)
    check_tokenizer(settings, model)
    if dataset_folder(settings) is None:
        sources.check_hub(settings)
    training, validation = sources.splits(settings)
    bad = BadRows()
    train = rows.write(folder / "train", tokenised(training, model, settings, bad))
    held_out = rows.write(folder / "validation", tokenised(validation, model, settings, bad))
    bad.check()
    if not train.rows:
        raise DataError(f"DATASET={settings.dataset}: has no training rows; add some")
    local = dataset_folder(settings)
    read = [path for paths in local_files(local).values() for path in paths] if local else []
    found = PreparedData(
        train=train,
        validation=held_out,
        hash=short_hash(*(file_hash(path) for path in sorted(folder.glob("*/*")))),
        files={path.name: kept_hash(path, settings.data_path) for path in read} if local else None,
        commit=None if local else sources.hub_commit(settings),
        settings=settings.of_data(),
    )
    typed_json.write(folder / MANIFEST, found)


def check_tokenizer(settings: Settings, model: Path) -> None:
    """Raise SettingsError if MAX_LENGTH is too long for the model in a folder, or its tokenizer cannot be used."""
    import transformers

    config = transformers.AutoConfig.from_pretrained(model, trust_remote_code=settings.trust_remote_code)
    model_files.check_length(getattr(config.get_text_config(), "max_position_embeddings", None), settings)
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(model, trust_remote_code=settings.trust_remote_code)
    except (OSError, ValueError) as error:
        reason = (str(error).strip().splitlines() or ["no message"])[0]
        what, remedy = f"its tokenizer cannot be loaded ({reason})", "check the folder"
        raise SettingsError([wrong("MODEL_NAME", settings.model_name, what, remedy)]) from None
    if tokenizer.eos_token_id is None:
        what = "its tokenizer has no EOS token, so no answer would ever end"
        remedy = "set eos_token in its tokenizer_config.json"
        raise SettingsError([wrong("MODEL_NAME", settings.model_name, what, remedy)])
