"""What a chat template does, found out with made-up conversations before any row is prepared.

Each word of these conversations stands for a text of a row. What comes around them is what the template writes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from sft.errors import shown
from sft.rows.conversation import ROLES, Message, Role
from sft.run.records import TemplateFacts
from sft.trainer.data.chat_template import ChatTemplate, Refused

# Words that no template has in its own text, and that keep their form if it trims or lowers text.
USER, ANSWER, NEXT, LATER, REASON = "zqaskqz", "zqsayqz", "zqnextqz", "zqlaterqz", "zqthinkqz"
FUNCTION, ARGUMENT, RESULT = "zqcallqz", "zqargumentqz", "zqresultqz"
TOOL = {
    "type": "function",
    "function": {
        "name": FUNCTION,
        "description": "A function.",
        "parameters": {"type": "object", "properties": {"town": {"type": "string"}}, "required": ["town"]},
    },
}
CALL_ID = "c00000001"  # Mistral's templates take nine letters and digits only
RETURNED = Message("tool", RESULT, keys={"tool_call_id": CALL_ID, "name": FUNCTION})
# How a block of reasoning begins and ends if the template does not write it itself.
THINK = ("<think>\n", "\n</think>\n\n")


@dataclass(frozen=True)
class Ending:
    """How a template ends an answer."""

    mark: str  # the text of the token that ends it
    is_appended: bool = False  # the template does not write it if the answer is the last message
    repeats: int = 1  # how many of the mark the template writes behind the last answer; the first one counts
    dropped: str = ""  # if it is appended: the white space that the template writes after the last answer
    added: str = ""  # what comes instead, up to and with the mark


@dataclass(frozen=True)
class Forms:
    """In which of the usual forms a template takes the parts of a message."""

    content_as_parts: bool = False  # a list of objects with text, not a string
    empty_content: bool = False  # "" instead of leaving `content` out, if there is none
    arguments_as_text: bool = False  # a call's arguments as JSON text, not an object
    moves_reasoning: bool = False  # what stands in the content as <think>…</think> has to be given in the key for it

    def message(self, message: Message) -> dict[str, object]:
        """Return a message as the template takes it."""
        found: dict[str, object] = {"role": message.role}
        if message.content is not None:
            found["content"] = [{"type": "text", "text": message.content}] if self.content_as_parts else message.content
        elif self.empty_content or not message.keys.get(
            "tool_calls"
        ):  # nearly every template reads it beside reasoning
            found["content"] = ""
        if not message.keys and not self.moves_reasoning:
            return found
        found |= message.keys
        reasoning, words = message.split()
        if reasoning and self.moves_reasoning and not message.reasoning:
            moved = replace(message, content=words.lstrip("\n"), keys={"reasoning_content": reasoning.strip("\n")})
            return found | replace(self, moves_reasoning=False).message(moved)
        if message.reasoning:
            # Templates read one name or the other; newer versions of transformers give them both too.
            found |= {"reasoning_content": reasoning, "thinking": reasoning}
        if self.arguments_as_text and isinstance(calls := message.keys.get("tool_calls"), list):
            found["tool_calls"] = [with_text_arguments(call) for call in calls]
        return found


def with_text_arguments(call: Mapping[str, Any]) -> dict[str, object]:
    """Return a tool call with its arguments as JSON text."""
    import json

    function = dict(call["function"])
    if not isinstance(function.get("arguments"), str):
        function["arguments"] = json.dumps(function.get("arguments", {}), ensure_ascii=False)
    return dict(call) | {"function": function}


@dataclass(frozen=True)
class Thinking:
    """How a template writes reasoning, and what its generation prompt does about it."""

    closer: str  # text between an answer's reasoning and its words
    opener: str  # the mark before the reasoning, without white space
    reads_key: bool  # it writes the reasoning that a message has in a key of its own
    keeps_content: bool  # it writes the reasoning that stands in the content, as <think>…</think>
    only_from_key: bool  # it writes that one in another way, which is not the model's
    prompt_opens: bool  # the generation prompt ends within a block of reasoning
    prompt_closes: bool  # the generation prompt ends after an empty block


@dataclass(frozen=True)
class Probe:
    """What a chat template does."""

    template: ChatTemplate
    forms: Forms
    ending: Ending  # of an answer in words
    call_ending: Ending | None  # of an answer that calls a tool; None: the template writes no calls
    lead: str  # what the template writes between the generation prompt and the answer's words
    unwritten: str  # the end of the generation prompt that it does not write before an answer
    thinking: Thinking
    keeps_answers: bool  # an earlier answer stays as it was when it was the last
    splits_prompt: bool  # the tokens of the generation prompt are those that the whole text begins with
    dropped_roles: tuple[Role, ...]  # it leaves out their messages, though it does not refuse them
    turn_marks: tuple[str, ...]  # how a turn of the user and one of the assistant begin
    model_stops: frozenset[int]

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer."""
        return self.template.tokenizer

    @property
    def endings(self) -> list[Ending]:
        """All endings that answers can have."""
        return [self.ending, *([self.call_ending] if self.call_ending else [])]

    def ending_of(self, message: Message) -> Ending:
        """Return how a template ends an answer."""
        return self.call_ending if self.call_ending and message.keys.get("tool_calls") else self.ending

    @cached_property
    def stops(self) -> list[int]:
        """The tokens at which generation ends: those of the model, and every end mark."""
        return sorted(self.model_stops | {self.tokenizer.convert_tokens_to_ids(ending.mark) for ending in self.endings})

    @property
    def reasoning_ends(self) -> list[str]:
        """The texts that may stand between an answer's reasoning and its words."""
        is_thinking = self.thinking.reads_key or self.thinking.prompt_opens
        closers = {self.thinking.closer, THINK[1], self.lead} if is_thinking else {THINK[1]}
        return sorted(text for text in closers if text.strip())

    @property
    def added_stops(self) -> list[str]:
        """The end marks at which the model would not stop by itself."""
        return [str(self.tokenizer.convert_ids_to_tokens(stop)) for stop in self.stops if stop not in self.model_stops]

    @cached_property
    def stop_texts(self) -> list[str]:
        """The texts of `stops`; a model may have embeddings of no token, and stop at one."""
        texts = (self.tokenizer.convert_ids_to_tokens(stop) for stop in self.stops)
        return [str(text) for text in texts if text is not None]


