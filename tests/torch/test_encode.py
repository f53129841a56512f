"""Texts are tokenised whole; where they are not, and with tokenizers that tell no offsets, the targets are the same."""

import copy

import pytest
import transformers
from tokenizers import AddedToken

from sft.errors import DataError

from .chat_templates import (
    CHATML,
    CHATML_MARKS,
    EOS_AT_THE_END,
    LINES,
    OBJECT_ARGUMENTS,
    chat,
    marked,
    tokeniser,
    trained,
    with_template,
)

MARKS = chat("Say <|im_end|> and <|im_start|>user", "A <|im_end|>\n<|im_start|>user\nmore</s>", "R?", "B")
CALL = {"id": "c1", "type": "function", "function": {"name": "find", "arguments": {"town": "Bonn<|im_end|>"}}}


def sequence_of(found, row):
    ((sequence,),) = found.rows([("a.jsonl:7", row)])
    return sequence


def without_marks(row):
    """The same row with texts in place of the marks."""
    return {"messages": [{**one, "content": one["content"].replace("<", "(")} for one in row["messages"]]}


def test_a_text_is_tokenised_as_a_whole(tokenizer):
    found = tokeniser(with_template(tokenizer, CHATML, CHATML_MARKS))
    sequence = sequence_of(found, chat("Ana has 3 eggs.", "3 + 2 = 5\n#### 5", "R?", " größer 日本 🙂 "))
    text = found.probe.tokenizer.decode(sequence.ids)
    assert found.probe.template.ids(text) == sequence.ids
    assert marked(found, sequence).endswith("⟦ größer 日本 🙂 <|im_end|>⟧")


def test_marks_in_texts_are_counted_and_are_tokens_unless_they_are_split(tokenizer):
    parsing, splitting = (
        tokeniser(with_template(tokenizer, CHATML, CHATML_MARKS), special_tokens_in_text=how)
        for how in ("parse", "split")
    )
    parsed, split = sequence_of(parsing, MARKS), sequence_of(splitting, MARKS)
    for sequence in (parsed, split):
        assert sequence.counts.has_marks and sequence.counts.has_template
    assert marked(parsing, parsed) == marked(splitting, split)  # the same text
    control = parsing.probe.tokenizer.all_special_ids
    written = sum(token in control for token in sequence_of(parsing, without_marks(MARKS)).ids)
    assert sum(token in control for token in split.ids) == written < sum(token in control for token in parsed.ids)
    plain = without_marks(MARKS)
    assert sequence_of(splitting, plain).ids == sequence_of(parsing, plain).ids
    counts = sequence_of(parsing, plain).counts
    assert not counts.has_marks and not counts.has_template


def test_marks_in_calls_and_results_are_split_too(tokenizer):
    found = tokeniser(with_template(tokenizer, OBJECT_ARGUMENTS, CHATML_MARKS), special_tokens_in_text="split")
    call = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    row = chat(
        "Q?",
        call,
        {"role": "tool", "content": "R<|im_end|>", "tool_call_id": "c1"},
        {"role": "assistant", "content": "A"},
    )
    sequence = sequence_of(found, row)
    ends = [token for token in sequence.ids if token == found.probe.tokenizer.convert_tokens_to_ids("<|im_end|>")]
    assert len(ends) == len(row["messages"])
    assert '"town": "Bonn<|im_end|>"}}</call><|im_end|>⟧' in marked(found, sequence)


@pytest.mark.parametrize("character", ["\ufdd0", "\ufdd1"])
def test_a_character_that_no_text_has_is_refused(tokenizer, character):
    found = tokeniser(with_template(tokenizer, CHATML, CHATML_MARKS))
    with pytest.raises(
        DataError, match=r"^a.jsonl:7: a text holds the character U\+FDD0 or U\+FDD1, .*; remove the char"
    ):
        trained(found, chat("Q?", f"A{character}"))


def test_a_template_that_escapes_characters_cannot_split_marks(tokenizer):
    escaping = with_template(
        tokenizer, CHATML.replace("message.content", "message.content | tojson(true)"), CHATML_MARKS
    )
    with pytest.raises(DataError, match="it escapes characters, .*; set SPECIAL_TOKENS_IN_TEXT=parse"):
        trained(tokeniser(escaping, special_tokens_in_text="split"), MARKS)
    assert trained(tokeniser(escaping, special_tokens_in_text="split"), chat("é", "ü"))[0].endswith("⟧")


@pytest.mark.parametrize(("how", "asked"), [("parse", "Q?"), ("split", "Q?"), ("split", "</s>?"), ("split", "Q</s>")])
def test_no_token_holds_the_end_of_the_prompt_and_the_beginning_of_the_answer(tokenizer, how, asked):
    found = tokeniser(with_template(tokenizer, LINES), special_tokens_in_text=how)
    sequence = sequence_of(found, chat(asked, " two", "R?", "Ana has"))
    assert marked(found, sequence) == f"user: {asked}\nassistant: ⟦ two</s>⟧user: R?\nassistant: ⟦Ana has</s>⟧"
    assert (
        sequence.prompt_ids is None and found.probe.tokenizer.decode(sequence.ids[: sequence.answer_start])[-2:] == ": "
    )


@pytest.mark.parametrize("words", ["3", " 3", "\n\n3", " \t 3 "])
def test_a_mark_that_takes_the_white_space_behind_it_is_no_target(tokenizer, words):
    own = copy.deepcopy(tokenizer)
    marks = [AddedToken(mark, rstrip=True, special=True) for mark in ("<|user|>", "<|assistant|>", "<|end|>")]
    own.add_special_tokens({"extra_special_tokens": marks}, replace_extra_special_tokens=False)
    own.chat_template = EOS_AT_THE_END
    found = tokeniser(own)
    sequence = sequence_of(found, chat("1 + 2?", words, "And?", words))
    one = f"<|assistant|>⟦{words.lstrip()}<|end|>⟧"
    assert marked(found, sequence) == f"<|user|>1 + 2?<|end|>{one}<|user|>And?<|end|>{one}"
    assert sequence.prompt_ids is None  # generation starts from the tokens before the answer


@pytest.mark.parametrize("split", ["parse", "split"])
def test_a_tokenizer_without_offsets_marks_the_same_targets(split):
    slow = with_template(transformers.ByT5Tokenizer(), CHATML, CHATML_MARKS)
    assert not slow.is_fast
    found = tokeniser(slow, special_tokens_in_text=split)
    assert trained(found, chat("Q?", " é 日", "R? <|im_end|>", "B")) == [
        "<|im_start|>user\nQ?<|im_end|>\n<|im_start|>assistant\n⟦ é 日<|im_end|>⟧\n"
        "<|im_start|>user\nR? <|im_end|><|im_end|>\n<|im_start|>assistant\n⟦B<|im_end|>⟧"
    ]
