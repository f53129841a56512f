"""One row as it is trained, for people who check that."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

from sft.errors import DataError
from sft.rows.files import ReadRow
from sft.run.shown_rows import RowChoice, Sequence, ShownRow
from sft.settings.fields import Settings
from sft.settings.kinds import LARGEST
from sft.trainer.data.pieces import Decoder
from sft.trainer.data.rows import Dropped, Tokenised, TokenisedRow
from sft.trainer.data.texts import TextTokeniser
from sft.trainer.data.tokenise import Tokeniser


@dataclass(frozen=True)
class Viewer:
    """Tokenises rows as preparing does, and without MAX_LENGTH too: to say how much is cut."""

    tokeniser: Tokeniser | TextTokeniser
    choice: RowChoice

    @cached_property
    def without_limit(self) -> Tokeniser | TextTokeniser:
        """What gives the sequences uncut."""
        return replace(
            self.tokeniser, settings=Settings.of(self.tokeniser.settings, max_length=LARGEST, long_rows="cut")
        )

    @cached_property
    def decoder(self) -> Decoder:
        """What turns tokens into text again."""
        return Decoder(self.tokeniser.tokenizer, self.tokeniser.stops)

    def shown(self, index: int, row: ReadRow) -> ShownRow:
        """Return a row as it is trained, or would be. Raises DataError for one that cannot be used at any length."""
        whole = trained_of(self.without_limit, row)
        if isinstance(whole, Dropped):
            return ShownRow(index=index, where=row[0], answers=0, target_answers=0, dropped=whole.reason, sequences=[])
        found: Tokenised = []
        dropped = ""
        try:
            found = trained_of(self.tokeniser, row)
        except DataError:
            dropped = "longer than MAX_LENGTH, which LONG_ROWS=refuse does not allow"
        if isinstance(found, Dropped):
            dropped = found.reason
        trained = found if isinstance(found, list) else []
        counts = (trained or whole)[-1].counts
        assert counts, "the last sequence of a row has the row's counts"
        if len(trained) > len(whole):  # a text that is longer than a sequence: nothing of it is cut
            whole = trained
        kept = iter(trained)
        return ShownRow(
            index=index,
            where=row[0],
            answers=counts.answers,
            target_answers=counts.target_answers if trained else 0,
            has_marks=counts.has_marks,
            has_template=counts.has_template,
            lost=list(counts.lost),
            dropped=dropped,
            sequences=[self.sequence(uncut, kept) for uncut in whole],
        )

    def sequence(self, uncut: TokenisedRow, trained: Iterator[TokenisedRow]) -> Sequence:
        """Return a sequence: the next one that is trained, or one of which MAX_LENGTH leaves no target."""
        limit = self.tokeniser.settings.max_length
        ids, is_target = uncut.ids[:limit], uncut.is_target[:limit]
        next_one = next(trained, None) if any(is_target[1:]) else None
        if next_one:
            ids, is_target = next_one.ids, next_one.is_target
        else:
            is_target = [False] * len(ids)  # of a row that is dropped
        return Sequence(
            pieces=self.decoder.pieces(ids, is_target, self.choice.ids),
            target_tokens=sum(is_target[1:]),
            cut_tokens=len(uncut.ids) - len(ids),
        )


def trained_of(tokeniser: Tokeniser | TextTokeniser, row: ReadRow) -> Tokenised:
    """Return what becomes of a row. Raises DataError."""
    (found,) = tokeniser.rows([row])
    if isinstance(found, DataError):
        raise found
    return found
