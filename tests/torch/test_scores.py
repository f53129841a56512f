"""What counts as a right answer: exact match and last number, in every form that answers have."""

from decimal import Decimal

import pytest
from hypothesis import assume, given
from hypothesis import strategies as some

from sft.trainer.evaluation.answer_forms import decide
from sft.trainer.evaluation.score import Answer, compare, results, scored

RIGHT, WRONG, LAST_ONLY, PLACE_ONLY = (True, True), (False, False), (False, True), (True, False)


def verdict(answer, reference, form="mixed"):
    found = compare(answer, reference, form)
    return found.is_exact, found.is_last


def is_exact_match(answer, reference):
    return verdict(answer, reference)[0]


def score(answers):
    form = decide([item.reference for item in answers], "auto").form
    return results(scored(answers, form, "after"), form)


def table(*rows):
    return pytest.mark.parametrize(("answer", "reference", "expected"), rows)


def behind_the_mark(*rows):
    return table(*((f"#### {answer}", f"#### {reference}", expected) for answer, reference, expected in rows))


# What an earlier version of the project got wrong, or could get wrong


@table(
    ("#### Yes", "#### Yes", RIGHT),
    ("#### x = 5", "#### x = 5", RIGHT),
    ("#### (3, 4)", "#### (3, 4)", RIGHT),
    ("#### 3:30", "#### 3:45", WRONG),
    ("#### 2 1/2", "#### 2 1/4", WRONG),
    ("#### 2024-05-01", "#### 2024-06-01", WRONG),
    ("#### \u22125", "#### -5", RIGHT),
    ("#### +5", "#### 5", RIGHT),
    ("#### .5", "#### 0.5", RIGHT),
    ("#### \\boxed{5}", "#### 5", RIGHT),
    ("#### ¥500", "#### 500", RIGHT),
    ("#### 12345678901234567", "#### 12345678901234568", WRONG),
    ("between 4-5", "5", LAST_ONLY),
    ("# Title\n#### Part\ntext", "# Title\n#### Part\ntext", RIGHT),
    ("cafe\u0301", "caf\u00e9", RIGHT),
)
def test_cases_that_were_wrong(answer, reference, expected):
    assert verdict(answer, reference) == expected
    assert verdict(answer, reference, decide([reference]).form) == expected


# Numbers


@table(
    ("so 3 + 2 = 5\n#### 5", "3 + 2 = <<3+2=5>>5\n#### 5", RIGHT),
    ("#### 1,005", "3 + 2 = <<3+2=5>>5\n#### 5", WRONG),
    ("the answer is 5.", "3 + 2 = <<3+2=5>>5\n#### 5", LAST_ONLY),
    ("the answer is 5, not 6", "3 + 2 = <<3+2=5>>5\n#### 5", WRONG),
    ("#### five", "#### 5", WRONG),
    ("", "#### 5", WRONG),
    ("#### ", "#### 5", WRONG),
    ("between 4-5", "5", LAST_ONLY),
    ("4 - 5", "5", LAST_ONLY),
    ("4 - 5 = -1", "-1", LAST_ONLY),
    ("$5.00", "5", RIGHT),
)
def test_a_number(answer, reference, expected):
    assert verdict(answer, reference) == expected


FIVE = """5 5. 5.0 5.00 05 +5 $5 $5.00 5$ ¥5 £5 US$5 5% 5° 5km 5kg (5) 5; **5** `5` "5" $5$ $$5$$ \\boxed{5} \\fbox{5}
    \\$5 5\\% 5^\\circ 5^{\\circ} \\(5\\) \\text{5} 10/2 \\frac{10}{2} \\dfrac{10}2 5e0 0.5e1 50e-1 ５ ٥ 5円 5個
    5/1""".split()
FIVE += [
    "5 apples",
    "5 red apples",
    "5 dollars",
    "5 percent",
    "5 per day",
    "5 km/h",
    "5 \\text{ cm}",
    "x = 5",
    "$x = 5$",
]


LARGE = (
    """5K, 5k, 5bn, 5万, 5万円, 5千元, 5만원, 5 thousands, 5 lakh, 5 Tausend, 5 Millionen, 5 тысяч, 5 млн, 5 mille"""
)


@pytest.mark.parametrize("answer", LARGE.split(", "))
def test_a_word_for_a_large_number_is_no_unit(answer):
    assert not is_exact_match(f"#### {answer}", "#### 5")
    assert verdict(f"#### {answer}", f"#### {answer}") == RIGHT


