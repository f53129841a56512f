"""What `make rows` says of the whole split: counts, lengths, what was cut, the chat template. Lines of 80 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from sft import long_rows
from sft.errors import shown
from sft.host.rows import looks
from sft.host.rows.columns import columns
from sft.host.rows.parts import parts
from sft.host.rows.texts import not_applied, noun
from sft.host.rows.visible import visible
from sft.host.rows.words import answers, lost
from sft.nouns import counted
from sft.run.records import Split, TemplateFacts
from sft.run.shown_rows import Bar, ShownRows
from sft.settings.fields import Settings

COLUMNS = 80
LABEL = 10  # columns of the labels on the left
BAR = 40  # columns of the longest bar


def summary(found: ShownRows, settings: Settings) -> Iterator[str]:
    """Yield the lines."""
    if found.counts:
        yield from of_split(found, found.counts, settings)
    else:
        what = f"{counted(found.number, 'row')}, some of which cannot be used: they are named below"
        yield from labelled(found.split, f"{what}. The figures of the split need every row")
    for label, line in looks.lines(found.looks):
        yield from labelled(label, line)
    if found.template:
        yield from of_template(found.template)


def of_split(found: ShownRows, counts: Split, settings: Settings) -> Iterator[str]:
    """Yield the counts of a split, its lengths, and what is unusual."""
    rows = counts.read or counts.rows
    share = f" ({counts.target_tokens / counts.tokens:.0%})" if counts.tokens else ""
    yield from labelled(
        found.split,
        f"{counted(rows, noun(counts))}, {counted(counts.rows, 'sequence')}, {counted(counts.tokens, 'token')}, "
        f"{counts.target_tokens:,} targets{share}",
    )
    if counts.answers:
        yield from labelled("", answers(counts.target_answers, counts.answers))
    yield from histogram(found.lengths, settings.max_length, counts)
    for line in parts(found.parts):
        yield from labelled("data set", line)
    for line in columns(counts):
        yield from labelled("columns", line)
    for label, line in unusual(counts, settings):
        yield from labelled(label, line)


def unusual(counts: Split, settings: Settings) -> Iterator[tuple[str, str]]:
    """Yield a label and a line for everything in a split that its user should know."""
    if counts.cut_rows:
        share = f"({counts.cut_rows / counts.read:.1%})"
        what = f"{counted(counts.cut_rows, 'row')} at MAX_LENGTH={settings.max_length} {share}; CUT=1 shows some"
        yield "cut", what
    if counts.dropped_sequences:
        what = f"{counted(counts.dropped_sequences, 'more sequence')}: no target is left within MAX_LENGTH"
        yield "left out", what
    for reason, number in counts.dropped.items():
        yield "dropped", f"{counted(number, 'row')} ({number / counts.read:.1%}): {reason}"
    if counts.messages_left_out:
        yield "left out", f"{counted(counts.messages_left_out, 'message')} after the last answer of a row"
    if warning := long_rows.warning(counts, settings):
        yield "warning", warning
    if counts.kind == "texts" and (line := not_applied(settings)):
        yield "settings", line
    if counts.rows_with_marks:
        become = "become those tokens" if settings.special_tokens_in_text == "parse" else "stay ordinary characters"
        what = f"{hold(counts.rows_with_marks)} control marks of the model in the text; they {become}"
        yield "warning", f"{what} (SPECIAL_TOKENS_IN_TEXT={settings.special_tokens_in_text})"
    if counts.rows_with_lost:
        yield "warning", f"{hold(counts.rows_with_lost)} {lost(counts.lost)}"
    if counts.rows_with_template:
        if counts.kind == "texts":
            what = f"{hold(counts.rows_with_template)} turns of a chat template, whose questions are trained too"
            yield "warning", f"{what}; to train the answers alone, write the rows as `messages` (docs/data.md)"
            return
        what = f"{hold(counts.rows_with_template)} a whole turn of the chat template in the text"
        yield "warning", f"{what}: almost always a mistake, as the template is then applied twice"


def hold(rows: int) -> str:
    """Return a number of rows with the verb."""
    return f"{counted(rows, 'row')} {'holds' if rows == 1 else 'hold'}"


def of_template(facts: TemplateFacts) -> Iterator[str]:
    """Yield what was found out about the chat template."""
    by_whom = ", put there by this project" if facts.end_is_appended else ""
    yield from labelled("template", f"{facts.source}; an answer ends with {facts.end_mark!r}{by_whom}")
    if facts.added_stops:
        stops = ", ".join(map(repr, facts.added_stops))
        yield from labelled("", f"generation ends at {stops} too, which the model itself does not stop at")
    for line in facts.said:
        yield from labelled("", line)


def labelled(label: str, text: str) -> Iterator[str]:
    """Yield a text in lines of 80 columns, with a label on the left."""
    wrapped = textwrap.wrap(visible(text, ""), COLUMNS - LABEL - 1, break_long_words=False, break_on_hyphens=False) or [
        ""
    ]
    for number, line in enumerate(wrapped):
        yield f"{'' if number else shown(label):<{LABEL}} {line}"


# Lengths


def histogram(lengths: list[Bar], max_length: int, counts: Split) -> Iterator[str]:
    """Yield a bar for each range of lengths, and where MAX_LENGTH is among them."""
    most = max((bar.sequences for bar in lengths), default=0)
    if not most:
        return
    names = [f"{bar.least:,}-{bar.most:,}" if bar.least < bar.most else f"{bar.least:,}" for bar in lengths]
    width = max(LABEL, *map(len, names))
    digits = len(f"{most:,}")
    yield ""
    yield f"{'tokens':>{width}} {'sequences':>{digits}}"
    for name, bar in zip(names, lengths, strict=True):
        mark = f" MAX_LENGTH={max_length}" if bar.least <= max_length <= bar.most else ""
        room = COLUMNS - width - digits - 3 - len(mark)
        yield f"{name:>{width}} {bar.sequences:>{digits},} {drawn(bar.sequences, most, min(BAR, room))}{mark}".rstrip()
    if max_length > counts.longest and not (counts.cut_rows or counts.dropped_rows):
        yield from labelled("", f"longest {counts.longest:,}; MAX_LENGTH={max_length} cuts none")
    yield ""


def drawn(number: int, most: int, width: int) -> str:
    """Return a bar; a number above 0 is never drawn as nothing."""
    return "█" * max(round(width * number / most), int(number > 0))
