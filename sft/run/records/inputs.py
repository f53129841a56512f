"""`prepared.json` and the manifest of prepared data: what a run trains on."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable
from dataclasses import field

from sft.rows.row_kind import RowKind, common_kind
from sft.run.light import dataclass
from sft.run.records.looks import LookCounts
from sft.run.records.tried import Tried
from sft.run.typed_json import Part, Record


@dataclass(frozen=True, kw_only=True)
class Split(Part):
    """Counts of the training or the held-out rows."""

    kind: RowKind = "conversations"  # what the rows of the data set hold
    # Sequences of an epoch: a conversation whose answers need sequences of their own counts once for each of them, and
    # each of them as often as its data set's share says. So do the tokens; the other counts are of different rows.
    rows: int
    tokens: int
    target_tokens: int
    longest: int  # tokens
    cut_rows: int  # rows of the data set that are trained without what is beyond MAX_LENGTH
    conversations: int = 0  # rows of the data set that these sequences are of; texts too
    answers: int = 0  # in those rows
    target_answers: int = 0  # that are trained, at least in part
    dropped_sequences: int = 0  # of which MAX_LENGTH leaves no target, so they are left out; not among `rows`
    dropped: dict[str, int] = field(default_factory=dict)  # rows of the data set that are not trained, by reason
    messages_left_out: int = 0  # that follow the last target of their row
    too_long: int = 0  # rows of the data set that are cut or dropped as MAX_LENGTH does not hold them
    holds_all: int = 0  # the MAX_LENGTH that would hold all of these, if there are any
    holds_most: int = 0  # the MAX_LENGTH that would hold 99 % of all rows, if the present one does not
    rows_with_marks: int = 0  # whose text holds control marks of the model
    rows_with_template: int = 0  # whose text holds a whole turn of the chat template: almost always a mistake
    rows_with_lost: int = 0  # that hold characters which the tokenizer loses
    lost: dict[str, int] = field(default_factory=dict)  # how many rows hold which: the most frequent ones
    # How many rows were made of which columns, given as the JSON list of their names, and how many fill another column.
    used_columns: dict[str, int] = field(default_factory=dict)
    unused_columns: dict[str, int] = field(default_factory=dict)

    @property
    def dropped_rows(self) -> int:
        """Rows of the data set that are not trained."""
        return sum(self.dropped.values())

    @property
    def read(self) -> int:
        """Rows of the data set."""
        return (self.conversations or self.rows) + self.dropped_rows  # older runs have no `conversations`

    @classmethod
    def total(cls, parts: list[tuple[Split, int]]) -> Split:
        """Return the counts of several data sets together, of which each is trained so many times in an epoch."""
        found: dict[str, object] = {}
        for each in dataclasses.fields(cls):
            values = [getattr(split, each.name) for split, _ in parts]
            if each.name == "kind":
                found[each.name] = common_kind(values)
            elif each.name in ("rows", "tokens", "target_tokens"):
                found[each.name] = sum(value * times for value, (_, times) in zip(values, parts, strict=True))
            elif each.name in ("longest", "holds_all", "holds_most"):
                found[each.name] = max(values)
            elif isinstance(values[0], dict):
                found[each.name] = dict(sum(map(Counter, values), Counter()))
            else:
                found[each.name] = sum(values)
        make: Callable[..., Split] = cls
        return make(**found)


@dataclass(frozen=True, kw_only=True)
class RowCounts(Part):
    """What became of every row of a data set: `read` is the sum of the others."""

    read: int
    trained: int
    dropped: int
    held_out: int
    not_in_share: int = 0  # training rows of a data set of which only a share is trained


@dataclass(frozen=True, kw_only=True)
class SplitFiles(Part):
    """What each file of a local data set is for. Names are paths within the data set."""

    train: list[str]
    validation: list[str]  # for evaluation, whatever their split is called
    unused: dict[str, str]  # reasons by name
    said: list[str]  # the same, as lines


@dataclass(frozen=True, kw_only=True)
class MixturePart(Part):
    """One data set of several, or one of which a share is trained."""

    name: str
    share: str  # as in "0.5", "3x" and "2000"; "1x" is all of it
    rows: int  # training rows that it has
    taken: int  # of them, by its share
    held_out: int  # rows that are not for training
    repeats: int  # times in an epoch
    train: Split  # of the rows that are taken, each counted once
    validation: Split
    commit: str | None = None  # of a data set on the hub


@dataclass(frozen=True, kw_only=True)
class TemplateFacts(Part):
    """What was found out about a model's chat template before any row was prepared."""

    source: str  # whose it is, in words
    templates: dict[str, str]  # as rows were rendered with them, and as `final/` has them, by name: "default"
    end_mark: str  # text of the token that ends an answer
    end_is_appended: bool  # the template itself writes no end mark
    stops: list[int]  # tokens at which generation ends: the model's own and the end marks
    added_stops: list[str]  # those that the model did not stop at
    reasoning_end: list[str] = field(default_factory=list)  # texts between an answer's reasoning and its words
    reasoning_start: list[str] = field(default_factory=list)  # texts that open it
    arguments: dict[str, object] = field(default_factory=dict)  # CHAT_TEMPLATE_ARGUMENTS
    said: list[str] = field(default_factory=list)  # a line for everything that is unusual about it


@dataclass(frozen=True, kw_only=True)
class PreparedData(Record):
    """`data/prepared/KEY/manifest.json`: tokenised rows, written last. KEY depends on the tokenizer too."""

    train: Split
    validation: Split
    hash: str  # of everything in the folder
    commit: str | None  # of a data set on the hub
    settings: dict[str, object]  # that the rows depend on
    files: dict[str, str] | None = None  # SHA-256 of each file of a local data set
    splits: SplitFiles | None = None  # None: a data set on the hub, or prepared before this was noted
    row_counts: RowCounts | None = None  # None: prepared before this was noted
    template: TemplateFacts | None = None  # None: prepared before this was noted
    looks: LookCounts | None = None  # the same
    parts: list[MixturePart] = field(default_factory=list)  # empty: all of one data set


@dataclass(frozen=True, kw_only=True)
class Inputs(Part):
    """What identifies the data and the base model of a run."""

    format: int = 0  # of the prepared data
    data_hash: str = ""
    data_files: dict[str, str] | None = None  # hashes by name; None for a data set on the hub
    dataset_commit: str | None = None  # on the hub
    dataset_commits: dict[str, str] = field(default_factory=dict)  # by name, of several data sets
    model_commit: str | None = None  # on the hub
    model_hash: str = ""
    model_files: dict[str, str] | None = None  # hashes by name


@dataclass(frozen=True, kw_only=True)
class Prepared(Record):
    """`prepared.json`: where data and base model are. Its appearance tells the ranks that both are complete."""

    model: str  # a folder
    data: str  # a folder
    train: Split
    validation: Split
    inputs: Inputs
    seconds: dict[str, float] = field(default_factory=dict)  # spent on each
    said: list[str] = field(default_factory=list)  # a line for everything that is not as the run began
    unused: list[str] = field(default_factory=list)  # a line about weights in the model's files that it does not have
    template: TemplateFacts | None = None  # None: prepared before this was noted
    splits: SplitFiles | None = None  # the same
    row_counts: RowCounts | None = None  # the same
    looks: LookCounts | None = None  # the same
    parts: list[MixturePart] = field(default_factory=list)  # as in PreparedData
    tried: Tried | None = None  # on a tiny copy of the model; None: prepared before there was a trial
