"""Random conversations over random chat templates: no token of another role is a target, and no word is lost."""

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sft.settings.load import load

from .corpus import grammar, matrix
from .corpus.families import Family
from .corpus.reference import Model


@pytest.fixture(scope="module")
def marked(tokenizer):
    """The tiny model's tokenizer with the marks of all drawn templates."""
    made = copy.deepcopy(tokenizer)
    made.add_tokens(list(grammar.MARKS), special_tokens=True)
    made.bos_token, made.eos_token = grammar.BOS, grammar.EOS
    return made


@given(
    drawn=grammar.GRAMMARS,
    row=grammar.rows(),
    system=st.sampled_from(["", "", "Be sylvarno."]),
    knows_its_ends=st.booleans(),  # or stops at EOS alone, as base models do
)
def test_what_is_trained_is_what_the_row_says(marked, drawn, row, system, knows_its_ends):
    marked.chat_template = drawn.template
    family = Family("drawn", "", grammar.EOS, drawn.stops, bos=grammar.BOS)
    model = Model("drawn", drawn.template, family, marked)
    settings = load(None, max_length=100_000, system_prompt=system)
    found = matrix.found_out(model, family.stops if knows_its_ends else [grammar.EOS])
    made = matrix.prepared(model, found, row, settings)
    matrix.judged(model, row, {"system_prompt": system}, made)
    assert not made.faults, f"{drawn.template}\n{made.refusal}"
