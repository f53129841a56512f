"""Exact match, strict and flexible."""

import pytest

from sft.trainer.evaluation.score import Answer, is_exact_match, is_flexible_match, score


@pytest.mark.parametrize(
    ("answer", "strict", "flexible"),
    [
        ("so 3 + 2 = 5\n#### 5", True, True),
        ("#### 1,005", False, False),
        ("#### $5.00", True, True),
        ("the answer is 5.", False, True),
        ("the answer is 5, not 6", False, False),
        ("#### five", False, False),
        ("#### -5", False, False),
        ("", False, False),
    ],
)
def test_a_number_behind_four_hashes(answer, strict, flexible):
    assert is_exact_match(answer, "3 + 2 = <<3+2=5>>5\n#### 5") is strict
    assert is_flexible_match(answer, "3 + 2 = <<3+2=5>>5\n#### 5") is flexible


def test_thousands_separators_do_not_matter():
    assert is_exact_match("#### 1005", "#### 1,005") and is_flexible_match("1,005 apples", "#### 1005")


def test_other_references_are_compared_whole():
    assert is_exact_match("  Paris\n", "paris") and not is_exact_match("Paris, France", "paris")
    assert is_flexible_match("PARIS", "paris")


def test_shares_and_samples():
    rows = [Answer(i, "p", "#### 5", answer) for i, answer in enumerate(["#### 5", "5", "6", "#### 5"])]
    found = score(rows)
    assert (found.exact_match, found.exact_match_flexible, found.answers) == (0.5, 0.75, 4)
    assert [sample.correct for sample in found.samples] == [True, False, False]
    assert score([]).exact_match is None
