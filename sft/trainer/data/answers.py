"""The texts that a conversation is trained as: each answer behind the prompt that generation would start from.

A sequence is a rendered conversation up to the end mark of its last answer. Most templates write an earlier answer as
if it were the last one; then one sequence holds all answers of a row. If a template rewrites earlier turns (drops their
reasoning, ends the last answer differently), an answer that would change gets a sequence of its own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from sft.errors import shown
from sft.rows.conversation import REASONING, Conversation, Message
from sft.rows.values import leaves
from sft.trainer.data.chat_template import Refused
from sft.trainer.data.probe import Probe
from sft.trainer.data.prober import ANSWER, shared_start
from sft.trainer.data.template_traits import THINK

LONGEST_OF_TEMPLATE = 40  # characters of reasoning that an answer's marks could have by chance, such as "user"


@dataclass(frozen=True)
class Span:
    """An answer in a text: characters `start` to `end`, the end mark included."""

    start: int
    end: int
    message: int  # its number in the conversation


@dataclass(frozen=True)
class Rendered:
    """A text to train on, and the answers in it that are targets."""

    text: str
    answers: tuple[Span, ...]


def rendered(conversation: Conversation, probe: Probe, last_only: bool = False) -> list[Rendered]:
    """Return the texts of a conversation, in the order of their last answers. Raises Refused.

    `last_only`: the last answer is the only target.
    """
    messages = conversation.messages
    if not probe.call_ending and any(message.keys.get("tool_calls") for message in messages):
        raise Refused("it writes no tool calls" + (f": {probe.refused_calls}" if probe.refused_calls else ""))
    chosen = [i for i, message in enumerate(messages) if i and message.is_answer and message.is_target]
    texts = [text_of(conversation, i, probe) for i in (chosen[-1:] if last_only else chosen)]
    found: list[Rendered] = []
    while texts:
        whole, _ = texts[-1]
        inside = [whole.startswith(text) for text, _ in texts]
        spans = [span for (_, span), is_inside in zip(texts, inside, strict=True) if is_inside]
        found.insert(0, Rendered(whole, tuple(spans)))
        texts = [text for text, is_inside in zip(texts, inside, strict=True) if not is_inside]
    return found


def text_of(conversation: Conversation, number: int, probe: Probe) -> tuple[str, Span]:
    """Return the text of a conversation up to the end of one of its answers, and where that answer is."""
    messages = conversation.messages[: number + 1]
    prompt = render(messages[:-1], conversation, probe, prompt=True)
    whole = render(messages, conversation, probe)
    body = written(messages, whole, prompt, conversation, probe)
    has_none = (
        len(messages) > 1
        and messages[-2].role == "assistant"
        and prompt == render(messages[:-1], conversation, probe)
        and opening(messages, prompt, conversation, probe)
    )
    if has_none:
        remedy = "join the two answers, or set CHAT_TEMPLATE to another one"
        raise Refused(f"it writes no generation prompt behind an answer, so message {number + 1} has none", remedy)
    body = cut_at_end(body, messages[-1], probe)
    is_written = writes_reasoning(body, messages, whole, conversation, probe)
    text = prompt + with_reasoning(body, messages[-1], prompt, probe, is_written)
    return text, Span(len(prompt), len(text), number)


def opening(messages: Sequence[Message], prompt: str, conversation: Conversation, probe: Probe) -> str:
    """Return what the template writes between the generation prompt and the words of the last answer, but spaces."""
    other = render([*messages[:-1], replace(messages[-1], content=ANSWER, keys={})], conversation, probe)
    return other.removeprefix(prompt).partition(ANSWER)[0].strip()


def render(messages: Sequence[Message], conversation: Conversation, probe: Probe, prompt: bool = False) -> str:
    """Return messages as the template writes them."""
    return probe.template.render([probe.forms.message(message) for message in messages], conversation.tools, prompt)


def written(messages: Sequence[Message], whole: str, prompt: str, conversation: Conversation, probe: Probe) -> str:
    """Return what `whole` has after the generation prompt, or, if it does not begin with that, after the same place.

    Some generation prompts open a block of reasoning that the written turn does not have. Some templates write the
    system message only if the last message is the user's.
    """
    if whole.startswith(prompt):
        return whole[len(prompt) :]
    unwritten = probe.unwritten
    head = prompt.removesuffix(unwritten)
    if unwritten and prompt.endswith(unwritten) and whole.startswith(head):
        body = whole[len(head) :].removeprefix(probe.replaced)
        rest = without_opening(body, unwritten)
        has_reasoning = messages[-1].split()[0].strip() and not probe.thinking.prompt_opens
        opens_both = shared_start(body, unwritten).lstrip().startswith(("<", "["))  # with the same mark
        if has_reasoning and rest == body and opens_both:
            raise ended_reasoning(probe)  # the prompt closes the block of reasoning that it opens
        return rest
    other = render([*messages[:-1], replace(messages[-1], content=ANSWER, keys={})], conversation, probe)
    before = other.rpartition(ANSWER)[0]  # without the letters with which both answers may begin
    return probe.lead + whole[len(shared_start(whole, before)) :]


def without_opening(body: str, opening: str) -> str:
    """Return an answer without the opening that its prompt has, if the two differ in their white space only."""
    place = 0
    for character in "".join(opening.split()):
        place += len(body[place:]) - len(body[place:].lstrip())
        if not body.startswith(character, place):
            return body
        place += 1
    return body[place:].removeprefix(opening[len(opening.rstrip()) :])


def cut_at_end(body: str, message: Message, probe: Probe) -> str:
    """Cut off what follows an answer's end mark; append one if the template writes none. Raises Refused."""
    ending = probe.ending_of(message)
    if ending.is_appended:
        return body.removesuffix(ending.dropped) + ending.added
    if places := [found.start() for found in re.finditer(re.escape(ending.mark), body)]:
        at = places[-min(ending.repeats, len(places))]  # those before it are words of the answer
        return body[: at + len(ending.mark)]
    at, mark = max((body.rfind(mark), mark) for mark in probe.stop_texts)
    if at < 0:
        raise Refused("it writes no end mark behind an answer of this kind")
    return body[: at + len(mark)]