@pytest.mark.parametrize("answer", ["5 miles", "5 K", "5千克", "5千米", "5 cents", "5 bins", "5 тонн"])
def test_a_unit_that_begins_as_such_a_word_is_one(answer):
    assert verdict(f"#### {answer}", "#### 5") == RIGHT


@pytest.mark.parametrize("answer", FIVE)
def test_every_spelling_of_five_is_five_and_no_other_number(answer):
    assert verdict(f"#### {answer}", "#### 5") == RIGHT
    assert verdict("#### 5", f"#### {answer}") == RIGHT
    for other in ("-5", "6", "55", "5.5", "1/5", "5/2", "5,000"):
        assert not is_exact_match(f"#### {answer}", f"#### {other}")
        assert not is_exact_match(f"#### {other}", f"#### {answer}")


@behind_the_mark(
    *(
        (spelling, "-5", RIGHT)
        for spelling in ["−5", "–5", "-$5", "$-5", "−$5", "- 5", "-5.0", "$-5$", "-\\frac{10}{2}"]
    ),
    *((spelling, "5", WRONG) for spelling in ["−5", "–5", "-$5", "$-5", "- 5", "-5 apples"]),
)
def test_signs(answer, reference, expected):
    assert verdict(answer, reference) == expected


@behind_the_mark(
    *((f"1{mark}234", "1234", RIGHT) for mark in [",", " ", "\u00a0", "\u2009", "\u202f", "{,}", "\\,", ",\\!"]),
    ("$1,234.50", "1234.5", RIGHT),
    ("1,00,000", "100000", RIGHT),
    ("1 000 000", "1000000", RIGHT),
    ("1,23", "123", WRONG),
    ("1,2345", "12345", WRONG),
    ("1,234", "1", WRONG),
    ("1,234", "1.234", WRONG),
    ("(1, 234)", "1234", WRONG),
)
def test_thousands_separators(answer, reference, expected):
    assert verdict(answer, reference) == expected


@behind_the_mark(
    (".5", "0.5", RIGHT), ("1e5", "100,000", RIGHT), ("1E+5", "100000", RIGHT), ("1.5 × 10^5", "150000", RIGHT),
    ("1.5 \\times 10^{5}", "150000", RIGHT), ("10^5", "100000", RIGHT), ("10⁵", "100000", RIGHT), ("10²", "102", WRONG),
    ("1e5", "1e6", WRONG), ("5 million", "5,000,000", RIGHT), ("5 million", "5", WRONG), ("0.1", "0.10", RIGHT),
    ("0.1", "0.1000000000000000001", WRONG), ("12345678901234567", "12345678901234568", WRONG),
    ("1e999999999", "1e999999999", RIGHT), ("1e999999999", "2e999999999", WRONG), ("9" * 5000, "9" * 5000, RIGHT),
    ("9" * 5000, "9" * 4999 + "8", WRONG),
)  # fmt: skip
def test_decimals_are_exact(answer, reference, expected):
    assert verdict(answer, reference) == expected


@behind_the_mark(
    ("1/2", "0.5", RIGHT), ("2/4", "1/2", RIGHT), ("½", "1/2", RIGHT), ("1⁄2", "1/2", RIGHT), ("1/2", "1/3", WRONG),
    ("\\frac{1}{2}", "1/2", RIGHT), ("\\frac12", "\\dfrac{1}{2}", RIGHT), ("\\frac{1}{2}", "\\frac{3}{2}", WRONG),
    ("2 1/2", "2.5", RIGHT), ("2½", "5/2", RIGHT), ("2\\frac{1}{2}", "2 1/2", RIGHT), ("2 1/2", "2 1/4", WRONG),
    ("2 and 1/2", "2.5", RIGHT), ("2 and a half", "2", WRONG), ("-1/2", "-0.5", RIGHT), ("21/2", "2 1/2", WRONG),
    ("1/0", "1", WRONG), ("1/0", "1/0", RIGHT),
)  # fmt: skip
def test_fractions(answer, reference, expected):
    assert is_exact_match(answer, reference) is expected[0]


# What is not a number only, or none at all


