"""Show rows as they are trained: `python -m sft.trainer.data.show_rows`, started by `make rows` and `make test-env`.

Prints one line of JSON, the last one, as libraries write to this output too: `ShownRows`, or with --probe what is found
out about the chat template, or with --check what the looks at all rows found. The tokenizer is found or downloaded, the
weights are not. The rows are prepared into the cache, or taken from it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from sft.errors import DataError, SftError, UserError, wrong
from sft.rows.files import ReadRow
from sft.run import owners, typed_json
from sft.run.records import Looks, PreparedData, Split
from sft.run.shown_rows import ROWS, RowChoice, ShownRow, ShownRows
from sft.settings.fields import Settings
from sft.settings.load import load
from sft.settings.mixture import parts_of
from sft.trainer import process
from sft.trainer.data import looks, sources
from sft.trainer.data.base_model import tokenizer_folder
from sft.trainer.data.lengths import histogram
from sft.trainer.data.mixed_rows import rows_in
from sft.trainer.data.prepared_data import prepared_data, tokeniser_for, tokeniser_of
from sft.trainer.data.row_view import Viewer
from sft.trainer.data.rows import Rows
from sft.trainer.data.texts import TextTokeniser
from sft.trainer.data.tokenise import Tokeniser


def main() -> None:
    """Print the rows that the options choose. Exit code 2 if the user can fix it."""
    process.begin()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--probe", action="store_true", help="only find out what the chat template does")
    parser.add_argument("--check", action="store_true", help="only print what the looks at all rows found")
    parser.add_argument("--split", choices=["train", "validation"], default="train")
    parser.add_argument("--number", type=int, default=ROWS)
    parser.add_argument("--index", type=int)
    for name in ("longest", "cut", "ids"):
        parser.add_argument(f"--{name}", action="store_true")
    given = vars(parser.parse_args())
    only_probe, check = given.pop("probe"), given.pop("check")
    try:
        settings = load()
        model = tokenizer_folder(settings)
        # Looking at the template alone must not download a data set.
        is_here = not only_probe or all(sources.dataset_folder(part.settings) for part in parts_of(settings))
        tokeniser = tokeniser_of(settings, model, sources.kind(settings) if is_here else "conversations")
        if only_probe:
            found = tokeniser.facts.to_json() if tokeniser.facts else {"texts": True}
        elif check:
            found = typed_json.content_of(typed_json.read(prepared_data(settings, model)[0] / looks.FILE, Looks))
        else:
            found = typed_json.content_of(show(model, tokeniser, RowChoice(**given)))
    except SftError as error:
        print(json.dumps({"error": str(error)}), flush=True)
        sys.exit(error.exit_code)
    except PermissionError as error:
        reason = owners.not_yours(Path(error.filename or "data"))
        print(json.dumps({"error": reason}), flush=True)
        sys.exit(UserError("").exit_code)
    print(json.dumps(found), flush=True)


def show(model: Path, tokeniser: Tokeniser | TextTokeniser, choice: RowChoice) -> ShownRows:
    """Return the chosen rows, and the figures of their split. Raises SettingsError and DataError.

    `model` is the folder of the tokenizer. Rows that cannot be used are `problems`; the others are shown all the same.
    """
    settings = tokeniser.settings
    prepared: PreparedData | None = None
    rows: Rows | None = None
    problems: list[str] = []
    try:
        folder, prepared = prepared_data(settings, model)
        rows = rows_in(folder / choice.split, repeated=False)
    except DataError as error:
        if choice.longest or choice.cut:  # these are about all rows
            raise
        problems = str(error).splitlines()
    counts: Split | None = getattr(prepared, choice.split) if prepared else None
    number = counts.read if counts else sum(1 for _ in source(settings, choice))
    if choice.index is not None and choice.index >= number:
        has = f"numbered from 0 to {number - 1}" if number else "so there is nothing to show"
        what = f"the {choice.split} split has {number} row{'s' * (number != 1)}, {has}"
        raise UserError(wrong("INDEX", choice.index, what, "use one of them"))
    shown = list(
        chosen(source(settings, choice), wanted(choice, number, rows, settings), Viewer(tokeniser, choice), model)
    )
    if choice.longest:
        shown.sort(key=lambda row: -max((sequence.tokens for sequence in row.sequences), default=0))
    return ShownRows(
        split=choice.split,
        rows=shown,
        number=number,
        counts=counts,
        lengths=[] if rows is None else histogram(rows_in(folder / choice.split).lengths),
        template=tokeniser.facts,
        problems=problems,
        parts=prepared.parts if prepared else [],
        looks=prepared.looks if prepared else None,
    )


def source(settings: Settings, choice: RowChoice) -> Iterator[tuple[Settings, ReadRow]]:
    """Yield the rows of the chosen split, each with the settings of its data set."""
    for part in parts_of(settings):
        found = sources.rows_of(part)
        yield from ((part.settings, row) for row in (found.train if choice.split == "train" else found.validation))


def wanted(choice: RowChoice, number: int, rows: Rows | None, settings: Settings) -> set[int]:
    """Return the numbers of the rows to look at: with CUT=1, of all that may be cut."""
    if choice.index is not None:
        return {choice.index}
    if rows is not None and (choice.longest or choice.cut):
        if choice.cut:
            full = set(rows.row_of[rows.lengths >= settings.max_length].tolist())
            return full | (set(range(number)) - set(rows.row_of.tolist()))  # and those that are dropped
        longest_first = rows.row_of[np.argsort(-rows.lengths, kind="stable")].tolist()
        return set(list(dict.fromkeys(longest_first))[: choice.number])
    few = min(choice.number, number)
    return {round(i * (number - 1) / max(1, few - 1)) for i in range(few)}  # all over the split


def chosen(
    rows: Iterator[tuple[Settings, ReadRow]], wanted: set[int], viewer: Viewer, model: Path
) -> Iterator[ShownRow]:
    """Yield the wanted rows; in place of one that cannot be used, the next one. Raises DataError for INDEX."""
    choice = viewer.choice

    def found() -> Iterator[ShownRow]:
        due = 0
        its_own = viewer
        for index, (settings, row) in enumerate(rows):
            due += index in wanted
            if not due:
                continue
            try:
                if its_own.tokeniser.settings is not settings:
                    its_own = replace(
                        viewer, tokeniser=tokeniser_for(settings, sources.kind(settings), viewer.tokeniser, model)
                    )
                shown = its_own.shown(index, row)
            except DataError:
                if choice.index is not None:
                    raise
                continue
            due -= 1
            if not choice.cut or any(sequence.cut_tokens for sequence in shown.sequences):
                yield shown

    return itertools.islice(found(), choice.number)


if __name__ == "__main__":
    main()
