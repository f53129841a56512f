"""Rows as one HTML file that loads nothing from elsewhere. Everything in it that comes from rows is escaped."""

from __future__ import annotations

import html
from collections.abc import Iterator

from sft.host.rows.summary import summary
from sft.host.rows.visible import visible
from sft.host.rows.words import answers, cut, size, title, warnings
from sft.run.shown_rows import Piece, Sequence, ShownRow, ShownRows
from sft.settings.fields import Settings
from sft.settings.mixture import title as title_of_data

# Kinds differ in more than colour: targets are underlined, end marks are framed.
STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
pre { font: 13px/1.5 ui-monospace, monospace; white-space: pre-wrap; overflow-wrap: anywhere; }
pre.sequence { border: 1px solid #8884; border-radius: 4px; padding: .7rem; }
.control { color: #0a7d8c; }
.target { background: #2a93; text-decoration: underline #2a9; }
.end { background: #c33; color: #fff; border: 1px solid #700; border-radius: 3px; padding: 0 .2em; }
.cut { color: #b60; }
td { padding: 0 .8rem 0 0; font: 12px ui-monospace, monospace; }
td.number { text-align: right; }
"""
# A browser then loads and runs nothing, whatever the rows hold.
POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def page(found: ShownRows, settings: Settings) -> str:
    """Return the page."""
    head = f"Rows of {title_of_data(settings)} for {settings.model_name}"
    lines = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
        '<meta name="viewport" content="width=device-width">',
        f"<title>{escaped(head)}</title>",
        f"<style>{STYLE}</style></head><body>",
        f"<h1>{escaped(head)}</h1>",
        '<p>context, <span class="control">control token</span>, <span class="target">target</span>, '
        '<span class="end">end of an answer, a target too</span></p>',
        f"<pre>{escaped(chr(10).join(summary(found, settings)))}</pre>",
    ]
    if found.problems:
        lines.append(f'<h2>Rows that cannot be used</h2><pre class="cut">{escaped(chr(10).join(found.problems))}</pre>')
    for row in found.rows:
        lines += row_lines(row, found, settings)
    return "\n".join([*lines, "</body></html>", ""])


def row_lines(row: ShownRow, found: ShownRows, settings: Settings) -> Iterator[str]:
    """Yield the lines of a row, with all its sequences."""
    yield f"<h2>{escaped(title(row, found))}</h2>"
    if row.answers:
        yield f"<p>{answers(row.target_answers, row.answers)}</p>"
    yield from (f'<p class="cut">{line}</p>' for line in warnings(row))
    for number, sequence in enumerate(row.sequences, 1):
        yield f"<p>{size(sequence, number, row)}</p>"
        if sequence.cut_tokens:
            yield f'<p class="cut">{cut(sequence, settings.max_length, row.dropped)}</p>'
        yield f'<pre class="sequence">{"".join(map(piece_span, sequence.pieces))}</pre>'
        if any(piece.token_texts for piece in sequence.pieces):
            yield token_table(sequence)


def piece_span(piece: Piece) -> str:
    """Return a piece with the class of its kind."""
    return f'<span class="{class_of(piece)}">{escaped(piece.text)}</span>'


def class_of(piece: Piece) -> str:
    """Return the CSS class of a piece."""
    return "control" if piece.kind == "context" and piece.is_control else piece.kind


def token_table(sequence: Sequence) -> str:
    """Return a table of all tokens, folded until it is asked for."""
    rows, place = [], 0
    for piece in sequence.pieces:
        for token, text in zip(piece.ids, piece.token_texts, strict=False):
            shown = f'<span class="{class_of(piece)}">{escaped(repr(text))}</span>'
            rows.append(f'<tr><td class="number">{place}<td class="number">{token}<td>{piece.kind}<td>{shown}')
            place += 1
    names = "<tr><th>place<th>id<th>kind<th>text"
    return f"<details><summary>tokens</summary><table>{names}{''.join(rows)}</table></details>"


def escaped(text: str) -> str:
    """Return a text that stands for itself in HTML."""
    return html.escape(visible(text, "\n\t"))