@behind_the_mark(
    ("3:30", "3:45", WRONG), ("03:30", "3:30", RIGHT), ("3:30 PM", "3:30", RIGHT), ("3:30 p.m.", "15:30", RIGHT),
    ("3:30 am", "3:30 pm", WRONG), ("3 pm", "3:00 PM", RIGHT), ("3 pm", "3 am", WRONG), ("3:30", "3", WRONG),
    ("12:00 am", "0:00", RIGHT), ("1:02:03", "1:02:04", WRONG), ("3:4", "3:4", RIGHT), ("3:4", "3:5", WRONG),
    ("2024-05-01", "2024-06-01", WRONG), ("2024-05-01", "2024/5/1", RIGHT), ("May 1, 2024", "2024-05-01", RIGHT),
    ("1st of May 2024", "May 1 2024", RIGHT), ("2024年5月1日", "2024-05-01", RIGHT), ("2024-05-01", "2024", WRONG),
    ("05/01/2024", "5/1/2024", RIGHT), ("05/01/2024", "01/05/2024", WRONG),
)  # fmt: skip
def test_times_and_dates(answer, reference, expected):
    assert verdict(answer, reference) == expected


@behind_the_mark(
    ("5 apple", "5 apples", RIGHT), ("5 apples", "5 pears", LAST_ONLY), ("5 km", "5 kilometres", RIGHT),
    ("5 km", "5 m", LAST_ONLY), ("5 km", "5 km/h", LAST_ONLY), ("60 mph", "60 miles per hour", RIGHT),
    ("5 m²", "5 square meters", RIGHT), ("5 m²", "5 m", LAST_ONLY), ("$18", "18 dollars", RIGHT),
    ("$18", "€18", LAST_ONLY),
    ("50%", "50 percent", RIGHT), ("50%", "0.5", WRONG), ("5 boxes", "5 box", RIGHT), ("5 hrs", "5 hours", RIGHT),
    ("5 or 6", "5", WRONG), ("5 or more", "5", LAST_ONLY), ("5 apples and 3 pears", "5", WRONG), ("5m", "5n", WRONG),
)  # fmt: skip
def test_units_count_if_both_have_one(answer, reference, expected):
    assert verdict(answer, reference) == expected


@behind_the_mark(
    ("x = 5", "x = 5", RIGHT), ("x=5.0", "x = 5", RIGHT), ("x = 5", "5", RIGHT), ("x = 5", "y = 5", LAST_ONLY),
    ("(3,4)", "(3, 4)", RIGHT), ("(3, 4)", "(5, 4)", WRONG), ("(3, 4)", "[3, 4]", WRONG),
    ("(0.5, 3)", "(1/2, 3.0)", RIGHT),
    ("2x+1", "2x + 1", RIGHT), ("2x + 1", "2x + 3", WRONG), ("2x + 1", "3x + 1", WRONG), ("y = 2x+1", "2x + 1", RIGHT),
    ("\\sqrt{2}", "2", WRONG), ("√2", "\\sqrt{2}", RIGHT), ("x^{2}", "x²", RIGHT), ("x²", "x2", WRONG),
    ("5\\pi", "5π", RIGHT), ("5π", "5", WRONG), ("Paris", "paris.", RIGHT), ("**Paris**", "Paris", RIGHT),
    ("Paris", "London", WRONG), ("cafe\u0301", "caf\u00e9", RIGHT), ("[3, 4)", "[3, 4)", RIGHT),
    ("[3, 4)", "[3, 4]", WRONG),
)  # fmt: skip
def test_terms_and_words(answer, reference, expected):
    assert verdict(answer, reference) == expected


@table(
    *(
        (answer, "B", RIGHT)
        for answer in ["B", "b", "(B)", "(b)", "B.", "B)", "**B**", "B) Paris", "(B) Paris", "B. Paris"]
    ),
    *(
        (answer, "B", RIGHT)
        for answer in ["The answer is B", "The answer is (B).", "Answer: B", "Option B", "\\text{B}"]
    ),
    *((answer, "B", WRONG) for answer in ["C", "(A)", "C) Paris", "The answer is C", "", "Bob", "B or C"]),
    ("I think A is wrong. The answer is (B).", "B", LAST_ONLY),
    ("A dog has four legs, so B", "B", LAST_ONLY),
    ("B", "B) Paris", RIGHT),
    ("B) London", "B) Paris", LAST_ONLY),
    ("#### (B)", "#### B", RIGHT),
    ("C and A", "A, C", RIGHT),
    ("(A), (C)", "A, C", RIGHT),
    ("A, B", "A, C", WRONG),
    ("A", "A, C", WRONG),
    ("I take A and C", "A, C", LAST_ONLY),
    ("A, C", "(A) and (C)", RIGHT),
    ("A", "(A) and (C)", WRONG),
    ("A) Paris and (C) Rome", "A", RIGHT),
    ("#### C", "#### B", WRONG),
    ("The answer is B", "#### B", LAST_ONLY),
    ("\\boxed{\\text{B}}", "\\boxed{B}", RIGHT),
    *((answer, "Yes", RIGHT) for answer in ["yes", "Yes.", "YES!", "**Yes**", "The answer is yes."]),
    *((answer, "Yes", WRONG) for answer in ["No", "no.", "yesterday", "The answer is no."]),
    ("Yes, because it rains.", "yes", LAST_ONLY),
    ("#### Yes", "#### No", WRONG),
    ("#### true", "#### True", RIGHT),
)
def test_choices(answer, reference, expected):
    assert verdict(answer, reference) == expected


