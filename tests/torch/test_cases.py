"""The inputs of tests/cases become what its table says: rows with these targets, or a refusal in these words."""

import pytest

from tests.cases import expected, made
from tests.cases.outcome import outcome

CASES = expected.cases()


@pytest.mark.parametrize("name", CASES)
def test_an_input_becomes_what_is_expected(name, tiny, tmp_path):
    case = CASES[name]
    path = expected.input_of(name, case, tmp_path)
    assert outcome(path, tiny, tmp_path / "cache", **case.settings) == case.outcome


def test_every_input_has_a_case():
    inputs = {path.name for path in expected.INPUTS.iterdir()} | made.FILES.keys()
    assert inputs == {case.input or name for name, case in CASES.items()}
