"""What is trained of a row, shown with ⟦targets⟧, for one template of each kind; and what is said about it."""

import pytest

from sft.errors import DataError
from sft.trainer.data import probe

from . import chat_templates as of
from .chat_templates import CHATML, CHATML_MARKS, chat, tokeniser, trained, with_template

TWO = chat("Q?", "A", "R?", "B")
SYSTEM = {"messages": [{"role": "system", "content": "S."}, *chat("Q?", "A")["messages"]]}
IN_CONTENT = chat("Q?", "<think>\nhm\n</think>\n\nA")
IN_KEY = chat("Q?", {"role": "assistant", "content": "A", "reasoning_content": "hm"})


def found(tokenizer, template, marks=(), eos=None, stops=(), **settings):
    return tokeniser(with_template(tokenizer, template, marks, eos), stops, **settings)


def said(of_model):
    return "\n".join(probe.facts(of_model.probe, {}).said)


# End marks


@pytest.mark.parametrize("eos", [None, "<|im_end|>"])
def test_the_mark_that_ends_chatml_is_trained_and_ends_generation(tokenizer, eos):
    chatml = found(tokenizer, CHATML, CHATML_MARKS, eos)
    assert trained(chatml, TWO) == [
        "<|im_start|>user\nQ?<|im_end|>\n<|im_start|>assistant\n⟦A<|im_end|>⟧\n"
        "<|im_start|>user\nR?<|im_end|>\n<|im_start|>assistant\n⟦B<|im_end|>⟧"
    ]
    assert chatml.probe.tokenizer.convert_tokens_to_ids("<|im_end|>") in chatml.probe.stops
    assert chatml.probe.added_stops == ([] if eos else ["<|im_end|>"])
    assert said(chatml) == (
        "" if eos else "the model does not stop at <|im_end|>, which ends answers: made a stop token"
    )


def test_the_mark_of_the_next_role_ends_an_answer_if_the_model_stops_there(tokenizer):
    stopping = found(tokenizer, of.NEXT_ROLE, of.NEXT_ROLE_MARKS, stops=["<|user|>", "<|observation|>"])
    assert trained(stopping, TWO) == ["<|user|>\nQ?<|assistant|>\n⟦A<|user|>⟧\nR?<|assistant|>\n⟦B<|user|>⟧"]
    assert said(stopping) == "the chat template writes no end mark behind an answer: <|user|> is appended"


def test_otherwise_eos_ends_it_and_each_answer_has_a_sequence_of_its_own(tokenizer):
    going_on = found(tokenizer, of.NEXT_ROLE, of.NEXT_ROLE_MARKS)
    assert trained(going_on, TWO) == [
        "<|user|>\nQ?<|assistant|>\n⟦A</s>⟧", "<|user|>\nQ?<|assistant|>\nA<|user|>\nR?<|assistant|>\n⟦B</s>⟧",
    ]  # fmt: skip
    assert "</s> is appended" in said(going_on) and "each answer is a sequence of its own" in said(going_on)


def test_another_opening_than_that_of_the_generation_prompt_is_not_trained(tokenizer):
    other = CHATML.replace("'<|im_start|>assistant\n' }}", "'<|im_start|>model\n' }}")
    assert other != CHATML
    model = found(tokenizer, other, CHATML_MARKS, "<|im_end|>")
    assert trained(model, TWO) == [
        "<|im_start|>user\nQ?<|im_end|>\n<|im_start|>model\n⟦A<|im_end|>⟧",
        "<|im_start|>user\nQ?<|im_end|>\n<|im_start|>assistant\nA<|im_end|>\n"
        "<|im_start|>user\nR?<|im_end|>\n<|im_start|>model\n⟦B<|im_end|>⟧",
    ]
    assert "ends with 'model', which the template does not write before an answer; 'assistant', which it" in said(model)