@table(
    ("so it is $\\boxed{\\dfrac{1}{2}}$.", "We get \\boxed{0.5}", RIGHT),
    ("\\boxed{\\frac{1}{2}}", "\\boxed{\\frac{3}{2}}", WRONG),
    ("\\boxed{\\sqrt{2}}", "\\boxed{2}", WRONG),
    ("so 1/2", "\\boxed{\\frac{1}{2}}", LAST_ONLY),
    ("first \\boxed{3}, then \\boxed{5}", "\\boxed{5}", RIGHT),
    ("\\boxed{5}, which is 100 % right", "\\boxed{5}", RIGHT),
    ("\\boxed{x \\in \\{1, 2\\}}", "\\boxed{x\\in\\{1,2\\}}", RIGHT),
    ("\\boxed 5", "\\boxed{5}", RIGHT),
    ("\\boxed{5", "\\boxed{5}", LAST_ONLY),
    ("\\boxed{90^\\circ}", "\\boxed{90}", RIGHT),
    ("\\boxed{e^2x}", "\\boxed{e^{2x}}", WRONG),
    ("\\boxed{e^(2x)}", "\\boxed{e^{2x}}", RIGHT),
    ("\\boxed{\\sqrt{2}x}", "\\boxed{\\sqrt{2x}}", WRONG),
    ("\\boxed{x_max}", "\\boxed{x_{max}}", RIGHT),
    ("\\boxed{90^\\circ}", "\\boxed{\\theta = 90^\\circ}", RIGHT),
    ("\\boxed{12:30 \\text{ p.m.}}", "\\boxed{12:30}", RIGHT),
    ("\\boxed{\\begin{pmatrix}1\\\\2\\end{pmatrix}}", "\\boxed{\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}}", RIGHT),
    ("\\boxed{\\begin{pmatrix}1\\\\2\\end{pmatrix}}", "\\boxed{\\begin{pmatrix} 2 \\\\ 1 \\end{pmatrix}}", WRONG),
    ("\\boxed{\\left(3, \\frac{\\pi}{2}\\right)}", "\\boxed{(3,\\frac{\\pi}{2})}", RIGHT),
)
def test_boxes(answer, reference, expected):
    assert verdict(answer, reference) == expected


@table(
    ("(3,4)", "(3, 4)", RIGHT),
    ("2x+1", "2x + 1", RIGHT),
    ("(5, 4)", "(3, 4)", WRONG),
    ("2x + 3", "2x + 1", WRONG),
    ("it is (3, 4)", "(3, 4)", LAST_ONLY),
)
def test_terms_without_a_mark(answer, reference, expected):
    assert verdict(answer, reference) == expected
    assert verdict(answer, reference, "number") == expected


@table(
    ("  Paris\n", "paris", RIGHT),
    ("Paris, France", "paris", WRONG),
    ("“Paris”", '"Paris".', RIGHT),
    ("It takes 5 hours", "The train takes 5 hours.", LAST_ONLY),
    ("It takes 6 hours", "The train takes 5 hours.", WRONG),
    ("# Title\n#### Part\ntext", "# Title\n#### Part\ntext", RIGHT),
    ("# Title\n#### Part\nother words", "# Title\n#### Part\ntext", WRONG),
    ("#### Part", "# Title\n#### Part\ntext", WRONG),
    ("##### 5", "##### 6", WRONG),
)
def test_texts_are_compared_whole(answer, reference, expected):
    assert verdict(answer, reference) == expected