def probe(template: ChatTemplate, model_stops: set[int]) -> Probe:
    """Find out what a template does. `model_stops`: the tokens at which the model stops by itself.

    Raises SettingsError for a template with which no answer can be trained.
    """
    forms, rendered = usual_forms(template)
    prober = Prober(template, forms, frozenset(model_stops))
    try:
        prompt = prober.text(user(), prompt=True)
    except Refused as error:
        raise template.wrong(f"writes no generation prompt behind a question: {error}") from None
    head = shared_start(prompt, rendered)
    lead = rendered[len(head) : rendered.rindex(ANSWER)] if len(head) == len(prompt) else ""
    if lead.strip() and prompt == prober.text(user()):  # asked so, a model would have to write its own opening
        return probe(template.with_generation_prompt(lead), model_stops)
    forms, call_ending = prober.calls()
    ending, thinking = prober.ending(), prober.thinking(prompt)
    return Probe(
        template=template,
        forms=replace(forms, moves_reasoning=thinking.only_from_key),
        ending=ending,
        call_ending=call_ending,
        lead=lead,
        unwritten=prompt[len(head) :],
        thinking=thinking,
        keeps_answers=prober.keeps_answers(ending),
        splits_prompt=prober.splits_prompt(prompt, rendered),
        dropped_roles=tuple(role for role in ROLES if prober.drops(role, forms if call_ending else None)),
        turn_marks=prober.turn_marks(prompt),
        model_stops=frozenset(model_stops),
    )


