"""The zoo's results as text: a line for each family, a summary, and the page docs/families.md."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from tests.zoo.trial import Found, Result

PAGE = Path(__file__).resolve().parents[2] / "docs" / "families.md"
HEAD = """# Families

What `python -m tests.zoo` found: every family of which transformers makes a model that writes text, tiny and with random
weights, through this project's own preparation, training, export and evaluation, compared with a plain loop that takes
one row at a time. Multimodal families are trained on text as the class that they are published as; what text does not
pass must stay equal to the bit. Failures are listed too.

Before anything is prepared, `make train` makes a tiny copy of the model's own configuration and tries it on the run's
device: each fast way (attention, packing, loss in chunks, recomputed activations, Liger's kernels one by one) must give
the plain way's loss and the gradient of every weight. What differs by more than the rounding that another order of the
same sums causes is left out; what cannot be trained at all is refused with its reason. The result is kept in
`MODEL_PATH/trials`.

| word | meaning |
|---|---|
| right | loss and gradient norm of the first step, later losses, the resumed run, the exported weights and the answers are those of the plain loop |
| right (padded) | the same, but rows cannot be packed: slower, the more so the more their lengths differ |
| refused | with its reason, before anything is prepared |
| late | with its reason, but only once the ranks have loaded the model: before, a tiny copy of it is tried, and where no copy can be made nothing is known |
| wrong | trained or evaluated, but not as the plain loop does it |
| traceback | a crash, or the time limit (on a GPU it hit kernels that were still being compiled) |
| not built | no tiny model could be made of the family's configuration, so nothing is known of it |
"""  # noqa: E501


def short(result: Result) -> str:
    """Return a family's results in one line."""
    ways = [f"{way}={cell(found, way)} {reason(found)}".strip() for way, found in result.ways.items()]
    return f"{result.family:<24} plan {result.plan:<12.40} {'; '.join(ways)}"


def cell(found: Found, way: str) -> str:
    """Return a verdict, and whether rows had to be padded."""
    return found.verdict + " (padded)" * (way == "packed" and found.verdict == "right" and not found.packed)


def reason(found: Found, most: int = 110) -> str:
    """Return the beginning of a reason, without the folders of the machine that it comes from."""
    words = [word for word in found.reason.split() if not word.startswith(("MODEL_NAME=/", "/tmp/"))]
    words = [re.sub(r"^(\"?)/\S*/", r"\1", word) for word in words]
    return " ".join(words)[:most]


def summary(results: Iterable[Result]) -> str:
    """Return how many families there are of each verdict, way by way."""
    results = list(results)
    lines = [f"{len(results)} families"]
    for way in dict.fromkeys(way for result in results for way in result.ways):
        counts = Counter(cell(result.ways[way], way) for result in results if way in result.ways)
        lines.append(f"{way:<8} " + ", ".join(f"{number} {verdict}" for verdict, number in counts.most_common()))
    return "\n".join(lines)


def page(parts: Sequence[tuple[str, list[Result]]]) -> str:
    """Return docs/families.md from the results of several runs, each with a line that says where and with what."""
    texts = [HEAD]
    for title, results in parts:
        ways = list(dict.fromkeys(way for result in results for way in result.ways if way not in ("built", "process")))
        texts.append(f"## {title}\n\n{words_under(title)}```\n{summary(results)}\n```\n")
        texts.append(
            f"| family | {' | '.join(ways)} | plan's weights / true ones | reason |\n|{'---|' * (len(ways) + 3)}"
        )
        for result in sorted(results, key=lambda one: one.family):
            others = next((found for way, found in result.ways.items() if way not in ways), None)
            cells = [cell(result.ways[way], way) if way in result.ways else "" for way in ways]
            if others:
                cells[0] = cells[0] or others.verdict
            why = next((reason(found) for found in result.ways.values() if found.verdict != "right"), "")
            plan = result.plan if result.plan[:1].isdigit() else "unknown"
            texts.append(f"| {result.family} | {' | '.join(cells)} | {plan} | {why.replace('|', '/')} |")
        texts.append("")
    return "\n".join(texts)


def words_under(title: str) -> str:
    """Return what the page says under a heading, written by hand: it stays."""
    under = PAGE.read_text().partition(f"## {title}\n\n")[2] if PAGE.is_file() else ""
    return under.partition("```")[0]


def write(parts: Sequence[tuple[str, list[Result]]]) -> None:
    """Write docs/families.md."""
    PAGE.write_text(page(parts))
