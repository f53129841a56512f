"""From rows to tokens: each text tokenised once as a whole, with its answers marked as the targets."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

from sft.errors import DataError
from sft.rows import forms
from sft.rows.conversation import Conversation, Message
from sft.rows.files import ReadRow
from sft.rows.looks.row import LookedAt, look
from sft.rows.looks.said import of_conversation
from sft.rows.row_kind import RowKind
from sft.run.records import TemplateFacts
from sft.settings.fields import Settings
from sft.trainer.data import completeness
from sft.trainer.data.answers import Rendered, rendered
from sft.trainer.data.characters import Characters
from sft.trainer.data.chat_template import Refused
from sft.trainer.data.encode import Encoded, check_ids, encoded, without_guards
from sft.trainer.data.marks import Marked, Marks, texts_of
from sft.trainer.data.probe import Probe, facts
from sft.trainer.data.rows import NO_TARGET, TOO_LONG, Counts, Dropped, Tokenised, TokenisedRow, same
from sft.trainer.data.stand_ins import StandIns
from sft.trainer.model import answer_text


@dataclass(frozen=True)
class Row:
    """A row on its way: its conversation, and the texts that it is trained as."""

    where: str
    converted: forms.Converted
    texts: list[Rendered]
    marked: Marked


@dataclass(frozen=True)
class Tokeniser:
    """Turns rows into tokens with a model's own tokenizer and what is known about its chat template.

    `embedding_rows`: token ids from there on have no embedding. `pictures`: tokens that stand for pictures, films and
    sound. `asked`: evaluation asks for the rows' answers.
    """

    probe: Probe
    settings: Settings
    embedding_rows: int | None = None
    pictures: frozenset[int] = frozenset()
    asked: bool = False
    kind: ClassVar[RowKind] = "conversations"

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer."""
        return self.probe.tokenizer

    @property
    def stops(self) -> list[int]:
        """The tokens at which generation ends."""
        return self.probe.stops

    @cached_property
    def facts(self) -> TemplateFacts:
        """What was found out about the chat template."""
        return facts(self.probe, json.loads(self.settings.chat_template_arguments))

    def rows(self, read: Iterable[ReadRow]) -> list[Tokenised | DataError]:
        """Return what becomes of each row, or the error that names its place, in order."""
        found: list[Row | DataError] = []
        for where, row in read:
            try:
                found.append(self.prepared(forms.converted(row, where, self.settings), where))
            except DataError as error:
                found.append(error)
        good = [item for item in found if isinstance(item, Row)]
        texts = [text for item in good for text in item.texts]
        starts = [[span.start for span in text.answers] for text in texts]
        tokens = encoded([text.text for text in texts], starts, self.probe.tokenizer)
        # In a loop of their own the looks take half as long as between the sequences.
        looked = iter(
            [look(of_conversation(item.converted.conversation), item.where, item.marked.has_marks) for item in good]
        )
        result: list[Tokenised | DataError] = []
        for item in found:
            try:
                result.append(item if isinstance(item, DataError) else self.sequences(item, tokens, next(looked)))
            except DataError as error:
                result.append(error)
        return result

    @cached_property
    def marks(self) -> Marks:
        """The model's control marks."""
        return Marks.of_model(self.probe, guards=self.settings.special_tokens_in_text == "split")

    @cached_property
    def stand_ins(self) -> StandIns:
        """What the template leaves out of conversations of every shape."""
        return StandIns(self.probe)

    @cached_property
    def characters(self) -> Characters:
        """The characters that the tokenizer keeps."""
        return Characters(self.tokenizer, self.stops)

    def lost(self, row: Row, found: Sequence[Encoded]) -> tuple[str, ...]:
        """Return the characters that the tokenizer loses of a row."""
        texts = [text for message in row.converted.conversation.messages for text in texts_of(message)]
        written, ids = row.texts[-1].text, found[-1].ids
        return self.characters.lost(texts, written, ids)

    def prepared(self, converted: forms.Converted, where: str) -> Row:
        """Return a row's texts. Raises DataError if the template does not render all that it says."""
        try:
            marked = self.marks.find(converted.conversation)
        except Refused as error:
            raise DataError(f"{where}: {error}; {error.remedy}") from None
        try:
            texts = rendered(marked.conversation, self.probe, self.settings.train_on == "last")
            completeness.check(marked.conversation, texts, self.probe)
            self.stand_ins.check(marked.conversation)
            self.marks.check([text.text for text in texts])
        except Refused as error:
            problem = self.without_system(marked.conversation) or error
            raise DataError(f"{where}: the chat template cannot render it: {problem}; {problem.remedy}") from None
        return Row(where, converted, texts, marked)

    def without_system(self, conversation: Conversation) -> Refused | None:
        """Return what is wrong if it is the system message that a template refuses; None if it is not."""
        first, *others = conversation.messages
        if first.role != "system" or not others or others[0].role == "assistant":  # then nothing else precedes it
            return None
        if any(message.role in ("system", "developer") for message in others):
            return None
        rest = replace(conversation, messages=tuple(others))
        try:
            completeness.check(rest, rendered(rest, self.probe), self.probe)
            self.stand_ins.check(rest)
        except Refused:
            return None
        where = "leave SYSTEM_PROMPT empty" if self.settings.system_prompt else "leave it out"
        return Refused("it takes no system message", f"{where}, or set CHAT_TEMPLATE")

    def sequences(self, row: Row, tokens: Iterator[Encoded], looked_at: LookedAt) -> Tokenised:
        """Return what becomes of a row. Takes the tokens of all its texts, even if it raises DataError."""
        mine = list(itertools.islice(tokens, len(row.texts)))
        found = [self.sequence(row, text, encoded) for text, encoded in zip(row.texts, mine, strict=True)]
        length, limit = max(len(one.ids) - self.doubled(one.ids) for one in mine), self.settings.max_length
        is_long = any(sequence.is_cut for sequence in found)
        if is_long and self.settings.long_rows == "refuse":
            remedy = "raise MAX_LENGTH, or set LONG_ROWS to cut or drop"
            raise DataError(f"{row.where}: its {length:,} tokens are more than MAX_LENGTH={limit}; {remedy}")
        if is_long and self.settings.long_rows == "drop":
            return Dropped(TOO_LONG, length)
        kept = [sequence for sequence in found if any(sequence.is_target[1:])]
        if not kept and not is_long:
            raise DataError(f"{row.where}: has no target token; remove the row")
        if not kept:
            return Dropped(NO_TARGET, length)
        conversation = row.converted.conversation
        counts = Counts(
            answers=sum(message.is_answer for message in conversation.messages),
            target_answers=sum(sequence.target_answers for sequence in kept),
            length=length,
            is_cut=is_long,
            dropped=len(found) - len(kept),
            left_out=conversation.left_out,
            has_marks=row.marked.has_marks,
            has_template=row.marked.has_template,
            used=same(row.converted.used),
            unused=same(row.converted.unused),
            lost=same(self.lost(row, mine)),
            looked_at=looked_at,
        )
        # Evaluation asks for the last answer of the row that is there, and for no answer twice.
        return [*(sequence._replace(answer_start=-1) for sequence in kept[:-1]), kept[-1]._replace(counts=counts)]

    def sequence(self, row: Row, text: Rendered, tokens: Encoded) -> TokenisedRow:
        """Return a text as tokens, at most MAX_LENGTH, with its answers as targets."""
        ids, limit = tokens.ids, self.settings.max_length
        check_ids(ids, row.where, self.probe.tokenizer, self.embedding_rows, self.pictures)
        spans = [
            tokens.tokens_of(len(without_guards(text.text[: span.start])), len(without_guards(text.text[: span.end])))
            for span in text.answers
        ]
        doubled = self.doubled(ids)
        ids = ids[doubled:]
        is_target = [False] * len(ids)
        for first, end in spans:
            is_target[first - doubled : end - doubled] = [True] * (end - first)
        whole = [i for i, (first, _) in enumerate(spans) if first - doubled < limit]  # begun before the cut
        asked = whole[-1] if whole else 0
        span, start = text.answers[asked], spans[asked][0] - doubled
        prompt = self.prompt_ids(text.text[: span.start], doubled) if self.asked else None
        messages = row.converted.conversation.messages
        questions = [message.content for message in messages[: span.message] if message.role != "assistant"]
        return TokenisedRow(
            ids=ids[:limit],
            is_target=is_target[:limit],
            prompt=(questions[-1] if questions else "") or "",
            reference=reference(messages[span.message]) or self.words(ids[start : spans[asked][1] - doubled]),
            is_cut=len(ids) > limit,
            target_answers=len(whole),
            answer_start=start,
            prompt_ids=None if prompt is None or prompt == ids[:start] else prompt,
        )

    def doubled(self, ids: list[int]) -> int:
        """Return how many BOS tokens to leave out: some templates write one, though the tokenizer does."""
        bos = self.probe.tokenizer.bos_token_id
        return int(bos is not None and ids[:2] == [bos, bos])

    def prompt_ids(self, prompt: str, doubled: int) -> list[int]:
        """Return the tokens that generation starts from, as a server makes them of the prompt alone."""
        return next(iter(encoded([prompt], [[]], self.probe.tokenizer))).ids[doubled:]

    def words(self, ids: list[int]) -> str:
        """Return the words of an answer as evaluation reads a generated one. `ids` end with its end mark."""
        return answer_text.texts(ids[:-1], self.probe.tokenizer, self.probe.reasoning_ends)[1]


def reference(message: Message) -> str:
    """Return the words of an answer without its reasoning; "" for one that calls a tool."""
    words = message.split()[1]
    is_split = words != message.content
    return "" if message.keys.get("tool_calls") else words.lstrip("\n") if is_split else words
