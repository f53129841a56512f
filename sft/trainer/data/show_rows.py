"""Show rows as they are trained: `python -m sft.trainer.data.show_rows`, started by `make rows`.

Prints `ShownRows` as one line of JSON, the last one: libraries write to this output too. The tokenizer is found or
downloaded, the weights are not. The rows are prepared into the cache, or taken from it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sft.errors import DataError, SftError, UserError, wrong
from sft.rows import forms
from sft.rows.files import ReadRow
from sft.run import owners, typed_json
from sft.run.records import PreparedData, TemplateFacts
from sft.run.shown_rows import Sequence, ShownRow, ShownRows, SplitName
from sft.settings.fields import Settings
from sft.settings.load import load
from sft.trainer import process
from sft.trainer.data import sources
from sft.trainer.data.base_model import tokenizer_folder
from sft.trainer.data.lengths import histogram
from sft.trainer.data.pieces import Decoder
from sft.trainer.data.prepared_data import prepared_data
from sft.trainer.data.rows import Rows, TokenisedRow
from sft.trainer.data.tokenise import Tokeniser

NO_LIMIT = 2**31  # tokens: no row is cut


@dataclass(frozen=True)
class Choice:
    """Which rows to show."""

    split: SplitName
    number: int
    index: int | None
    longest: bool
    cut: bool
    ids: bool


def main() -> None:
    """Print the rows that the options choose. Exit code 2 if the user can fix it."""
    process.begin()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--split", choices=["train", "validation"], default="train")
    parser.add_argument("--number", type=int, default=3)
    parser.add_argument("--index", type=int)
    for name in ("longest", "cut", "ids"):
        parser.add_argument(f"--{name}", action="store_true")
    choice = Choice(**vars(parser.parse_args()))
    settings = load()
    try:
        found = show(settings, choice)
    except SftError as error:
        print(json.dumps({"error": str(error)}), flush=True)
        sys.exit(error.exit_code)
    except PermissionError as error:
        reason = owners.not_yours(Path(error.filename or settings.data_path))
        print(json.dumps({"error": reason}), flush=True)
        sys.exit(UserError("").exit_code)
    print(json.dumps(typed_json.content_of(found)), flush=True)


def show(settings: Settings, choice: Choice) -> ShownRows:
    """Return the chosen rows, and the figures of their split. Raises SettingsError and DataError.

    Rows that cannot be used are `problems`; the others are shown all the same.
    """
    import transformers

    model = tokenizer_folder(settings)
    prepared: PreparedData | None = None
    rows: Rows | None = None
    problems: list[str] = []
    try:
        folder, prepared = prepared_data(settings, model)
        rows = Rows(folder / choice.split)
    except DataError as error:
        if choice.longest or choice.cut:  # these are about all rows
            raise
        problems = str(error).splitlines()
    number = len(rows) if rows else sum(1 for _ in source(settings, choice))
    if choice.index is not None and choice.index >= number:
        has = f"numbered from 0 to {number - 1}" if number else "so there is nothing to show"
        what = f"the {choice.split} split has {number} row{'s' * (number != 1)}, {has}"
        raise UserError(wrong("INDEX", choice.index, what, "use one of them"))
    tokenizer = transformers.AutoTokenizer.from_pretrained(model, trust_remote_code=settings.trust_remote_code)
    reader = Reader(tokenizer, settings, prepared.template if prepared else None, choice)
    shown = list(reader.chosen(source(settings, choice), wanted(choice, number, rows, settings)))
    if choice.longest:
        shown.sort(key=lambda row: -max(sequence.tokens for sequence in row.sequences))
    return ShownRows(
        split=choice.split,
        rows=shown,
        number=number,
        counts=getattr(prepared, choice.split) if prepared else None,
        lengths=histogram(rows.lengths) if rows else [],
        template=prepared.template if prepared else None,
        problems=problems,
    )


def source(settings: Settings, choice: Choice) -> Iterator[ReadRow]:
    """Return a reader of the rows of the chosen split."""
    training, validation = sources.splits(settings)
    return training if choice.split == "train" else validation


def wanted(choice: Choice, number: int, rows: Rows | None, settings: Settings) -> set[int]:
    """Return the numbers of the rows to look at: with CUT=1, of all that may be cut."""
    if choice.index is not None:
        return {choice.index}
    if rows and choice.longest:
        order = np.argsort(-rows.lengths, kind="stable")
        return set(order[: choice.number].tolist())
    if rows and choice.cut:
        return set(np.flatnonzero(rows.lengths >= settings.max_length).tolist())
    few = min(choice.number, number)
    return {round(i * (number - 1) / max(1, few - 1)) for i in range(few)}  # all over the split


class Reader:
    """Tokenises the chosen rows as preparing does, and without MAX_LENGTH too: to say how much is cut."""

    def __init__(self, tokenizer: Any, settings: Settings, facts: TemplateFacts | None, choice: Choice) -> None:
        self.settings, self.choice = settings, choice
        self.tokeniser = Tokeniser(tokenizer, settings)
        self.uncut = Tokeniser(tokenizer, settings.model_copy(update={"max_length": NO_LIMIT}))
        self.decoder = Decoder(tokenizer, facts.stops if facts else tokenizer.all_special_ids)

    def chosen(self, rows: Iterator[ReadRow], wanted: set[int]) -> Iterator[ShownRow]:
        """Yield the wanted rows; in place of one that cannot be used, the next one. Raises DataError for INDEX."""
        due = found = 0
        for index, row in enumerate(rows):
            due += index in wanted
            if not due:
                continue
            try:
                shown = self.shown(index, row)
            except DataError:
                if self.choice.index is not None:
                    raise
                continue
            due -= 1
            if self.choice.cut and not any(sequence.cut_tokens for sequence in shown.sequences):
                continue
            yield shown
            found += 1
            if found == self.choice.number:
                return

    def shown(self, index: int, row: ReadRow) -> ShownRow:
        """Return a row as it is trained. Raises DataError."""
        where, content = row
        conversation = forms.convert(content, where, self.settings)
        found, whole = self.sequences(self.tokeniser, row), self.sequences(self.uncut, row)
        return ShownRow(
            index=index,
            where=where,
            answers=sum(message.is_answer for message in conversation.messages),
            target_answers=sum(runs(part.is_target) for part in whole),
            sequences=[
                Sequence(
                    pieces=self.decoder.pieces(part.ids, part.is_target, self.choice.ids),
                    target_tokens=sum(part.is_target[1:]),
                    cut_tokens=len(uncut.ids) - len(part.ids) if part.is_cut else 0,
                )
                for part, uncut in zip(found, whole, strict=True)
            ],
        )

    def sequences(self, tokeniser: Tokeniser, row: ReadRow) -> list[TokenisedRow]:
        """Return a row's sequences. Raises DataError."""
        (found,) = tokeniser.rows([row])
        if isinstance(found, DataError):
            raise found
        return found if isinstance(found, list) else [found]


def runs(is_target: list[bool]) -> int:
    """Return the number of runs of targets."""
    return sum(kind for kind, _ in itertools.groupby(is_target))


if __name__ == "__main__":
    main()
