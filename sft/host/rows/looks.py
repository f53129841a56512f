"""What the looks before training found, in words: lines at the start and the end of a run, and `inv rows --check`."""

from __future__ import annotations

import re
import textwrap
from collections import Counter
from collections.abc import Iterator

from rich.cells import cell_len, set_cell_size

from sft.host.rows.visible import visible
from sft.nouns import counted
from sft.rows.looks.table import BY_NAME, LOOKS, Group, Look
from sft.run.records import FoundRow, LookCounts, LookFound, Looks

COLUMNS = 80
INDENT = "  "
LINE_ENDS = re.compile(r"[ \t\r\n]+")
NAMED = 3  # ways in which rows are odd, in one line
LISTED = 20  # rows of each look
LIST_THEM = "`make rows CHECK=1` lists them"


def lines(counts: LookCounts | None) -> Iterator[tuple[str, str]]:
    """Yield a label and a line for what was found, and for a warning."""
    if counts is None:  # prepared before there were looks
        return
    warning = list(leaked(counts))
    nothing = "no row is repeated, none is odd" + ("" if warning else ", and no held-out row is in training too")
    yield "looks", summary(counts) or nothing
    yield from warning


def of_results(counts: LookCounts | None, has_scores: bool) -> Iterator[tuple[str, str]]:
    """Yield a label and a line for what the results of a run are to be read with."""
    if counts and (found := summary(counts)):
        yield "looks", found
    if counts and has_scores:
        yield from leaked(counts)


def summary(counts: LookCounts) -> str:
    """Return one line for all repeated and odd rows that were found, or ""."""
    parts = []
    if repeated := in_group(counts.train, "repeated"):
        named = [f"{rows:,} {look.short} ({share(rows, counts.train_rows)})" for look, rows in repeated]
        parts.append(f"training rows: {', '.join(named)}")
    if counts.odd_rows:
        parts.append(odd(counts))
    return "; ".join([*parts, LIST_THEM]) if parts else ""


def odd(counts: LookCounts) -> str:
    """Return how many rows are odd, and in which ways most of them are."""
    found = Counter(counts.train) + Counter(counts.validation)
    ways = sorted(in_group(found, "odd"), key=lambda item: -item[1])
    named = ", ".join(f"{rows:,} {look.short}" for look, rows in ways[:NAMED])
    more = ", …" if len(ways) > NAMED else ""
    whole = counts.train_rows + counts.validation_rows
    return f"{counted(counts.odd_rows, 'odd row')} ({share(counts.odd_rows, whole)}): {named}{more}"


def leaked(counts: LookCounts) -> Iterator[tuple[str, str]]:
    """Yield a warning if held-out rows are in training too."""
    found = in_group(counts.validation, "leaked")
    if not found:
        return
    number = sum(held_out for _, held_out in found)
    one = number == 1
    how = ", ".join(f"{held_out:,} {look.short}" for look, held_out in found)
    rows = counts.validation_rows
    what = f"{number:,} of {counted(rows, 'held-out row')} ({share(number, rows)})"
    score = f"{'its' if one else 'their'} score shows what the model remembers, not what it can do"
    yield "warning", f"{what} {'is' if one else 'are'} in training too ({how}): {score}; {LIST_THEM}"


def in_group(counts: dict[str, int], group: Group) -> list[tuple[Look, int]]:
    """Return the looks of a group that found rows, with their number, in the order of the table."""
    return [(look, counts[look.name]) for look in LOOKS if look.group == group and counts.get(look.name)]


def share(part: int, whole: int) -> str:
    """Return a part of a whole in per cent; one that is not 0 is never shown as 0."""
    percent = 100 * part / whole if whole else 0.0
    return "<0.1 %" if 0 < percent < 0.05 else f"{percent:.1f} %"


# The list


def listing(found: Looks) -> Iterator[str]:
    """Yield all that was found, in lines of 80 columns."""
    of = {"train": found.counts.train_rows, "validation": found.counts.validation_rows}
    yield f"{counted(of['train'], 'training row')}, {of['validation']:,} held out"
    for item in found.found:
        if item.look in BY_NAME:  # a newer version of the project may have others
            yield ""
            yield from of_look(item, BY_NAME[item.look], of[item.split])
    if not found.found:
        yield "no row is repeated, none is odd, and no held-out row is in training too"
    elif any(BY_NAME[item.look].group == "odd" for item in found.found if item.look in BY_NAME):
        yield ""
        yield from wrapped("Odd rows may be right: look at them before you remove any.", "")


def of_look(item: LookFound, look: Look, rows: int) -> Iterator[str]:
    """Yield what a look found, and what to do about it."""
    split = "" if look.group != "odd" else {"train": "training: ", "validation": "held out: "}[item.split]
    yield from wrapped(f"{split}{look.title}: {item.number:,} ({share(item.number, rows)})", "")
    yield from wrapped(look.advice, INDENT)
    for row in item.rows[:LISTED]:
        yield from of_row(row)
    if item.number > LISTED:
        named = " (JSON=1 names the first ones)" if len(item.rows) < item.number else " (JSON=1 names them)"
        yield f"{INDENT}and {item.number - LISTED:,} more{named}"


def of_row(row: FoundRow) -> Iterator[str]:
    """Yield a row's place and the beginning of its texts."""
    yield from wrapped(f"{row.where}{f' is like {row.like}' if row.like else ''}", INDENT)
    if row.prompt:
        yield one_line(row.prompt, f"{INDENT * 2}asks:    ")
    yield one_line(row.answer, f"{INDENT * 2}{'answers:' if row.prompt else 'text:   '} ", whole_end=True)


def one_line(text: str, indent: str, whole_end: bool = False) -> str:
    """Return a text on one line of 80 columns. `whole_end`: its middle is left out, not its end."""
    line = indent + visible(LINE_ENDS.sub(" ", text).strip(), "")
    if cell_len(line) <= COLUMNS:
        return line
    if not whole_end:
        return f"{set_cell_size(line, COLUMNS - 1).rstrip()}…"
    half = (COLUMNS - 3) // 2
    end = set_cell_size(line[::-1], half)[::-1]
    return f"{set_cell_size(line, half).rstrip()} … {end.lstrip()}"


def wrapped(text: str, indent: str) -> Iterator[str]:
    """Yield a text in lines of 80 columns."""
    yield from textwrap.wrap(
        visible(text, ""), COLUMNS, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False
    )
