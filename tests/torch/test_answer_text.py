"""The text of a generated answer: what a server sends, without the reasoning before it."""

import pytest

from sft.trainer.model.answer_text import after_reasoning, is_cut_in_reasoning, texts


def words(tokenizer, text, *reasoning_end):
    return texts(tokenizer(text, add_special_tokens=False).input_ids, tokenizer, reasoning_end)


def test_words_are_what_decoding_without_special_tokens_gives(tokenizer):
    whole, answer = words(tokenizer, "3 + 2 = 5<pad>\n#### 5 <user>")
    assert (whole, answer) == ("3 + 2 = 5<pad>\n#### 5 <user>", "3 + 2 = 5\n#### 5 ")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("I add.\n</think>\n\n3 + 2 = 5 \n#### 5 ", "3 + 2 = 5 \n#### 5 "),
        ("I add.\n</think>\n 5", "5"),  # other white space than the template's
        ("I add.</think>5", "5"),
        ("I add.\n</think>\n\n\n\n5", "5"),
        ("it ends with </think>, says he\n</think>\n\n5", "5"),
        ("I add, and add", "I add, and add"),  # it never ends
        ("I add.\n</think>\n\n", ""),
        ("<user>I<pad> add.\n</think>\n\n<pad>5<user>", "5"),
    ],
)
def test_an_answer_begins_where_its_reasoning_ends(tokenizer, text, answer):
    assert words(tokenizer, text, "\n</think>\n\n") == (text, answer)


def test_reasoning_that_ends_with_control_marks_is_left_out(tokenizer):
    text = "analysis: I add<assistant>final<user>5"
    assert words(tokenizer, text, "<assistant>final<user>") == (text, "5")


def test_a_character_of_several_tokens_beside_the_end_of_reasoning_stays_whole(tokenizer):
    text = "日本語 🙂\n</think>\n\n🙂日本語"
    assert words(tokenizer, text, "\n</think>\n\n") == (text, "🙂日本語")


@pytest.mark.parametrize(
    ("whole", "prompt", "has_ended", "expected"),
    [
        ("I add 5", "<assistant><think>\n", False, True),
        ("I add 5", "<assistant><think>\n", True, False),  # words alone, of a model that does not know the mark
        ("I add 5\n</think>\n\n#### 5", "<assistant><think>\n", False, False),
        ("I add 5", "<assistant>", False, False),
        ("<think>I add 5", "<assistant>", False, True),
        ("\n<think>\nI add 5", "<assistant>", True, True),
        ("The mark <think> opens it", "<assistant>", False, False),
    ],
)
def test_an_answer_that_is_cut_in_its_reasoning_has_no_words(whole, prompt, has_ended, expected):
    assert is_cut_in_reasoning(whole, prompt, has_ended, ["<think>"], ["\n</think>\n\n"]) == expected
    assert not is_cut_in_reasoning(whole, prompt, has_ended, [], [])


def test_the_last_of_several_ends_counts():
    assert after_reasoning("a</think>\n\nb<|final|>c", ["\n</think>\n\n", "<|final|>"]) == len(
        "a</think>\n\nb<|final|>"
    )
    assert after_reasoning("abc", ["\n\n", ""]) == 0