@table(
    ("#### 5\n\nQuestion: and 3 + 4?\n#### 7", "#### 5", PLACE_ONLY),
    ("#### 5\nThat is all.", "#### 5", RIGHT),
    ("#### 5 5 6 #### 7", "#### 5", WRONG),
    ("#### Step 1\nfirst this\n#### 5", "#### 5", RIGHT),
    ("**#### 5**", "#### 5", RIGHT),
    ("####5", "####\n5", RIGHT),
    ("#### 5\n", "so it is 5\n#### 5\nDone.", RIGHT),
    ("#### Paris\n\nQuestion: what else?\n#### London", "#### Paris", RIGHT),
    ("The capital is Paris.", "#### Paris", LAST_ONLY),
    ("the point (3, 4)", "#### (3, 4)", LAST_ONLY),
    ("the point (5, 4)", "#### (3, 4)", WRONG),
    ("#### New York", "#### York", WRONG),
)
def test_the_place_of_the_answer(answer, reference, expected):
    assert verdict(answer, reference) == expected


@table(
    ("So 2 + 3 = 5. The answer is: 5", "2 + 3 is 5.\nThe answer is: 5.0", RIGHT),
    ("So 2 + 3 = 5. The answer is 5. That is all.", "2 + 3 is 5.\nThe answer is: 5", RIGHT),
    ("The answer is 5.\n\nQuestion: more?\nThe answer is 7.", "2 + 3 is 5.\nThe answer is: 5", PLACE_ONLY),
    ("The answer is not 6. The answer is 5.", "2 + 3 is 5.\nThe answer is: 5", RIGHT),
    ("2 + 3 is 6.\nThe answer is: 6", "2 + 3 is 5.\nThe answer is: 5", WRONG),
    ("it is 5", "2 + 3 is 5.\nThe answer is: 5", LAST_ONLY),
    ("**Answer:** 1/2", "half of it.\n**Answer:** 0.5", RIGHT),
    ("Fish swim. The answer is (B).", "Birds fly, fish do not. So the answer is B.", RIGHT),
    ("Fish swim. The answer is (A).", "Birds fly, fish do not. So the answer is B.", WRONG),
    ("They do. The answer is yes", "They can swim.\nSo the answer is yes.", RIGHT),
    ("They do not. The answer is no", "They can swim.\nSo the answer is yes.", WRONG),
)
def test_what_is_said_to_be_the_answer(answer, reference, expected):
    assert verdict(answer, reference) == expected


# The form of an evaluation


@pytest.mark.parametrize(
    ("references", "form", "why"),
    [
        (["#### 5", "#### Yes", "#### (3, 4)"], "number", "all 3 references have ####"),
        (["#### B", "#### C"], "choice", "all 2 references have ####"),
        (["so \\boxed{5}", "\\boxed{x}"], "boxed", "the form of all 2 references"),
        (["A", "(B)", "C) Paris"], "choice", "the form of all 3 references"),
        (["yes", "No"], "choice", "the form of all 2 references"),
        (["5", "1/2", "3:30"], "number", "the form of all 3 references"),
        (["Paris is a city", "# Title\n#### Part\nwords"], "text", "the form of all 2 references"),
        (["1 + 1 is 2.\nThe answer is: 2", "so x. The answer is 1/2."], "number", "the form of all 2 references"),
        (["Fish swim. The answer is B.", "Birds fly. The answer is (C)."], "choice", "the form of all 2 references"),
        (["Paris is a city", "Rome is a city", "5"], "mixed", "2 text, 1 number"),
    ],
)
def test_auto_takes_the_form_of_all_references(references, form, why):
    decided = decide(references)
    assert decided.form == form and f"EVAL_ANSWER=auto: {why}" in decided.line
    for reference in references:
        assert verdict(reference, reference, form) == RIGHT


@pytest.mark.parametrize(
    ("form", "answer", "reference", "expected"),
    [
        ("number", "It takes five, 5 hours", "They need 5 h.", RIGHT),
        ("choice", "So it must be B. The answer is B.", "Because of that the answer is (B).", RIGHT),
        ("boxed", "so \\boxed{5.0}", "5", RIGHT),
        ("boxed", "so 5", "5", LAST_ONLY),
        ("text", "#### 5.0", "#### 5", LAST_ONLY),
    ],
)
def test_a_form_that_was_asked_for(form, answer, reference, expected):
    assert decide([reference], form).form == form
    assert verdict(answer, reference, form) == expected


def test_answers_that_did_not_end_are_counted():
    rows = [Answer(0, "p", "5", "5", "5", 3), Answer(1, "p", "5", "5 5", "5 5", 8, ended=False)]
    assert score(rows).cut_answers == 1


