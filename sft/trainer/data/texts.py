"""From texts to tokens, for continued pretraining: every token is a target, and the EOS token ends a text.

No chat template has a part in it. A text begins as the model's tokenizer begins every text: with BOS if it has one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from sft.errors import DataError
from sft.rows import forms
from sft.rows.forms import ConvertedText
from sft.rows.looks.row import look
from sft.rows.looks.said import of_text
from sft.rows.row import ReadRow
from sft.rows.row_kind import RowKind
from sft.run.records import TemplateFacts
from sft.settings.fields import Settings
from sft.trainer.data.characters import Characters
from sft.trainer.data.encode import check_ids, in_pieces
from sft.trainer.data.marks import special_tokens
from sft.trainer.data.prober import any_of
from sft.trainer.data.rows import EMPTY, NO_TARGET, TOO_LONG, Counts, Dropped, Tokenised, TokenisedRow, same

SHOWN = 200  # characters of a text that `inv rows --check` can show
# How turns begin in the texts of usual chat templates, and in prompts of older data sets.
TURNS = (
    "<|im_start|>", "<|start_header_id|>", "<start_of_turn>", "[INST]", "<|user|>", "<|assistant|>", "<|User|>",
    "<|START_OF_TURN_TOKEN|>", "<|turn>", "### Instruction:", "### Response:", "### Human:", "### Assistant:",
)  # fmt: skip


@dataclass(frozen=True)
class TextTokeniser:
    """Turns rows that are texts into tokens. `embedding_rows` and `pictures`: see Tokeniser."""

    tokenizer: Any
    settings: Settings
    stops: list[int]  # tokens at which the model stops
    embedding_rows: int | None = None
    pictures: frozenset[int] = frozenset()
    asked: bool = False  # texts have no answers
    kind: ClassVar[RowKind] = "texts"
    facts: ClassVar[TemplateFacts | None] = None

    @cached_property
    def marks(self) -> Any:
        """A pattern of the model's control marks."""
        return any_of(text for text in special_tokens(self.tokenizer) if text.strip())

    @cached_property
    def characters(self) -> Characters:
        """The characters that the tokenizer keeps."""
        return Characters(self.tokenizer, self.stops)

    def rows(self, read: Iterable[ReadRow]) -> list[Tokenised | DataError]:
        """Return what becomes of each row, or the error that names its place, in order."""
        found: list[tuple[str, ConvertedText | DataError]] = []
        for where, row in read:
            try:
                found.append((where, forms.converted_text(row, where, self.settings)))
            except DataError as error:
                found.append((where, error))
        whole = [item.text for _, item in found if isinstance(item, ConvertedText) and not has_context(item)]
        ids = iter(self.encoded(whole))
        result: list[Tokenised | DataError] = []
        for where, item in found:
            try:
                if isinstance(item, DataError):
                    result.append(item)
                elif has_context(item):
                    result.append(self.sequences(item, *self.in_segments(item), where))
                else:
                    tokens = next(ids)
                    result.append(self.sequences(item, tokens, [True] * len(tokens), where))
            except DataError as error:
                result.append(error)
        return result

    def encoded(self, texts: list[str]) -> list[list[int]]:
        """Return the tokens of texts, each as the tokenizer begins it and with EOS at its end."""
        literal = [self.settings.special_tokens_in_text == "split" and bool(self.marks.search(text)) for text in texts]
        plain = [text for text, is_literal in zip(texts, literal, strict=True) if not is_literal]
        batch = iter(self.tokenizer(plain, return_attention_mask=False, verbose=False).input_ids if plain else [])
        return [
            self.ended(
                self.tokenizer(text, split_special_tokens=True, verbose=False).input_ids if is_literal else next(batch)
            )
            for text, is_literal in zip(texts, literal, strict=True)
        ]

    def in_segments(self, item: ConvertedText) -> tuple[list[int], list[bool]]:
        """Return the tokens of a text in segments, and which of them are targets. It has its marks, BOS too, itself."""
        is_literal = self.settings.special_tokens_in_text == "split"
        segments = [(text, is_target) for text, is_target in item.segments if text]
        pieces = in_pieces([(text, is_literal) for text, _ in segments], self.tokenizer).pieces
        ids = [token for piece in pieces for token in piece.ids]
        is_target = [one for piece, (_, one) in zip(pieces, segments, strict=True) for _ in piece.ids]
        end = [] if ids[-1] == self.tokenizer.eos_token_id else [self.tokenizer.eos_token_id]
        return ids + end, is_target + [segments[-1][1]] * len(end)

    def ended(self, ids: list[int]) -> list[int]:
        """Return the tokens of a text with one BOS, and with EOS at the end: the text may have both as marks."""
        bos, eos = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        if bos is not None and bos != eos and ids[:2] == [bos, bos]:
            ids = ids[1:]
        return ids if ids[-1:] == [eos] else [*ids, eos]

    def sequences(self, item: ConvertedText, ids: list[int], is_target: list[bool], where: str) -> Tokenised:
        """Return what becomes of a text, of whose tokens some are targets. Raises DataError."""
        if not item.text or len(ids) < 2:
            return Dropped(EMPTY, 0)
        check_ids(ids, where, self.tokenizer, self.embedding_rows, self.pictures)
        limit, choice = self.settings.max_length, self.settings.long_rows
        if len(ids) > limit and choice == "refuse":
            remedy = "raise MAX_LENGTH, or set LONG_ROWS to cut or drop"
            raise DataError(f"{where}: its {len(ids):,} tokens are more than MAX_LENGTH={limit}; {remedy}")
        if len(ids) > limit and choice == "drop":
            return Dropped(TOO_LONG, len(ids))
        has_marks = bool(self.marks.search(item.text))
        counts = Counts(
            answers=0,
            target_answers=0,
            length=len(ids),
            is_cut=False,
            dropped=0,
            left_out=0,
            has_marks=has_marks,
            has_template=any(turn in item.text for turn in TURNS),
            used=same(item.used),
            unused=same(item.unused),
            lost=same(self.characters.lost([item.text], item.text, ids)),
            looked_at=look(of_text(item.text), where, has_marks),
        )
        # A sequence begins with the last token of the one before it: then something predicts every token of the text
        # but the first, and each is a target once.
        starts = range(0, max(1, len(ids) - 1), limit - 1)
        parts = [slice(start, start + limit) for start in starts]
        rows = [TokenisedRow(ids[part], [False, *is_target[part][1:]], "", "") for part in parts]
        kept = [row for row in rows if any(row.is_target)]
        if not kept:
            return Dropped(NO_TARGET, len(ids))
        counts = counts._replace(dropped=len(rows) - len(kept))
        return [*kept[:-1], kept[-1]._replace(counts=counts, reference=item.text[:SHOWN])]


def has_context(item: ConvertedText) -> bool:
    """Return whether parts of a text are context only."""
    return not all(is_target for _, is_target in item.segments)
