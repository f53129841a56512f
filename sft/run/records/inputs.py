"""`prepared.json` and the manifest of prepared data: what a run trains on."""

from __future__ import annotations

from dataclasses import dataclass, field

from sft.run.typed_json import Part, Record


@dataclass(frozen=True, kw_only=True)
class Split(Part):
    """Counts of the training or the held-out rows."""

    rows: int
    tokens: int
    target_tokens: int
    longest: int  # tokens
    cut_rows: int  # at MAX_LENGTH


@dataclass(frozen=True, kw_only=True)
class PreparedData(Record):
    """`data/prepared/KEY/manifest.json`: tokenised rows, written last. KEY depends on the tokenizer too."""

    train: Split
    validation: Split
    hash: str  # of everything in the folder
    commit: str | None  # of a data set on the hub
    settings: dict[str, object]  # that the rows depend on
    files: dict[str, str] | None = None  # SHA-256 of each file of a local data set


@dataclass(frozen=True, kw_only=True)
class Inputs(Part):
    """What identifies the data and the base model of a run."""

    format: int = 0  # of the prepared data
    data_hash: str = ""
    data_files: dict[str, str] | None = None  # hashes by name; None for a data set on the hub
    dataset_commit: str | None = None  # on the hub
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