def test_shares_and_samples():
    rows = [Answer(i, "p", "#### 5", answer) for i, answer in enumerate(["#### 5", "5", "6", "#### 5"])]
    found = score(rows)
    assert (found.exact_match, found.exact_match_flexible, found.answers) == (0.5, 0.75, 4)
    assert [sample.correct for sample in found.samples] == [True, False, False]
    assert found.answer_form == "number" and found.cut_answers == 0
    assert score([]).exact_match is None and score([]).answer_form is None


# Properties

FRACTIONS = some.fractions(max_denominator=10**6)
DECIMALS = some.decimals(allow_nan=False, allow_infinity=False, places=6)
INTEGERS = some.integers(-(10**40), 10**40)


def bare(value: Decimal) -> list[str]:
    """Return a number as people and models write it."""
    minus, digits, grouped = "-" * (value < 0), f"{value.copy_abs():f}", f"{value.copy_abs():,f}"
    zeros = "0" if "." in digits else ".0"
    found = [digits, digits + zeros, grouped, grouped.replace(",", "\u2009"), f"{value.copy_abs():e}"]
    found += ["{}/{}".format(*value.copy_abs().as_integer_ratio())]
    return [minus + text for text in found] + ["\u2212" * (value < 0) + digits]


def dressed(value: Decimal) -> list[str]:
    """Return a number with what may be around it."""
    minus, digits = "-" * (value < 0), f"{value.copy_abs():f}"
    around = ["{} apples", "{}%", "**{}**", "\\boxed{{{}}}", "$x = {}$", "({})", "{}."]
    return [text.format(minus + digits) for text in around] + [f"{minus}${digits}", f"${minus}{digits}"]


@given(DECIMALS | INTEGERS.map(Decimal), some.data())
def test_the_same_number_is_right_in_every_spelling(value, data):
    one = data.draw(some.sampled_from(bare(value) + dressed(value)))
    other = data.draw(some.sampled_from(bare(value)))
    assert verdict(f"#### {one}", f"#### {other}") == verdict(f"#### {other}", f"#### {one}") == RIGHT
    assert verdict(f"\\boxed{{{one}}}", f"\\boxed{{{other}}}") == RIGHT
    assert is_exact_match(one, other)


@given(DECIMALS | INTEGERS.map(Decimal), DECIMALS | INTEGERS.map(Decimal), some.data())
def test_another_number_is_never_right(value, other, data):
    assume(value != other)
    one, two = (data.draw(some.sampled_from(bare(number) + dressed(number))) for number in (value, other))
    for form in ("mixed", "number", "boxed", "choice"):
        assert verdict(f"#### {one}", f"#### {two}", form) == WRONG
        assert verdict(one, two, form) == WRONG
    assert verdict(f"\\boxed{{{one}}}", f"\\boxed{{{two}}}") == WRONG


@given(some.integers(1, 10**18), some.integers(0, 10**6))
def test_a_number_is_never_compared_by_its_beginning(value, more):
    for text in (
        f"{value}{more}",
        f"{value}.{more}1",
        f"{value}/{more + 2}",
        f"{value}x + {more}",
        f"{value}:{more:02}",
    ):
        assert not is_exact_match(f"#### {text}", f"#### {value}") and not is_exact_match(
            f"#### {value}", f"#### {text}"
        )


@given(FRACTIONS, FRACTIONS)
def test_fractions_are_compared_by_their_value(value, other):
    texts = [f"{number.numerator}/{number.denominator}" for number in (value, other)]
    latex = f"\\frac{{{value.numerator}}}{{{value.denominator}}}"
    assert is_exact_match(f"#### {latex}", f"#### {texts[0]}")
    assert is_exact_match(f"#### {texts[0]}", f"#### {texts[1]}") is (value == other)


PIECES = some.sampled_from(
    "#### \\boxed{ } { \\frac{1}{2} 5 -5 1,234 . , ( ) $ % ** ` = x A B) yes Paris 3:30 2024-05-01 é ² ½ 5e5 / - ^ |"
    " \u2212 _ √ \\sqrt 1 000 \u200b \n".split(" ")
)
TEXTS = some.text() | some.lists(PIECES).map(" ".join) | some.lists(PIECES).map("".join)


@given(TEXTS, some.sampled_from(["mixed", "number", "boxed", "choice", "text"]))
def test_a_reference_is_always_its_own_answer(reference, form):
    assert verdict(reference, reference, form) == RIGHT


@given(TEXTS, TEXTS)
def test_every_text_has_a_verdict(answer, reference):
    decided = decide([reference])
    found = compare(answer, reference, decided.form)
    assert found == compare(answer, reference, "mixed")
    assert not found.is_exact or found.found is not None
