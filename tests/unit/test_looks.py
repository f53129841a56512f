"""Looks at rows before training: what each of them finds, and what is near and must not be found."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from sft.host.rows import looks as words
from sft.rows.conversation import Conversation, Message
from sft.rows.looks import answers, characters
from sft.rows.looks.compare import compare
from sft.rows.looks.digests import result_of
from sft.rows.looks.normal import normal
from sft.rows.looks.row import look
from sft.rows.looks.said import Said, of_conversation, of_text
from sft.rows.looks.seen import Places, Seen
from sft.rows.looks.table import BY_NAME, LOOKS
from sft.run.records import FoundRow, LookCounts, LookFound, Looks

LONG = "They came to the river every day to sell bread and fish in"
LOOP = "I am sorry, I cannot say. "


def said(question, answer):
    return of_conversation(Conversation.of([Message("user", question), Message("assistant", answer)], "a:1"))


def odd(question, answer):
    return set(look(said(question, answer), "a:1").odd)


def seen(*rows, name="train.jsonl"):
    found = Seen()
    for number, row in enumerate(rows, start=1):
        found.add(look(row if isinstance(row, Said) else said(*row), f"{name}:{number}"))
    return found


def found(train, held_out=()):
    """Return rows by look: of training, and of what is held out as negative numbers, all counted from 1."""
    result = {}
    for item in compare(seen(*train), seen(*held_out, name="test.jsonl")):
        sign = 1 if item.split == "train" else -1
        result.setdefault(item.look, []).extend(sign * (row + 1) for row in item.rows.tolist())
    return result


@pytest.mark.parametrize(
    ("answer", "name"),
    [
        (f"{LONG} the", "cut_short"),
        (f"{LONG} the, \n", "cut_short"),
        (f"{LONG} front of these houses:", "cut_short"),
        (f"{LONG} front (", "cut_short"),
        ("Like this:\n```python\nprint(1)", "cut_short"),
        ("<think>\nTwo and two are four.", "cut_short"),
        ("\u200b", "wordless"),
        (" ".join(map(str, range(9999)))[:32_767], "cut_short"),
        (LOOP * 20, "loop"),
        (f"It is easy to see. {LOOP * 20}I am s", "loop"),
        ("哈哈哈哈" * 60, "loop"),
        ("CafÃ© au lait", "mojibake"),
        ("it â€™s so", "mojibake"),
        ("15 Â°C", "mojibake"),
        ("nice ðŸ˜€", "mojibake"),
        ("a \ufffd b", "replacement"),
        ("a\0b", "control"),
        ("\x1b[31mred\x1b[0m", "control"),
        ("Tom &amp; Jerry", "entities"),
        ("It&#39;s here", "entities"),
        ("nan", "placeholder"),
        (" null\n", "placeholder"),
        ("#N/A", "placeholder"),
        (r"Two fruits:\n\n1. Apple\n2. Pear", "escaped"),
        ("...", "wordless"),
        ("Why?", "echo"),
        ("Blue.<|im_end|>", "marks"),
        ("[INST] Why? [/INST] So.", "marks"),
        ("### Instruction:\nWhy?\n\n### Response:\nSo.", "marks"),
    ],
)
def test_odd_answers_are_found(answer, name):
    assert odd("Why?", answer) == {name}


@pytest.mark.parametrize(
    "answer",
    [
        "4", "A", "#### 5", "so", "Paris", "NaN", "None", "N/A", "-5", "+", "👍", "は", "the", "of",
        f"{LONG} it", f"{LONG}.", f"{LONG} what they are looking for",
        "Thank you for all that you have done for us.\n\nBest regards,",
        "for x in range(10):", "else:", "[1, 2, 3]", "{", "x = 1;", "```\nprint(1)\n```",
        "0 " * 500, "1 0 1 0\n" * 100, "| - | - |\n" * 40, "no no no no", "I will not talk in class. " * 3,
        "É um café à la crème à Zürich, naïve Übergröße",
        "AMANHÃ” disse", "« voilà » dit-il", "IRMÃ…", "São João: “não”",
        "Â", "Ã", "tabs\tand\r\nlines\n", "a\u200bb", "zero\xa0width", "👩‍👩‍👧", "می‌خواهم", "x² + y³ ≤ √2",
        "<p>Tom &amp; Jerry</p>", "Write `&amp;` for an ampersand", "In HTML it is &lt;", "AT&T and R&D; done",
        "?a=1&copy=2", "<think>Two and two.</think>4", "The mark <think> opens reasoning.",
        r"Write print('a\nB\nC') or \"a\n\nb\".", r"\nabla f = \nu \neq 0", r"C:\New\Names",
        r"`a\n\nb`", r"It ends with \n.",
        "a < b and c > d | e <| f", "Use [INST] as a mark", "### Response:\nthe heading of an API page", "Human: hi",
    ],
)  # fmt: skip
def test_what_only_looks_odd_is_not_found(answer):
    assert odd("Why is it so?", answer) == set()


def test_a_prompt_that_is_a_template_already_is_found():
    for prompt in (
        "Human: Why?\n\nAssistant:", "\n\nHuman: Why?\n\nAssistant:", "### Human: Why?\n### Assistant:",
        "<|START_OF_TURN_TOKEN|>Why?", "<|turn>user\nWhy?",
    ):  # fmt: skip
        assert odd(prompt, "So.") == {"marks"}, prompt
    assert odd("What is an Assistant: a Human: or a machine?", "A machine") == set()


def test_a_placeholder_is_found_where_an_input_was_to_be():
    assert odd("Name a fruit.\n<noinput>", "Apple") == odd("Name a fruit.\nnan", "Apple") == {"placeholder"}
    assert odd("What does 0 / 0 give?\nAnswer nan or null", "nan, as it is no number") == set()


def test_only_an_empty_message_of_the_user_is_an_empty_prompt():
    assert odd(" \n", "Yes.") == {"empty_prompt"}
    call = Message("assistant", None, keys={"tool_calls": [{"function": {"name": "f", "arguments": {}}}]})
    chat = [Message("user", "Rain?"), call, Message("tool", ""), Message("assistant", "Yes, it rains.")]
    assert look(of_conversation(Conversation.of(chat, "a:1")), "a:1").odd == ()
    assert look(of_text("Only text, and it is long, and"), "a:1").odd == ()
    assert look(of_text(LOOP * 20), "a:1").odd == ("loop",)


def test_every_answer_of_a_conversation_is_looked_at():
    chat = [
        Message("user", "a?"),
        Message("assistant", f"{LONG} the"),
        Message("user", "b?"),
        Message("assistant", "c"),
    ]
    assert look(of_conversation(Conversation.of(chat, "a:1")), "a:1").odd == ("cut_short",)
    context = [chat[0], Message("assistant", f"{LONG} the", is_target=False), *chat[2:]]
    assert look(of_conversation(Conversation.of(context, "a:1")), "a:1").odd == ()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What is 2 + 2?", "what is  2 + 2 ?\n"),
        ("So . and ...\n\nthus", "so, and thus."),
        ("Say “hello”, Tom!", 'say "hello" Tom'),
        ("It’s a café – really…", "It's a cafe\u0301 - really..."),
        ("Ｆｕｌｌ width", "full width"),
        ("你好。", "你好"),
    ],
)
def test_texts_are_alike_apart_from_how_they_are_written(one, other):
    assert normal(one) == normal(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1.5", "15"), ("1,5", "15"), ("-5", "5"), ("2 + 3", "2 - 3"), ("x < 3", "x > 3"), ("5²", "52"), ("5!", "5"),
        (".5", "5"), ("x[1]", "x1"), ("f(x)", "fx"), ("50%", "50"), ("$5", "5"), ("x₁", "x1"), ("C++", "C"),
        ("???", "!!!"),
        ("a b", "ab"), ("resume", "résumé"), ("1/2", "12"), ("½", "12"), ("3:30", "330"),
    ],
)  # fmt: skip
def test_texts_that_say_something_else_are_not_alike(one, other):
    assert normal(one) != normal(other)


def test_repeated_rows_are_found_behind_the_first_of_them():
    rows = [("a?", "one"), ("b?", "two"), ("a?", "one"), ("A ?", "One."), ("a?", "one"), ("c?", "one")]
    assert found(rows) == {"repeated": [3, 5], "repeated_alike": [4]}


def test_the_same_question_with_another_answer():
    rows = [
        ("a?", "so\n#### 5"),
        ("a?", "or\n#### $5.00"),
        ("a?", "no\n#### 6"),
        ("A?", "#### 7"),
        ("b?", "x"),
        ("b?", "y"),
    ]
    assert found(rows) == {"contradiction": [3], "several_answers": [2, 6]}
    boxed = [("a?", r"\boxed{\frac{1}{2}}"), ("a?", r"thus \boxed{\frac{1}{2}}"), ("a?", r"\boxed{\frac{3}{2}}")]
    assert found(boxed) == {"contradiction": [3], "several_answers": [2]}


def test_a_conversation_is_not_the_question_without_what_comes_before():
    def chat(first, system=""):
        start = [Message("system", system)] if system else []
        turns = [
            Message("user", first),
            Message("assistant", "ok"),
            Message("user", "More?"),
            Message("assistant", first),
        ]
        return of_conversation(Conversation.of([*start, *turns], "a:1"))

    assert found([chat("a"), chat("b"), chat("a", "Be brief."), chat("b", "Be kind.")]) == {}
    assert found([chat("a"), chat("a")]) == {"repeated": [2]}

    def with_tools(name):
        tools = ({"type": "function", "function": {"name": name}},)
        return of_conversation(Conversation.of([Message("user", "a"), Message("assistant", "b")], "a:1", tools=tools))

    assert found([with_tools("f"), with_tools("g"), with_tools("f")]) == {"repeated": [3]}


def test_held_out_rows_in_training_are_found_once_each():
    train = [("a?", "one"), ("b?", "two"), ("c?", "three"), ("a?", "four")]
    held_out = [("a?", "one"), ("b?", "Two"), ("C ?", "three"), ("d?", "one"), ("a?", "four")]
    assert found(train, held_out)["leaked"] == [-1, -5]
    assert found(train, held_out)["leaked_question"] == [-2]
    assert found(train, held_out)["leaked_alike"] == [-3]
    (like,) = [item.like.tolist() for item in compare(seen(*train), seen(*held_out)) if item.look == "leaked"]
    assert like == [0, 3]
    assert found([], held_out) == {} and found(train) == {"several_answers": [4]}


def test_plain_text_is_compared_as_a_whole():
    rows = [of_text("One text."), of_text("Another text."), of_text("one  text")]
    assert found(rows, [of_text("ANOTHER TEXT"), of_text("new")]) == {"repeated_alike": [3], "leaked_alike": [-1]}
    assert isinstance(rows[0], Said)


def test_a_row_that_is_read_several_times_is_no_copy():
    twice = seen(("a?", "one"), ("b?", "two"))
    for number in (1, 2):
        twice.add(look(said("a?" if number == 1 else "b?", "one" if number == 1 else "two"), f"train.jsonl:{number}"))
    assert compare(twice, Seen()) == []


def test_rows_are_far_shorter_or_longer_only_beside_others():
    assert found([("a", "x")] * 1) == {} and found([(f"{i}?", "x") for i in range(9)]) == {}
    others = [(f"{i}?", f"This is answer number {i}.") for i in range(9)]
    assert found([*others, ("b?", "x"), ("c?", " ".join(map(str, range(9_000))))]) == {"short": [10], "long": [11]}
    assert found([(f"{i}?", f"{i} " * 15_000) for i in range(3)]) == {}, "all are long"


@pytest.mark.parametrize(
    ("answer", "result"),
    [
        ("a #### 1,234", b"1234.0"),
        ("#### $5.", b"5.0"),
        ("#### Yes!", b"yes"),
        (r"\boxed{a{b}c} d", b"a{b}c"),
        ("5", None),
        (r"\boxed", None),
    ],
)
def test_the_result_of_an_answer(answer, result):
    assert result_of(answer) == result


PIECES = st.sampled_from(["a", ":", "0", "7", "42", "٣", "123456789012", "\n"])


@given(st.lists(st.lists(PIECES, max_size=4).map("".join), max_size=6))
@settings(max_examples=60)
def test_places_come_back_as_they_were(wheres):
    places = Places()
    for where in wheres:
        places.add(where)
    assert places.of(list(range(len(wheres)))) == wheres


ROWS = st.lists(
    st.tuples(st.sampled_from(["a?", "b?", "A ?", "c"]), st.sampled_from(["x", "X.", "y", "#### 1", "#### 2"]))
)


@given(ROWS, ROWS)
@settings(max_examples=60)
def test_comparing_finds_what_a_look_at_every_pair_finds(train, held_out):
    expected = {}

    def note(name, number):
        expected.setdefault(name, []).append(number)

    for number, (question, answer) in enumerate(train, start=1):
        before = train[: number - 1]
        if (question, answer) in before:
            note("repeated", number)
        elif any(normal(q) == normal(question) and normal(a) == normal(answer) for q, a in before):
            note("repeated_alike", number)
        elif earlier := [a for q, a in before if q == question and not is_alike_copy(train, (q, a))]:
            both = answer.startswith("#") and earlier[0].startswith("#")
            note("contradiction" if both else "several_answers", number)
    for number, (question, answer) in enumerate(held_out, start=1):
        if (question, answer) in train:
            note("leaked", -number)
        elif question in (q for q, _ in train):
            note("leaked_question", -number)
        elif normal(question) in (normal(q) for q, _ in train):
            note("leaked_alike", -number)
    assert found(train, held_out) == expected


def is_alike_copy(rows, row):
    """Tell whether the first of the rows that are like `row`, but for case and the like, is another one."""
    like = [one for one in rows if (normal(one[0]), normal(one[1])) == (normal(row[0]), normal(row[1]))]
    return like[0] != row


@given(st.text(), st.text())
@settings(max_examples=100)
def test_any_text_can_be_looked_at_and_a_copy_is_found(question, answer):
    """Also half of a surrogate pair, which JSON can hold."""
    texts = Said(question, answer, [], question + answer)
    twice = Seen()
    for number in (1, 2):
        twice.add(look(texts, f"a:{number}"))
    assert [item.look for item in compare(twice, twice) if item.look in ("repeated", "leaked")] == [
        "leaked",
        "repeated",
    ]


def test_nothing_is_found_in_rows_as_gsm8k_has_them():
    rows = [
        ("Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May. How many?",
         "Natalia sold 48/2 = <<48/2=24>>24 clips in May.\nAltogether <<48+24=72>>72.\n#### 72"),
        ("Weng earns $12 an hour. Yesterday, she did 50 minutes. How much did she earn?",
         "Weng earns 12/60 = $<<12/60=0.2>>0.2 per minute.\nShe earned 0.2 x 50 = $<<0.2*50=10>>10.\n#### 10"),
    ]  # fmt: skip
    assert found(rows) == {}


def test_every_look_has_its_words_and_its_page():
    page = (Path(__file__).parents[2] / "docs/data.md").read_text()
    used = {
        "leaked",
        "leaked_question",
        "leaked_alike",
        "repeated",
        "repeated_alike",
        "contradiction",
        "several_answers",
    }
    assert used <= BY_NAME.keys() and len(BY_NAME) == len(LOOKS)
    assert "## Looks before training" in page
    assert all(item.title and item.advice.endswith(".") for item in LOOKS)
    assert json.dumps([item.name for item in LOOKS]) and answers.PLACEHOLDERS and characters.MARKS


def test_what_was_found_is_said_in_one_line_and_a_warning():
    found = LookCounts(
        train_rows=7473, validation_rows=1319, train={"repeated": 12, "contradiction": 1, "cut_short": 2},
        validation={"leaked": 60, "leaked_alike": 6, "cut_short": 1}, odd_rows=3,
    )  # fmt: skip
    (looked, line), (label, warning) = words.lines(found)
    assert (looked, label) == ("looks", "warning")
    assert line == (
        "training rows: 12 repeated (0.2 %), 1 contradicting an earlier one (<0.1 %); 3 odd rows (<0.1 %): 3 cut short"
        "; `make rows CHECK=1` lists them"
    )
    assert warning.startswith(
        "66 of 1,319 held-out rows (5.0 %) are in training too (60 word for word, 6 nearly): their"
    )
    ways = LookCounts(train_rows=9, train={"cut_short": 1, "loop": 2, "marks": 2, "echo": 1, "long": 4}, odd_rows=8)
    assert words.summary(ways).startswith(
        "8 odd rows (88.9 %): 4 far longer than the others, 2 ending in a loop, 2 with marks of another chat template"
    )
    assert [label for label, _ in words.of_results(found, has_scores=False)] == ["looks"]
    nothing = "no row is repeated, none is odd, and no held-out row is in training too"
    assert list(words.lines(LookCounts())) == [("looks", nothing)]
    assert next(line[:31] for _, line in words.lines(LookCounts(validation={"leaked": 1}))) == nothing[:31]
    assert list(words.listing(Looks(counts=LookCounts(), found=[])))[-1] == nothing
    assert list(words.lines(None)) == list(words.of_results(LookCounts(), has_scores=True)) == []


def test_the_list_fits_into_80_columns_and_shows_what_steers():
    rows = [
        FoundRow(
            where=f"data/train.jsonl:{i}", like="data/train.jsonl:1", prompt="问" * 90, answer=f"\x1b{'y ' * 90}end"
        )
        for i in range(30)
    ]
    item = LookFound(look="control", split="train", number=45, rows=rows)
    unknown = LookFound(look="later", split="train", number=1, rows=[])
    listed = list(words.listing(Looks(counts=LookCounts(train_rows=90, validation_rows=9), found=[item, unknown])))
    assert max(map(cell_len, listed)) <= 80 and "\x1b" not in "".join(listed)
    assert listed[2].startswith("training: rows with null bytes or other control characters: 45 (50.0 %)")
    assert "    answers: \\x1by y" in "\n".join(listed) and listed[-3].startswith("  and 25 more (JSON=1 names")
    assert sum(line.endswith("end") for line in listed) == words.LISTED
    text = FoundRow(where="a:1", prompt="", answer="Plain text.")
    assert list(words.of_row(text))[-1] == "    text:    Plain text."
