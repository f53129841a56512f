"""Slices name the rows that the library names: datasets.ReadInstruction."""

import datasets
from hypothesis import given
from hypothesis import strategies as st

from sft.settings.slices import parse

BOUNDS = st.none() | st.integers(-130, 130)


@given(BOUNDS, BOUNDS, st.booleans(), st.integers(0, 300))
def test_rows_are_those_of_the_library(start, stop, percent, rows):
    mark = "%" if percent else ""
    bounds = ["" if bound is None else f"{bound}{mark}" for bound in (start, stop)]
    spec = f"train[{':'.join(bounds)}]"
    try:
        theirs = datasets.ReadInstruction.from_spec(spec).to_absolute({"train": rows})[0]
    except (ValueError, AssertionError):
        theirs = None
    try:
        ours = parse(spec)[0].of(rows)
    except ValueError:
        assert theirs is None
        return
    if theirs is not None:
        assert list(ours) == list(range(theirs.from_, theirs.to)), spec
    assert str(parse(spec)[0]) == ("train" if start is stop is None else spec)
