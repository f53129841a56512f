"""Rows as text: prompt, targets and end marks in different colours, or between marks where there are no colours."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.text import Text

from sft.errors import shown
from sft.host.rows.shorten import LONG_TOKENS, LeftOut, shortened
from sft.host.rows.visible import visible
from sft.host.rows.words import answers, cut, size, title, warnings
from sft.nouns import counted
from sft.run.shown_rows import Kind, Piece, Sequence, ShownRow, ShownRows

STYLES: dict[Kind, str] = {"context": "", "target": "bold green", "end": "bold white on red"}
CONTROL = "cyan"  # a control token of the model in the context
# Put around targets and around end marks if there are no colours: the first pair that no shown row contains.
MARKS = (("«", "»"), ("⟦", "⟧"), ("⟪", "⟫"), ("❰", "❱"), (">>>", "<<<"), ("{{{", "}}}"), ("[[[", "]]]"), ("(((", ")))"))
FEW_SEQUENCES = 4  # of a row that are shown, unless it was asked for by its number
TOKEN_WIDTH = 50  # characters of a token's text in the list of tokens

Marks = dict[Kind, tuple[str, str]]


class Writer:
    """Turns rows into text for one console, in colours if it has them."""

    def __init__(self, console: Console, found: ShownRows, max_length: int, whole: bool) -> None:
        """`whole`: leave nothing out of long rows."""
        self.found, self.max_length, self.whole = found, max_length, whole
        coloured = console.color_system is not None and not console.no_color
        self.marks = None if coloured else marks_for(found, console.encoding)

    def legend(self) -> Text:
        """Return what colours or marks mean."""
        if self.marks is None:
            parts = [("context", STYLES["context"]), ("control token", CONTROL), ("target", STYLES["target"])]
            parts.append(("end of an answer, a target too", STYLES["end"]))
            return Text("  ").join(Text(*part) for part in parts)
        target, end = (f"{before}…{after}" for before, after in (self.marks["target"], self.marks["end"]))
        return Text(f"{target} is a target, {end} a target that ends an answer; the rest is context")

    def row(self, row: ShownRow) -> Iterator[Text]:
        """Yield a row's lines."""
        yield Text(f"── {shown(title(row, self.found), 300)}", "bold")
        if row.answers:
            yield Text(answers(row.target_answers, row.answers))
        yield from (Text(line, "yellow") for line in warnings(row))
        if not self.whole and any(sequence.tokens > LONG_TOKENS for sequence in row.sequences):
            yield Text(f"long, so its middle is left out; INDEX={row.index} shows it whole")
        few = row.sequences if self.whole else row.sequences[:FEW_SEQUENCES]
        for number, sequence in enumerate(few, 1):
            if number > 1:
                yield Text()
            yield Text(size(sequence, number, row))
            if sequence.cut_tokens:
                yield Text(cut(sequence, self.max_length, row.dropped), "yellow")
            yield self.sequence(sequence)
            yield from token_lines(sequence)
        if len(few) < len(row.sequences):
            left = counted(len(row.sequences) - len(few), "more sequence")
            yield Text(f"{left} of this row left out; INDEX={row.index} shows everything")

    def sequence(self, sequence: Sequence) -> Text:
        """Return a sequence's text."""
        text = Text()
        pieces = list(sequence.pieces) if self.whole else shortened(sequence.pieces)
        before: Kind = "context"
        for piece in pieces:
            if isinstance(piece, LeftOut):
                text.append(str(piece), "dim italic")
                continue
            if self.marks is None:
                text.append(visible(piece.text), style_of(piece))
                continue
            if piece.kind != before:
                text.append(self.mark(before, 1) + self.mark(piece.kind, 0))
            text.append(visible(piece.text))
            before = piece.kind
        if self.marks is not None:
            text.append(self.mark(before, 1))
        return text

    def mark(self, kind: Kind, side: int) -> str:
        """Return the mark before (0) or after (1) text of a kind."""
        return self.marks[kind][side] if self.marks and kind in self.marks else ""


def marks_for(found: ShownRows, encoding: str) -> Marks:
    """Return marks for targets and for end marks that the rows do not contain and that the encoding has."""
    text = "".join(piece.text for row in found.rows for sequence in row.sequences for piece in sequence.pieces)
    free = [pair for pair in MARKS if not any(mark in text for mark in pair) and can_encode("".join(pair), encoding)]
    target, end = (*free, *MARKS)[:2]
    return {"target": target, "end": end}


def can_encode(text: str, encoding: str) -> bool:
    """Tell whether an encoding has every character of a text."""
    try:
        return text.encode(encoding).decode(encoding) == text
    except (UnicodeError, LookupError):
        return False


def style_of(piece: Piece) -> str:
    """Return the style of a piece in colours."""
    return CONTROL if piece.kind == "context" and piece.is_control else STYLES[piece.kind]


def token_lines(sequence: Sequence) -> Iterator[Text]:
    """Yield a line for each token, if they were asked for: its place, its id, its kind and its text."""
    place = 0
    for piece in sequence.pieces:
        kind = "" if piece.kind == "context" else piece.kind
        for token, text in zip(piece.ids, piece.token_texts, strict=False):
            line = f"{place:>7}{token:>9}  {kind:<7}"
            yield Text(line).append(shown(visible(repr(text)), TOKEN_WIDTH), style_of(piece))
            place += 1
