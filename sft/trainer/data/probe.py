"""What a chat template does, found out with made-up conversations before any row is prepared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from sft.errors import shown
from sft.rows.conversation import ROLES, Message, Role
from sft.run.records import TemplateFacts
from sft.trainer.data.chat_template import ChatTemplate, Refused
from sft.trainer.data.prober import ANSWER, USER, Prober, shared_start, user, usual_forms
from sft.trainer.data.template_traits import THINK, Ending, Forms, Thinking


@dataclass(frozen=True)
class Probe:
    """What a chat template does."""

    template: ChatTemplate
    forms: Forms
    ending: Ending  # of an answer in words
    call_ending: Ending | None  # of an answer that calls a tool; None: the template writes no calls
    refused_calls: str  # why it refuses them, if it does
    lead: str  # what the template writes between the generation prompt and the answer's words
    unwritten: str  # the end of the generation prompt that it does not write before an answer
    replaced: str  # what it writes in place of that, if it is not about reasoning: another opening of an answer
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
    def reasoning_starts(self) -> list[str]:
        """The texts that open reasoning, at the end of the generation prompt or at the beginning of an answer."""
        return sorted({text.strip() for text in (self.thinking.opener, self.thinking.start, THINK[0])} - {""})

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
    forms, call_ending, refused_calls = prober.calls()
    unwritten, written = prompt[len(head) :], rendered[len(head) : rendered.rindex(ANSWER)]
    ending, thinking = prober.ending(), prober.thinking(prompt, unwritten, written)
    is_about_reasoning = thinking.prompt_opens or thinking.prompt_closes
    opens_otherwise = unwritten.strip() and USER not in unwritten and not is_about_reasoning
    return Probe(
        template=template,
        forms=replace(forms, moves_reasoning=thinking.only_from_key),
        ending=ending,
        call_ending=call_ending,
        refused_calls=refused_calls,
        lead=lead,
        unwritten=unwritten,
        replaced=written if opens_otherwise else "",
        thinking=thinking,
        keeps_answers=prober.keeps_answers(ending),
        splits_prompt=prober.splits_prompt(prompt, rendered),
        dropped_roles=tuple(role for role in ROLES if prober.drops(role, forms if call_ending else None)),
        turn_marks=prober.turn_marks(prompt),
        model_stops=frozenset(model_stops),
    )


def facts(found: Probe, arguments: Mapping[str, object]) -> TemplateFacts:
    """Return the record of what was found out, with a sentence for everything that is unusual."""
    ending, thinking, unknown = found.ending, found.thinking, found.added_stops
    opening = found.template.added_prompt
    said = []
    if found.template.is_missing:
        said.append(f"the model has no chat template: rows are written with {found.template.source}")
    if opening:
        said.append(f"the chat template has no generation prompt: {shown(repr(opening), 60)} is added to it")
    if ending.is_appended and (written := ending.dropped.strip()):
        what = f"ends an answer with {shown(repr(written), 60)}, which is not a token of this model"
        said.append(f"the chat template {what}: {ending.mark} ends it instead")
    elif ending.is_appended:
        said.append(f"the chat template writes no end mark behind an answer: {ending.mark} is appended")
    if unknown:
        said.append(f"the model does not stop at {', '.join(unknown)}, which ends answers: made a stop token")
    if not found.keeps_answers:
        said.append("the chat template writes earlier answers in another way: each answer is a sequence of its own")
    if thinking.prompt_opens:
        said.append(f"the generation prompt opens reasoning ({thinking.opener}): answers without any close it at once")
    elif found.unwritten.strip() and not thinking.prompt_closes:
        said.append(of_unwritten(found.unwritten.strip(), found.replaced.strip()))
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
        reasoning_start=found.reasoning_starts,
        arguments=dict(arguments),
        said=said,
    )


def of_unwritten(unwritten: str, replaced: str) -> str:
    """Return a sentence about the end of a generation prompt that the template does not write before an answer."""
    if USER in unwritten:
        return "the chat template writes a question otherwise if its answer follows: rows have it as a prompt has it"
    what = f"the generation prompt ends with {shown(repr(unwritten), 60)}, which the template does not write before an"
    instead = f"; {shown(repr(replaced), 60)}, which it writes instead, is not trained" if replaced else ""
    return f"{what} answer{instead}"
