"""Made-up conversations through a chat template: what comes around their words is what the template writes."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from sft.rows.conversation import Message, Role
from sft.trainer.data.chat_template import ChatTemplate, Refused
from sft.trainer.data.template_traits import THINK, Ending, Forms, Thinking

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
        return self.appended(tail, between, dropped=tail)

    def appended(self, tail: str, between: str, dropped: str) -> Ending:
        """Return an ending for answers that the template does not end: the mark that opens the next turn, or EOS.

        `tail` follows the last answer, `between` stands between an answer and the next turn. EOS comes in place of
        `dropped`: a text that is to end an answer and is no token would be generated, as a part of it.
        """
        common = shared_start(tail, between)
        rest = between[len(common) :]
        mark = self.first_mark(rest)
        if mark and self.token(mark[0]) in self.model_stops:
            if rest[: mark.start()].strip():  # text that belongs to the answer, such as the id of its call
                return Ending(mark[0], is_appended=True, dropped=tail[len(tail.rstrip()) :], added=mark[0])
            return Ending(mark[0], is_appended=True, dropped=tail[len(common) :], added=rest[: mark.end()])
        eos = str(self.template.tokenizer.eos_token)
        return Ending(eos, is_appended=True, dropped=dropped, added=eos)

    def calls(self) -> tuple[Forms, Ending | None, str]:
        """Return the forms of messages with tool calls too, and how such an answer ends.

        If the template writes no calls: None, and the reason for which it refuses them, or "".
        """
        call = answer(None, tool_calls=[tool_call()])
        found = []
        reasons = []
        tried = [
            replace(self.forms, empty_content=empty, arguments_as_text=as_text)
            for as_text in (False, True)
            for empty in (False, True)
        ]
        for forms in tried:
            prober = replace(self, forms=forms)
            try:
                text = prober.text(user(), call, tools=[TOOL])
            except Refused as error:
                reasons.append(str(error))
                continue
            # A template that joins text and an object writes it as Python does, not as JSON.
            if FUNCTION in after(text, USER) and ARGUMENT in text and "{'" not in after(text, USER):
                found.append((forms, prober, text))
        # Some look at an earlier call's content, though not at the last one's: a form that suits both comes first.
        if not found:
            return self.forms, None, reasons[-1] if len(reasons) == len(tried) else ""
        forms, prober, text = min(found, key=lambda form: form[1].or_none(user(), call, RETURNED) is None)
        return forms, prober.call_ending(text, call), ""

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
            is_usual = bool(usual.dropped) and tail.endswith(usual.dropped)
            return self.appended(tail, between, usual.dropped if is_usual else tail[len(tail.rstrip()) :])
        return Ending(marks[-1][0])

    @cached_property
    def marks(self) -> re.Pattern[str]:
        """Matches every token that no text is split into: the tokenizer's special tokens, and other added ones."""
        added = {str(token) for token in self.template.tokenizer.added_tokens_decoder.values()}
        found = {text for text in {*added, *self.template.tokenizer.all_special_tokens} if text.strip()}
        return any_of(found)

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

    def thinking(self, prompt: str, unwritten: str, written: str) -> Thinking:
        """Return what the template does about reasoning. `prompt` ends with the opening of an answer.

        `unwritten`: the end of it that the template does not write before an answer without reasoning, and `written`:
        what it writes in place of that.
        """
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
        opens = end.endswith(THINK[0].strip()) or (bool(opening) and end == opening.rstrip())
        opener = self.opener(opening, end if opens else "", unwritten.strip())
        closes = not opens and end.endswith((THINK[1].strip(), closer.strip() or THINK[1].strip()))
        start = opening.removeprefix(prompt) if opening.startswith(prompt) else ""
        ending = closer.removesuffix(written) if written.strip() else closer
        return Thinking(closer, ending, opener, reads_key, keeps_content, only_from_key, opens, closes, start)

    def opener(self, opening: str, end: str, unwritten: str) -> str:
        """Return the mark before an answer's reasoning. `opening`: all that the template writes before reasoning.

        `end`: the generation prompt if it opens reasoning.
        """
        usual = THINK[0].strip()
        if end.endswith(usual):
            return usual
        if unwritten and end.endswith(unwritten) and USER not in unwritten:
            return unwritten
        line = (end or opening.rstrip()).rpartition("\n")[2]
        if USER not in line:
            return line or usual
        mark = re.search(r"(<[^<>]*>|\[[^\[\]]*\])$", line)
        return mark[0] if mark else usual


def tool_call() -> dict[str, object]:
    """Return a call of TOOL in OpenAI's form, with its arguments as an object, which templates of Hugging Face take."""
    function = {"name": FUNCTION, "arguments": {"town": ARGUMENT}}
    return {"id": CALL_ID, "type": "function", "function": function}


def after(text: str, word: str) -> str:
    """Return what follows the last `word` in a text."""
    return text.rpartition(word)[2]


def any_of(texts: Iterable[str]) -> re.Pattern[str]:
    """Return a pattern that matches any of some texts, the longest that it can; nothing if there are none."""
    return re.compile("|".join(map(re.escape, sorted(texts, key=len, reverse=True))) or r"(?!)")


def shared_start(left: str, right: str) -> str:
    """Return the characters with which two texts begin both. It has no part of a mark: <a> and </a> share nothing."""
    common = os.path.commonprefix([left, right])  # noqa: RUF071 (it is about characters, whatever its module)
    return common if common in (left, right) else re.sub(r"[<\[][^<>\[\]\s]*$", "", common)
