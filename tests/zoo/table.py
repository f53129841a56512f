"""The zoo's results as text: a line for each family, a summary, and the page docs/families.md."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from tests.zoo.trial import Result


def short(result: Result) -> str:
    """Return a family's results in one line."""
    ways = []
    for way, found in result.ways.items():
        padded = " (padded)" if way == "packed" and not found.packed else ""
        ways.append(f"{way}={found.verdict}{padded} {' '.join(found.reason.split())[:110]}".strip())
    return f"{result.family:<24} plan {result.plan:<12.40} {'; '.join(ways)}"


def summary(results: Iterable[Result]) -> str:
    """Return how many families there are of each verdict, way by way."""
    results = list(results)
    lines = [f"{len(results)} families"]
    for way in dict.fromkeys(way for result in results for way in result.ways):
        counts = Counter(result.ways[way].verdict for result in results if way in result.ways)
        lines.append(f"{way:<8} " + ", ".join(f"{number} {verdict}" for verdict, number in counts.most_common()))
    return "\n".join(lines)


def write(results: Iterable[Result], device: str) -> None:
    """Write docs/families.md."""
    lines = [short(result) for result in results]
    text = "\n".join(["# Families", "", f"On {device}.", "", "```", *lines, "```", ""])
    (Path(__file__).resolve().parents[2] / "docs" / "families.md").write_text(text)
