"""Tokenised rows, cached in DATA_PATH/prepared: made once for each data set, tokenizer and form of rows."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sft import model_files, template_files
from sft.errors import SettingsError, wrong
from sft.rows import forms
from sft.rows.row_kind import RowKind, common_kind
from sft.rows.splits import local_files
from sft.run import files, typed_json
from sft.run.records import PreparedData, Split
from sft.settings.fields import Settings
from sft.settings.mixture import is_mixture, parts_of, title, with_commits
from sft.trainer.data import chat_template, hub, origin, sources
from sft.trainer.data.hashes import file_hash, kept_hash, short_hash
from sft.trainer.data.sources import dataset_folder

if TYPE_CHECKING:  # their imports take time, which a cached data set does not need
    from sft.trainer.data.texts import TextTokeniser
    from sft.trainer.data.tokenise import Tokeniser

FORMAT = 5  # of the prepared data: part of the cache's key
MANIFEST = "manifest.json"  # of the prepared data
CODE = (  # modules that decide the tokens
    "sources", "hub", "hub_library", "chat_template", "template_variables", "template_traits", "prober", "probe",
    "answers", "characters", "completeness", "stand_ins", "marks", "encode", "tokenise", "texts", "rows",
    "row_writer", "part_writer", "mixed_rows", "looks",
)  # fmt: skip
OF_TOKENS = (  # settings that decide the tokens of a row
    "prompt_column", "response_column", "columns", "use_columns", "system_prompt", "max_length", "long_rows",
    "chat_template_arguments", "train_on", "special_tokens_in_text",
)  # fmt: skip


def prepared_path(settings: Settings) -> Path:
    """Return the folder of all prepared data: it has a folder for each `cache_key`."""
    return settings.data_path / "prepared"


def prepared_data(
    settings: Settings, model: Path, commits: Mapping[str, str] | None = None, template: Path | None = None
) -> tuple[Path, PreparedData]:
    """Return the folder of the tokenised data and its manifest, from the cache if it is there.

    A resumed run gives the `commits` of its data sets on the hub, by their names, and gets those, even if a branch has
    moved since. `template`: the run's own copy of CHAT_TEMPLATE's file.
    """
    folder = prepared_path(settings) / cache_key(settings, model, template)
    found = intact(folder, settings)
    if commits and (found is None or commits_of(found, settings) != commits):
        settings = with_commits(settings, commits)
        folder = prepared_path(settings) / cache_key(settings, model, template)
        found = intact(folder, settings)
    if found is None:
        with files.whole_folder(folder, lambda made: intact(made, settings) is not None) as temporary:
            make(settings, model, temporary, template)
        found = typed_json.read(folder / MANIFEST, PreparedData)
    return folder, found


def commits_of(data: PreparedData, settings: Settings) -> dict[str, str]:
    """Return the commits of prepared data sets on the hub, by their names."""
    if data.parts:
        return {part.name: part.commit for part in data.parts if part.commit}
    return {parts_of(settings)[0].name: data.commit} if data.commit else {}


def intact(folder: Path, settings: Settings) -> PreparedData | None:
    """Return the manifest of prepared data; None if it is not complete, or not as it was written.

    The manifest is written last. A damaged disk, or somebody who edits a file, must not change what is trained.
    """
    try:
        found = typed_json.read(folder / MANIFEST, PreparedData)
    except (FileNotFoundError, files.Unreadable):
        return None
    if content_hash(folder, lambda path: kept_hash(path, settings.data_path)) == found.hash:
        return found
    print(f"{folder}: is not as it was written; the rows are prepared again", file=sys.stderr, flush=True)
    return None


def content_hash(folder: Path, hash_of: Callable[[Path], str] = file_hash) -> str:
    """Return a hash of all files of the splits of prepared data."""
    return short_hash(*(hash_of(path) for path in sorted(folder.rglob("*/*")) if path.is_file()))


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


def is_of_tokenizer(path: Path, alone: bool = False) -> bool:
    """Tell whether a file of a model decides the tokens: its tokenizer's and, unless `alone`, where an answer ends."""
    tokenizer = ("tokenizer", "special_tokens", "vocab", "merges", "added_tokens", "chat_template", "processor_config")
    others = () if alone else ("config.json", "generation_config")
    return path.name.startswith((*tokenizer, *others)) or path.suffix in (".model", ".jinja", ".tiktoken", ".py")