def writes_reasoning(
    body: str, messages: Sequence[Message], whole: str, conversation: Conversation, probe: Probe
) -> bool:
    """Tell whether the last answer's reasoning, if it has some, is in its text `body`.

    It may be there only because the answer's words, calls or marks say it too. `whole` is the text of all `messages`.
    """
    last = messages[-1]
    reasoning, words = last.split()
    if not (text := reasoning.strip()) or text not in body:
        return text in body
    others = [words, *leaves(last.keys.get("tool_calls"))]
    if len(text) > LONGEST_OF_TEMPLATE and not any(text in other for other in others):
        return True
    keys = {key: value for key, value in last.keys.items() if key not in REASONING}
    content = last.content if last.reasoning else words
    try:
        without = render([*messages[:-1], replace(last, content=content, keys=keys)], conversation, probe)
    except Refused:  # nothing is left of the answer
        return True
    return whole.split() != without.split()


def with_reasoning(body: str, message: Message, prompt: str, probe: Probe, is_written: bool) -> str:
    """Return an answer with its reasoning, if the row has some; without, an open block of reasoning is closed.

    `is_written`: the reasoning is in `body`. Raises Refused if generation could not write it from this prompt.
    """
    thinking = probe.thinking
    reasoning, close = message.split()[0].strip(), thinking.closer.strip()
    end = prompt.rstrip()
    if reasoning and thinking.prompt_closes and end.endswith(close):
        raise ended_reasoning(probe)
    if thinking.prompt_closes and end.endswith(close) and body.lstrip().startswith(close):
        return body.lstrip().removeprefix(close)  # the prompt has it
    is_open = thinking.prompt_opens and end.endswith(thinking.opener)
    if not is_written:
        if not is_open and thinking.keeps_content:  # a key, which this template does not read
            key = next((key for key in REASONING if message.keys.get(key)), "")
            words, calls = message.split()[1].strip(), message.keys.get("tool_calls")
            if not key or (calls and not (words and words in body)):  # some write no content beside calls
                beside = " beside tool calls" if calls else ""
                raise Refused(f"it leaves out {shown(repr(reasoning), 60)} of the reasoning{beside}")
            what = f"it leaves out {key}, as it writes reasoning only from the content"
            raise Refused(what, "put it there as <think>…</think>, or leave it out")
        words = body.partition(close)[2] if close in body else body  # behind an empty block
        return ("" if is_open else THINK[0]) + reasoning + thinking.ending + words.lstrip("\n")
    if is_open and reasoning:
        return without_opener(body, thinking.opener, prompt)
    if is_open and close not in body:
        return thinking.ending + body.lstrip("\n")
    return body


def ended_reasoning(probe: Probe) -> Refused:
    """Return what is wrong with an answer with reasoning if the generation prompt ends with a closed block of it."""
    switch = probe.template.switch
    remedy = f'set CHAT_TEMPLATE_ARGUMENTS={{"{switch}": true}}' if switch else "leave the reasoning out"
    return Refused("its generation prompt ends reasoning before the answer begins, and this answer has some", remedy)


def without_opener(body: str, opener: str, prompt: str) -> str:
    """Return an answer without the mark that opens its reasoning: the prompt has it."""
    if not body.lstrip().startswith(opener):
        return body
    rest = body.lstrip().removeprefix(opener)
    return rest.removeprefix("\n") if prompt.endswith("\n") else rest