def test_a_text_that_ends_an_answer_and_is_no_token_is_not_trained(tokenizer):
    without_marks = found(tokenizer, CHATML)
    assert trained(without_marks, TWO) == [
        "<|im_start|>user\nQ?<|im_end|>\n<|im_start|>assistant\n⟦A</s>⟧",
        "<|im_start|>user\nQ?<|im_end|>\n<|im_start|>assistant\nA<|im_end|>\n"
        "<|im_start|>user\nR?<|im_end|>\n<|im_start|>assistant\n⟦B</s>⟧",
    ]
    assert (
        "the chat template ends an answer with '<|im_end|>', which is not a token of this model: </s> ends it instead"
        in said(without_marks)
    )
    calling = found(tokenizer, of.OBJECT_ARGUMENTS)
    call = {"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}
    (text,) = trained(calling, chat("Q?", {"role": "assistant", "content": None, "tool_calls": [call]}))
    assert text.endswith('assistant\n⟦<call>{"name": "f", "arguments": {"x": 1}}</call></s>⟧')


def test_a_mark_that_is_written_only_before_the_next_turn_ends_the_last_answer_too(tokenizer):
    closed = found(tokenizer, of.CLOSED_BY_NEXT, of.CLOSED_BY_NEXT_MARKS, stops=["<|/a|>"])
    assert trained(closed, TWO) == ["<|u|>Q?<|/u|><|a|>⟦A<|/a|>⟧<|u|>R?<|/u|><|a|>⟦B<|/a|>⟧"]
    open_ended = found(tokenizer, of.CLOSED_BY_NEXT, of.CLOSED_BY_NEXT_MARKS)
    assert trained(open_ended, TWO)[1] == "<|u|>Q?<|/u|><|a|>A<|/a|><|u|>R?<|/u|><|a|>⟦B</s>⟧"


def test_eos_behind_the_end_mark_is_no_target(tokenizer):
    phi = found(tokenizer, of.EOS_AT_THE_END, of.EOS_AT_THE_END_MARKS, stops=["<|end|>"])
    text = "<|user|>\nQ?<|end|>\n<|assistant|>\n⟦A<|end|>⟧\n<|user|>\nR?<|end|>\n<|assistant|>\n⟦B<|end|>⟧"
    assert trained(phi, TWO) == [text]


def test_an_answer_with_the_text_of_eos_is_trained_whole(tokenizer):
    row = chat("a</s>b?", "x</s>y", "c?", "HTML has <s>old</s>")
    (text,) = trained(found(tokenizer, CHATML, CHATML_MARKS), row)
    assert "⟦x</s>y<|im_end|>⟧" in text and text.endswith("⟦HTML has <s>old</s><|im_end|>⟧")
    assert trained(found(tokenizer, of.NEXT_ROLE, of.NEXT_ROLE_MARKS), row)[1].endswith("⟦HTML has <s>old</s></s>⟧")


def test_white_space_is_trained_as_the_template_leaves_it(tokenizer):
    row = chat(" Q \n", " A \n\n", " R ", " B ")
    kept = found(tokenizer, CHATML, CHATML_MARKS)
    trimmed = found(tokenizer, CHATML.replace("message.content", "message.content | trim"), CHATML_MARKS)
    assert "⟦ A \n\n<|im_end|>⟧" in trained(kept, row)[0] and "⟦A<|im_end|>⟧" in trained(trimmed, row)[0]
    next_role = found(tokenizer, of.NEXT_ROLE, of.NEXT_ROLE_MARKS, stops=["<|user|>"])
    assert trained(next_role, row) == [
        "<|user|>\n Q \n<|assistant|>\n⟦ A \n\n<|user|>⟧\n R <|assistant|>\n⟦ B <|user|>⟧"
    ]


# Generation prompts and reasoning


def test_a_template_without_a_generation_prompt_gets_one(tokenizer):
    bare = found(tokenizer, of.NO_GENERATION_PROMPT + "\n", CHATML_MARKS)
    assert trained(bare, TWO) == trained(found(tokenizer, CHATML, CHATML_MARKS), TWO)
    assert "the chat template has no generation prompt: '<|im_start|>assistant\\n' is added to it" in said(bare)
    asked = bare.probe.template.render([{"role": "user", "content": "Q?"}], prompt=True)
    assert asked == "<|im_start|>user\nQ?<|im_end|>\n<|im_start|>assistant\n"
    assert probe.facts(bare.probe, {}).templates == {"default": bare.probe.tokenizer.chat_template}


def test_reasoning_that_the_prompt_opens_is_closed_if_a_row_has_none(tokenizer):
    r1 = found(tokenizer, of.OPENS_THINKING, of.OPENS_THINKING_MARKS)
    assert trained(r1, chat("Q?", "A")) == ["<s><|U|>Q?<|A|><think>\n⟦\n</think>\n\nA</s>⟧"]
    for row in (IN_CONTENT, IN_KEY):
        assert trained(r1, row) == ["<s><|U|>Q?<|A|><think>\n⟦hm\n</think>\n\nA</s>⟧"]
    first, last = trained(r1, TWO)
    assert first == "<s><|U|>Q?<|A|><think>\n⟦\n</think>\n\nA</s>⟧"
    assert last == "<s><|U|>Q?<|A|>A</s><|U|>R?<|A|><think>\n⟦\n</think>\n\nB</s>⟧"
    assert "answers without any close it at once" in said(r1)


def test_reasoning_is_trained_where_the_template_writes_it_and_earlier_answers_are_as_generation_sees_them(tokenizer):
    qwen = found(tokenizer, of.SWITCHES_THINKING, CHATML_MARKS, "<|im_end|>")
    for row in (IN_CONTENT, IN_KEY):
        assert trained(qwen, row)[0].endswith("assistant\n⟦<think>\nhm\n</think>\n\nA<|im_end|>⟧")
    first, last = trained(qwen, chat("Q?", "<think>\nhm\n</think>\n\nA", "R?", "B"))
    assert first.endswith("⟦<think>\nhm\n</think>\n\nA<|im_end|>⟧")
    assert last.endswith("assistant\nA<|im_end|>\n<|im_start|>user\nR?<|im_end|>\n<|im_start|>assistant\n"
                         "⟦<think>\n\n</think>\n\nB<|im_end|>⟧")  # fmt: skip


def test_an_answer_of_reasoning_alone_is_trained(tokenizer):
    row = chat("Q?", {"role": "assistant", "content": None, "reasoning_content": "hm"})
    qwen = found(tokenizer, of.SWITCHES_THINKING, CHATML_MARKS, "<|im_end|>")
    assert trained(qwen, row)[0].endswith("assistant\n⟦<think>\nhm\n</think>\n\n<|im_end|>⟧")
    r1 = found(tokenizer, of.OPENS_THINKING, of.OPENS_THINKING_MARKS)
    assert trained(r1, row) == ["<s><|U|>Q?<|A|><think>\n⟦hm\n</think>\n\n</s>⟧"]
    assert r1.facts.reasoning_start == qwen.facts.reasoning_start == ["<think>"]


def test_what_looks_like_reasoning_in_part_stays_text(tokenizer):
    chatml = found(tokenizer, CHATML, CHATML_MARKS)
    for words in ("use <think> tags", "A </think> B", "<think></think>A"):
        assert trained(chatml, chat("Q?", words))[0].endswith(f"⟦{words}<|im_end|>⟧")


@pytest.mark.parametrize("row", [IN_CONTENT, IN_KEY])
def test_reasoning_behind_a_prompt_that_closes_it_is_refused(tokenizer, row):
    off = found(tokenizer, of.SWITCHES_THINKING, CHATML_MARKS, chat_template_arguments='{"enable_thinking": false}')
    with pytest.raises(DataError) as caught:
        trained(off, row)
    assert str(caught.value) == (
        "a.jsonl:7: the chat template cannot render it: its generation prompt ends reasoning before the answer begins, "
        'and this answer has some; set CHAT_TEMPLATE_ARGUMENTS={"enable_thinking": true}'
    )


def test_a_template_that_does_not_know_reasoning_trains_what_the_content_says_and_refuses_the_key(tokenizer):
    chatml = found(tokenizer, CHATML, CHATML_MARKS)
    assert trained(chatml, IN_CONTENT)[0].endswith("⟦<think>\nhm\n</think>\n\nA<|im_end|>⟧")
    with pytest.raises(DataError, match="as it writes reasoning only from the content; put it there as <think>…"):
        trained(chatml, IN_KEY)


# Which answers are targets


def test_a_system_message_that_moves_to_the_last_question(tokenizer):
    mistral = found(tokenizer, of.SYSTEM_LAST, ("[INST]", "[/INST]"))
    assert trained(mistral, SYSTEM) == ["<s>[INST] S.\n\nQ?[/INST]⟦ A</s>⟧"]
    assert trained(
        mistral,
        chat("Q?", "A"),
    ) == ["<s>[INST] Q?[/INST]⟦ A</s>⟧"]
    row = {"messages": [SYSTEM["messages"][0], *TWO["messages"]]}
    assert trained(mistral, row) == [
        "<s>[INST] S.\n\nQ?[/INST]⟦ A</s>⟧", "<s>[INST] Q?[/INST] A</s>[INST] S.\n\nR?[/INST]⟦ B</s>⟧",
    ]  # fmt: skip


@pytest.mark.parametrize("words", ["zebra", "z", "zq", "<b>"])
def test_an_answer_may_begin_with_any_letter(tokenizer, words):
    mistral = found(tokenizer, of.SYSTEM_LAST, ("[INST]", "[/INST]"))
    row = {"messages": [SYSTEM["messages"][0], *chat("Q?", words)["messages"]]}
    assert trained(mistral, row) == [f"<s>[INST] S.\n\nQ?[/INST]⟦ {words}</s>⟧"]


@pytest.mark.parametrize("template", [CHATML, of.SWITCHES_THINKING])
def test_the_last_answer_alone_is_trained_if_that_is_asked_for(tokenizer, template):
    (text,) = trained(found(tokenizer, template, CHATML_MARKS, train_on="last"), TWO)
    assert text.count("⟦") == 1 and text.endswith("B<|im_end|>⟧") and "assistant\nA<|im_end|>\n" in text


def test_an_answer_that_is_context_is_no_target(tokenizer):
    row = chat("Q?", {"role": "assistant", "content": "A", "weight": 0}, "R?", "B", "S?", "C")
    (text,) = trained(found(tokenizer, CHATML, CHATML_MARKS), row)
    assert "assistant\nA<|im_end|>" in text and text.count("⟦") == 2
    own = trained(found(tokenizer, of.SWITCHES_THINKING, CHATML_MARKS), row)
    assert [text.partition("⟦")[2] for text in own] == [f"<think>\n\n</think>\n\n{word}<|im_end|>⟧" for word in "BC"]


def test_content_is_given_in_parts_if_the_template_takes_nothing_else(tokenizer):
    assert trained(found(tokenizer, of.PARTS, CHATML_MARKS), TWO) == trained(
        found(tokenizer, CHATML, CHATML_MARKS), TWO
    )


def test_bos_is_there_once(tokenizer):
    for times in range(3):
        (text,) = trained(found(tokenizer, "{{ bos_token }}" * times + CHATML, CHATML_MARKS), TWO)
        assert text.startswith("<s>" * min(times, 1) + "<|im_start|>user\nQ?") and text.count("⟦") == 2
        assert "⟦A<|im_end|>⟧" in text and text.endswith("⟦B<|im_end|>⟧")