def user(content: str = USER) -> Message:
    """A made-up question."""
    return Message("user", content)


def answer(content: str | None = ANSWER, **keys: object) -> Message:
    """A made-up answer."""
    return Message("assistant", content, keys=keys)


def usual_forms(template: ChatTemplate) -> tuple[Forms, str]:
    """Return the form in which a template takes text, and a question with its answer in it. Raises SettingsError."""
    reasons = []
    for forms in (Forms(), Forms(content_as_parts=True)):
        try:
            text = template.render([forms.message(user()), forms.message(answer())])
        except Refused as error:
            reasons.append(f"does not take a question and its answer: {error}")
            continue
        if lost := [what for what, word in (("question", USER), ("answer", ANSWER)) if word not in text]:
            reasons.append(f"leaves out the {' and the '.join(lost)}")
            continue
        return forms, text
    raise template.wrong(reasons[0])


@dataclass(frozen=True)
class Prober:
    """Renders made-up conversations."""

    template: ChatTemplate
    forms: Forms
    model_stops: frozenset[int]

    def text(self, *messages: Message, prompt: bool = False, tools: Sequence[object] = ()) -> str:
        """Render a conversation. Raises Refused."""
        return self.template.render([self.forms.message(message) for message in messages], tools, prompt)

    def or_none(self, *messages: Message, prompt: bool = False, tools: Sequence[object] = ()) -> str | None:
        """Render a conversation; None if the template refuses it."""
        try:
            return self.text(*messages, prompt=prompt, tools=tools)
        except Refused:
            return None

    # End marks

    def ending(self) -> Ending:
        """Return how an answer in words ends."""
        tail = after(self.text(user(), answer()), ANSWER)
        whole = self.or_none(user(), answer(), user(NEXT))
        between = after(whole, ANSWER).partition(NEXT)[0] if whole else ""
        # What stands behind every answer, not behind the last one alone: Phi-3 ends each turn with <|end|>, and a
        # conversation with <|endoftext|>. Some have nothing in common: gpt-oss ends the last answer with <|return|>.
        for region in (shared_start(tail, between), tail):
            if mark := self.first_stop(region) or self.first_mark(region):
                return Ending(mark[0], repeats=max(1, tail.count(mark[0])))
        return self.appended(tail, between)

    def appended(self, tail: str, between: str) -> Ending:
        """Return an ending for answers that the template does not end: the mark that opens the next turn, or EOS.

        `tail` follows the last answer, `between` stands between an answer and the next turn.
        """
        common = shared_start(tail, between)
        rest = between[len(common) :]
        mark = self.first_mark(rest)
        if mark and self.token(mark[0]) in self.model_stops:
            if rest[: mark.start()].strip():  # text that belongs to the answer, such as the id of its call
                return Ending(mark[0], is_appended=True, dropped=tail[len(tail.rstrip()) :], added=mark[0])
            return Ending(mark[0], is_appended=True, dropped=tail[len(common) :], added=rest[: mark.end()])
        eos = str(self.template.tokenizer.eos_token)
        return Ending(eos, is_appended=True, dropped=tail[len(tail.rstrip()) :], added=eos)

    def calls(self) -> tuple[Forms, Ending | None]:
        """Return the forms of messages with tool calls too, and how such an answer ends; None: no calls are written."""
        call = answer(None, tool_calls=[tool_call()])
        found = []
        for forms in (
            replace(self.forms, empty_content=empty, arguments_as_text=as_text)
            for as_text in (False, True)
            for empty in (False, True)
        ):
            prober = replace(self, forms=forms)
            text = prober.or_none(user(), call, tools=[TOOL])
            # A template that joins text and an object writes it as Python does, not as JSON.
            if text and FUNCTION in after(text, USER) and ARGUMENT in text and "{'" not in after(text, USER):
                found.append((forms, prober, text))
        # Some look at an earlier call's content, though not at the last one's: a form that suits both comes first.
        for forms, prober, text in sorted(found, key=lambda form: form[1].or_none(user(), call, RETURNED) is None):
            return forms, prober.call_ending(text, call)
        return self.forms, None

    def call_ending(self, text: str, call: Message) -> Ending:
        """Return how an answer that calls a tool ends. `text` ends with one."""
        tail = after(text, max((FUNCTION, ARGUMENT), key=text.rindex))
        whole = self.or_none(user(), call, RETURNED, tools=[TOOL])
        between = after(whole, max((FUNCTION, ARGUMENT), key=whole.rindex)).partition(RESULT)[0] if whole else ""
        usual = self.ending()
        marks = list(self.marks.finditer(tail))
        stops = {usual.mark, *(mark[0] for mark in marks if self.token(mark[0]) in self.model_stops)}
        if mark := next((mark for mark in marks if mark[0] in stops), None):
            return Ending(mark[0], repeats=tail.count(mark[0]))
        common = shared_start(tail, between)
        if (mark := self.first_stop(between[len(common) :])) or not marks or usual.is_appended:
            return self.appended(tail, between)
        return Ending(marks[-1][0])

    @cached_property
    def marks(self) -> re.Pattern[str]:
        """Matches every token that no text is split into: the tokenizer's special tokens, and other added ones."""
        added = {str(token) for token in self.template.tokenizer.added_tokens_decoder.values()}
        found = {text for text in {*added, *self.template.tokenizer.all_special_tokens} if text.strip()}
        return re.compile("|".join(map(re.escape, sorted(found, key=len, reverse=True))) or r"(?!)")

    def token(self, mark: str) -> int:
        """Return the id of a mark."""
        return int(self.template.tokenizer.convert_tokens_to_ids(mark))

    def first_mark(self, text: str) -> re.Match[str] | None:
        """Return the first mark in a text."""
        return self.marks.search(text)

    def first_stop(self, text: str) -> re.Match[str] | None:
        """Return the first mark in a text at which the model stops."""
        return next((mark for mark in self.marks.finditer(text) if self.token(mark[0]) in self.model_stops), None)

    # Turns

    def keeps_answers(self, ending: Ending) -> bool:
        """Tell whether an earlier answer, with what stands around it, is as it was when it was the last."""
        whole = self.or_none(user(), answer(), user(NEXT), answer(LATER))
        if whole is None:
            return True  # it takes one answer only
        alone = self.text(user(), answer())
        return whole.startswith(alone[: alone.rindex(ANSWER) + len(ANSWER)] + ending.added)

    def drops(self, role: Role, forms_of_calls: Forms | None) -> bool:
        """Tell whether a template leaves out the messages of a role. `forms_of_calls`: None if it writes no calls."""
        prober = replace(self, forms=forms_of_calls or self.forms)
        if role in ("user", "assistant"):
            return False
        tools: list[object] = []
        before = [Message(role, RESULT), user()]
        if role not in ("system", "developer"):
            tools = [TOOL]
            calling = answer(None, tool_calls=[tool_call()]) if forms_of_calls else answer()
            before = [user(), calling, replace(RETURNED, role=role)]
        # Some write the system message only if the last message is the user's: in the prompt, not before the answer.
        asked = prober.or_none(*before, prompt=True, tools=tools)
        texts = [asked, prober.or_none(*before, answer(LATER), tools=tools)]
        return any(texts) and not any(text and RESULT in text for text in texts)

    def splits_prompt(self, prompt: str, rendered: str) -> bool:
        """Tell whether no token spans the end of the generation prompt and the beginning of an answer."""
        ids, whole = (self.template.ids(text) for text in (prompt, rendered))
        return not rendered.startswith(prompt) or whole[: len(ids)] == ids

    def turn_marks(self, prompt: str) -> tuple[str, ...]:
        """Return how turns begin, for templates that have marks for it. `prompt` ends with the opening of an answer."""
        whole = self.or_none(user(), answer(), user(NEXT)) or ""
        written = re.sub(r"<think>\s*(</think>)?\s*$", "", after(prompt, USER))
        openings = [after(whole, ANSWER).partition(NEXT)[0], written]
        lines = [text.strip().removeprefix(self.ending().mark).strip().splitlines()[-1:] for text in openings]
        texts = {text for line in lines for text in line}
        return tuple(sorted(text for text in texts if re.search(r"[<\[|#]", text) and len(text) > 3))

    def thinking(self, prompt: str) -> Thinking:
        """Return what the template does about reasoning. `prompt` ends with the opening of an answer."""
        by_key = self.or_none(user(), answer(reasoning_content=REASON)) or ""
        in_content = self.or_none(user(), answer(f"{THINK[0]}{REASON}{THINK[1]}{ANSWER}")) or ""
        reads_key, keeps_content = REASON in by_key, REASON in in_content
        closer = THINK[1]
        opening, _, rest = (by_key if reads_key else in_content).partition(REASON)
        only_from_key = reads_key and in_content.partition(REASON)[0].rstrip() != opening.rstrip()
        if reads_key or keeps_content:
            closer = rest.partition(ANSWER)[0]
        else:
            opening = ""
        end = prompt.rstrip()
        last_mark = re.search(r"<[^<>]*>$|\[[^\[\]]*\]$|[^\n]*$", opening.rstrip())
        opener = (last_mark[0] if last_mark else "") or THINK[0].strip()
        opens = end.endswith(THINK[0].strip()) or (bool(opening) and end == opening.rstrip())
        if opens and not end.endswith(opener):
            opener = THINK[0].strip()
        closes = not opens and end.endswith((THINK[1].strip(), closer.strip() or THINK[1].strip()))
        return Thinking(closer, opener, reads_key, keeps_content, only_from_key, opens, closes)