def data_key(settings: Settings) -> str:
    """Return a hash of where the rows come from: content of local files, names and revisions on the hub, shares."""
    parts = parts_of(settings)
    if not is_mixture(settings):
        return part_key(settings)
    return short_hash(*((part_key(part.settings), str(part.share), part.settings.of_part()) for part in parts))


def part_key(settings: Settings) -> str:
    """Return the hash for one data set."""
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
    from sft.trainer.data import looks, mixed_rows, part_writer

    print(f"preparing {title(settings)} for {settings.model_name}", file=sys.stderr, flush=True)
    parts = parts_of(settings)
    for part in parts:
        if dataset_folder(part.settings) is None:
            hub.check(part.settings)
    kinds = [sources.kind(part.settings) for part in parts]
    tokeniser = tokeniser_of(settings, model, common_kind(kinds), file)
    its_own = [
        tokeniser_for(part.settings, kind, tokeniser, model, file) for part, kind in zip(parts, kinds, strict=True)
    ]
    looked = looks.Gathered()
    written = part_writer.write(list(zip(parts, its_own, strict=True)), folder, looked)
    if is_mixture(settings):
        mixed_rows.join(folder / "train", [(part.train.read, part.repeats) for part in written])
        mixed_rows.join(folder / "validation", [(part.validation.read, 1) for part in written])
    there = {part.name: sources.data_files(part.settings) for part in parts}
    splits = origin.splits(there)
    print("\n".join(splits.said), file=sys.stderr, flush=True)
    local = {part.name for part in parts if dataset_folder(part.settings)}
    found = PreparedData(
        train=Split.total([(part.train, part.repeats) for part in written]),
        validation=Split.total([(part.validation, 1) for part in written]),
        hash=content_hash(folder),
        files=origin.hashes(there, local, settings) if local else None,
        splits=splits,
        row_counts=part_writer.row_counts(written),
        commit=written[0].commit if len(written) == 1 else None,
        settings=settings.of_data(),
        template=tokeniser.facts,
        looks=looked.write(folder),
        parts=written if is_mixture(settings) else [],
    )
    typed_json.write(folder / MANIFEST, found)


def tokeniser_for(
    settings: Settings, kind: RowKind, others: Tokeniser | TextTokeniser, model: Path, file: Path | None = None
) -> Tokeniser | TextTokeniser:
    """Return what makes tokens of one data set's rows: as for the `others` of the run, if they are of the same kind."""
    return replace(others, settings=settings) if kind == others.kind else tokeniser_of(settings, model, kind, file)


def tokeniser_of(
    settings: Settings, model: Path, kind: RowKind = "conversations", file: Path | None = None
) -> Tokeniser | TextTokeniser:
    """Return what makes tokens of the rows for the model in a folder. Raises SettingsError if that cannot go right."""
    from sft.trainer.data import probe
    from sft.trainer.data.texts import TextTokeniser
    from sft.trainer.data.tokenise import Tokeniser
    from sft.trainer.model import published

    config = published.config_in(model, settings)
    most, embedding_rows = published.positions(config), getattr(config.get_text_config(), "vocab_size", None)
    model_files.check_length(most, settings)
    if kind == "texts":
        tokenizer = chat_template.tokenizer_in(model, settings)
        pictures = published.tokens_of_pictures(config, tokenizer)
        return TextTokeniser(tokenizer, settings, [checked_eos(tokenizer, settings)], embedding_rows, pictures)
    template = chat_template.load(model, settings, file)
    eos = checked_eos(template.tokenizer, settings)
    # A generation_config.json may name tokens that the model does not have, which it never generates.
    tokens = len(template.tokenizer) if embedding_rows is None else embedding_rows
    found = probe.probe(template, {eos} | {stop for stop in model_files.stops(model) if 0 <= stop < tokens})
    if missing := [str(template.tokenizer.convert_ids_to_tokens(stop)) for stop in found.stops if stop >= tokens]:
        what = f"it has no embedding for {', '.join(missing)}, which ends answers: only {tokens}"
        raise SettingsError([wrong("MODEL_NAME", settings.model_name, what, "take the tokenizer that belongs to it")])
    return Tokeniser(found, settings, embedding_rows, published.tokens_of_pictures(config, template.tokenizer))


def checked_eos(tokenizer: Any, settings: Settings) -> int:
    """Return a tokenizer's EOS token. Raises SettingsError if it has none."""
    eos: int | None = tokenizer.eos_token_id
    if eos is None:
        what = "its tokenizer has no EOS token, so no answer would ever end"
        remedy = "set eos_token in its tokenizer_config.json"
        raise SettingsError([wrong("MODEL_NAME", settings.model_name, what, remedy)])
    return eos
