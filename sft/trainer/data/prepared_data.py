"""Tokenised rows, cached in DATA_PATH/prepared: made once for each data set, tokenizer and form of rows."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sft import long_rows, model_files, template_files
from sft.errors import DataError, SettingsError, shown, wrong
from sft.rows import forms
from sft.rows.bad_rows import BadRows
from sft.rows.row import ReadRow
from sft.rows.splits import LocalFiles, local_files
from sft.run import files, typed_json
from sft.run.records import PreparedData, RowCounts, Split, SplitFiles
from sft.settings.fields import Settings
from sft.settings.kinds import RowKind
from sft.trainer.data import chat_template, hub, sources
from sft.trainer.data.hashes import file_hash, kept_hash, short_hash
from sft.trainer.data.sources import dataset_folder

if TYPE_CHECKING:  # their imports take time, which a cached data set does not need
    from sft.trainer.data.texts import TextTokeniser
    from sft.trainer.data.tokenise import Tokeniser

FORMAT = 5  # of the prepared data: part of the cache's key
MANIFEST = "manifest.json"  # of the prepared data
CODE = (  # modules that decide the tokens
    "sources", "hub", "chat_template", "template_variables", "template_traits", "prober", "probe", "answers",
    "completeness", "marks", "encode", "tokenise", "texts", "rows", "row_writer", "looks",
)  # fmt: skip
OF_TOKENS = (  # settings that decide the tokens of a row
    "prompt_column", "response_column", "columns", "use_columns", "system_prompt", "max_length", "long_rows",
    "chat_template_arguments", "train_on", "special_tokens_in_text",
)  # fmt: skip


def prepared_path(settings: Settings) -> Path:
    """Return the folder of all prepared data: it has a folder for each `cache_key`."""
    return settings.data_path / "prepared"


def prepared_data(
    settings: Settings, model: Path, commit: str | None = None, template: Path | None = None
) -> tuple[Path, PreparedData]:
    """Return the folder of the tokenised data and its manifest, from the cache if it is there.

    A resumed run gives the `commit` of its data set on the hub, and gets that one, even if the branch has moved since.
    `template`: the run's own copy of CHAT_TEMPLATE's file.
    """
    folder = prepared_path(settings) / cache_key(settings, model, template)
    found = manifest(folder)
    if commit and (found is None or found.commit != commit):
        settings = Settings.of(settings, dataset_revision=commit)
        folder = prepared_path(settings) / cache_key(settings, model, template)
        found = manifest(folder)
    if found is None:
        with files.whole_folder(folder, lambda found: manifest(found) is not None) as temporary:
            make(settings, model, temporary, template)
        found = typed_json.read(folder / MANIFEST, PreparedData)
    return folder, found


def manifest(folder: Path) -> PreparedData | None:
    """Return the manifest of prepared data, or None if the data is not complete: the manifest is written last."""
    try:
        return typed_json.read(folder / MANIFEST, PreparedData)
    except (FileNotFoundError, files.Unreadable):
        return None


def cache_key(settings: Settings, model: Path, template: Path | None = None) -> str:
    """Return a hash of everything that decides the tokens: rows, tokenizer, settings, and the code that joins them."""
    there = sorted([*model.iterdir(), *model.glob("additional_chat_templates/*")])
    tokenizer = [(path.name, file_hash(path)) for path in there if path.is_file() and is_of_tokenizer(path)]
    here = [Path(__file__).with_name(f"{name}.py") for name in CODE]
    here += [Path(template_files.__file__), *sorted(template_files.SHIPPED.iterdir())]
    here += [Path(__file__).parents[1] / "model" / "answer_text.py"]  # reads the references of tool calls
    code = [file_hash(path) for path in (*here, *sorted(Path(forms.__file__).parents[1].rglob("*.py")))]
    file = template_files.file_of(settings, template)
    chosen = settings.model_dump(include=set(OF_TOKENS)) | {"chat_template": None if file else settings.chat_template}
    return short_hash(FORMAT, code, data_key(settings), tokenizer, file and file_hash(file), chosen, settings.seed)


def is_of_tokenizer(path: Path) -> bool:
    """Tell whether a file of a model decides the tokens: those of its tokenizer, and where generation stops."""
    begins = ("tokenizer", "special_tokens", "vocab", "merges", "added_tokens", "chat_template", "generation_config")
    return path.name.startswith((*begins, "config.json")) or path.suffix in (".model", ".jinja", ".tiktoken", ".py")


def data_key(settings: Settings) -> str:
    """Return a hash of where the rows come from: the content of local files, or a name and revision on the hub."""
    local, asked = dataset_folder(settings), (settings.train_split, settings.eval_split)
    if local is None:
        return short_hash(settings.dataset, settings.dataset_config, settings.dataset_revision, *asked)
    splits = local_files(local, settings).by_split()
    parts = [
        (split, file.name, kept_hash(file.path, settings.data_path))
        for split, files in splits.items()
        for file in files
    ]
    return short_hash(*parts, *asked)


def make(settings: Settings, model: Path, folder: Path, file: Path | None = None) -> None:
    """Read, validate and tokenise all rows into `folder`; write its manifest last.

    `file`: the run's own copy of CHAT_TEMPLATE's file. Raises DataError, which names all rows that cannot be used, and
    SettingsError.
    """
    from sft.trainer.data import looks, row_writer
    from sft.trainer.data.tokenise import tokenised

    print(f"preparing {settings.dataset} for {settings.model_name}", file=sys.stderr, flush=True)
    if dataset_folder(settings) is None:
        hub.check(settings)
    tokeniser = tokeniser_of(settings, model, sources.kind(settings), file)
    training, validation = (Counted(split) for split in sources.splits(settings))
    bad = BadRows()
    looked = looks.Gathered()
    train = row_writer.write(folder / "train", looked.train(tokenised(training, tokeniser, bad)), tokeniser.kind)
    of_validation = looked.validation(tokenised(validation, replace(tokeniser, asked=True), bad))
    held_out = row_writer.write(folder / "validation", of_validation, tokeniser.kind)
    bad.check()
    long_rows.check(train, "training", settings)
    if not train.rows:
        raise DataError(f"DATASET={settings.dataset}: has no training rows; add some")
    if settings.eval_split and not held_out.rows:
        raise DataError(f"EVAL_SPLIT={shown(settings.eval_split)}: has no rows to evaluate on; name others")
    local, there = dataset_folder(settings), sources.data_files(settings)
    print("\n".join(there.lines()), file=sys.stderr, flush=True)
    found = PreparedData(
        train=train,
        validation=held_out,
        hash=short_hash(*(file_hash(path) for path in sorted(folder.glob("*/*")))),
        files={file.name: kept_hash(file.path, settings.data_path) for file in there.used} if local else None,
        splits=splits_of(there),
        row_counts=row_counts(training.number + validation.number, train, held_out),
        commit=None if local else hub.commit(settings),
        settings=settings.of_data(),
        template=tokeniser.facts,
        looks=looked.write(folder),
    )
    typed_json.write(folder / MANIFEST, found)


class Counted:
    """Rows that are counted as they are read."""

    def __init__(self, rows: Iterator[ReadRow]) -> None:
        self.rows, self.number = rows, 0

    def __iter__(self) -> Iterator[ReadRow]:
        for row in self.rows:
            self.number += 1
            yield row


def row_counts(read: int, train: Split, held_out: Split) -> RowCounts:
    """Return what became of all rows that were read."""
    dropped = train.dropped_rows + held_out.dropped_rows
    found = RowCounts(read=read, trained=train.conversations, dropped=dropped, held_out=held_out.conversations)
    assert found.read == found.trained + found.dropped + found.held_out, found
    return found


def splits_of(found: LocalFiles) -> SplitFiles:
    """Return the record of which file is for what."""
    return SplitFiles(
        train=[file.name for file in found.train],
        validation=[file.name for file in found.validation],
        unused=found.unused,
        said=found.lines(),
    )


def tokeniser_of(
    settings: Settings, model: Path, kind: RowKind = "conversations", file: Path | None = None
) -> Tokeniser | TextTokeniser:
    """Return what makes tokens of the rows for the model in a folder. Raises SettingsError if that cannot go right."""
    from sft.trainer.data import probe
    from sft.trainer.data.texts import TextTokeniser
    from sft.trainer.data.tokenise import Tokeniser

    most, embedding_rows = sizes_of(settings, model)
    model_files.check_length(most, settings)
    if kind == "texts":
        tokenizer = chat_template.tokenizer_in(model, settings)
        return TextTokeniser(tokenizer, settings, [checked_eos(tokenizer, settings)], embedding_rows)
    template = chat_template.load(model, settings, file)
    eos = checked_eos(template.tokenizer, settings)
    # A generation_config.json may name tokens that the model does not have, which it never generates.
    tokens = len(template.tokenizer) if embedding_rows is None else embedding_rows
    found = probe.probe(template, {eos} | {stop for stop in model_files.stops(model) if 0 <= stop < tokens})
    if missing := [str(template.tokenizer.convert_ids_to_tokens(stop)) for stop in found.stops if stop >= tokens]:
        what = f"it has no embedding for {', '.join(missing)}, which ends answers: only {tokens}"
        raise SettingsError([wrong("MODEL_NAME", settings.model_name, what, "take the tokenizer that belongs to it")])
    return Tokeniser(found, settings, embedding_rows)


def checked_eos(tokenizer: Any, settings: Settings) -> int:
    """Return a tokenizer's EOS token. Raises SettingsError if it has none."""
    eos: int | None = tokenizer.eos_token_id
    if eos is None:
        what = "its tokenizer has no EOS token, so no answer would ever end"
        remedy = "set eos_token in its tokenizer_config.json"
        raise SettingsError([wrong("MODEL_NAME", settings.model_name, what, remedy)])
    return eos


def sizes_of(settings: Settings, model: Path) -> tuple[int | None, int | None]:
    """Return the most tokens that a model reads and the number of its embeddings, as far as its config.json says."""
    import transformers

    try:
        config = transformers.AutoConfig.from_pretrained(model, trust_remote_code=settings.trust_remote_code)
    except Exception as error:  # of any kind: each kind of model checks its own values
        reason = shown(" ".join(str(error).split()) or type(error).__name__, 200)
        what = f"its config.json cannot be loaded ({reason})"
        raise SettingsError([wrong("MODEL_NAME", settings.model_name, what, "check the folder")]) from None
    text = config.get_text_config()
    return getattr(text, "max_position_embeddings", None), getattr(text, "vocab_size", None)