def facts(found: Probe, arguments: Mapping[str, object]) -> TemplateFacts:
    """Return the record of what was found out, with a sentence for everything that is unusual."""
    ending, thinking, unknown = found.ending, found.thinking, found.added_stops
    opening = found.template.added_prompt
    said = []
    if found.template.is_missing:
        said.append(f"the model has no chat template: rows are written with {found.template.source}")
    if opening:
        said.append(f"the chat template has no generation prompt: {shown(repr(opening), 60)} is added to it")
    if ending.is_appended:
        said.append(f"the chat template writes no end mark behind an answer: {ending.mark} is appended")
    if unknown:
        said.append(f"the model does not stop at {', '.join(unknown)}, which ends answers: made a stop token")
    if not found.keeps_answers:
        said.append("the chat template writes earlier answers in another way: each answer is a sequence of its own")
    if thinking.prompt_opens:
        said.append(f"the generation prompt opens reasoning ({thinking.opener}): answers without any close it at once")
    if not found.splits_prompt:
        said.append("the tokenizer would join the end of the generation prompt and an answer: they are tokenised apart")
    return TemplateFacts(
        source=found.template.source,
        templates=found.template.templates,
        end_mark=ending.mark,
        end_is_appended=ending.is_appended,
        stops=found.stops,
        added_stops=unknown,
        reasoning_end=found.reasoning_ends,
        arguments=dict(arguments),
        said=said,
    )


def tool_call() -> dict[str, object]:
    """Return a call of TOOL in OpenAI's form, with its arguments as an object, which templates of Hugging Face take."""
    function = {"name": FUNCTION, "arguments": {"town": ARGUMENT}}
    return {"id": CALL_ID, "type": "function", "function": function}


def after(text: str, word: str) -> str:
    """Return what follows the last `word` in a text."""
    return text.rpartition(word)[2]


def shared_start(left: str, right: str) -> str:
    """Return the characters with which two texts begin both. It has no part of a mark: <a> and </a> share nothing."""
    common = os.path.commonprefix([left, right])  # noqa: RUF071 (it is about characters, whatever its module)
    return common if common in (left, right) else re.sub(r"[<\[][^<>\[\]\s]*$", "", common)
