"""The types of the files in a run directory, and of the manifests of checkpoints and of prepared data.

Each class is one file, or an object inside of one. Nobody else reads or writes their JSON (`read` and `write` in
typed_json.py do), so that a key is named in one place. Unknown keys survive a rewrite. A field added later gets a
default, which older files then have; a field that changes its meaning raises `version`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Self, TypedDict

from sft.failures import POLICIES, Kind
from sft.run.typed_json import Part, Record

Status = Literal["launching", "preparing", "training", "saving", "evaluating", "finished", "stopped", "failed"]
ENDED: tuple[Status, ...] = ("finished", "stopped", "failed")
Moment = Literal["before", "after"]  # training: when the base and the tuned model are evaluated
Evaluating = Literal["before", "during", "after"]


@dataclass(frozen=True, kw_only=True)
class State(Record):
    """`state.json`: what a run is doing. Written twice a second while it works; times are seconds since 1970."""

    has_errors = True

    status: Status = "launching"
    step: int = 0  # optimizer steps that are done
    total_steps: int = 0  # 0: not known yet
    epoch: float = 0.0
    error: str | None = None  # why the last attempt failed
    earlier_errors: list[str] = field(default_factory=list)  # why the attempts before it failed, the oldest first
    attempt: int = 1
    started_at: float | None = None
    attempt_started_at: float | None = None
    hours_from: float | None = None  # MAX_HOURS counts from here
    updated_at: float | None = None
    seconds: dict[str, float] = field(default_factory=dict)  # spent in each phase, over all attempts
    loss: float | None = None  # of the last step; None if it was not finite, which fp16's loss scaling skips
    tokens_per_second: float | None = None  # None: no step yet in this attempt, and so with time_left_s
    time_left_s: float | None = None
    evaluating: Evaluating | None = None  # which evaluation the next two numbers belong to
    answers: int = 0
    total_answers: int = 0
    set_aside: list[str] = field(default_factory=list)  # a line for each damaged checkpoint that this attempt met
    wandb: str | None = None  # the run's page, or why nothing is logged there


class StateChanges(TypedDict, total=False):
    """The fields of State that a writer may give; `status` and `updated_at` are set by Run.update_state itself."""

    step: int
    total_steps: int
    epoch: float
    error: str | None
    earlier_errors: list[str]
    attempt: int
    started_at: float
    attempt_started_at: float
    hours_from: float
    seconds: dict[str, float]
    loss: float | None
    tokens_per_second: float | None
    time_left_s: float | None
    evaluating: Evaluating | None
    answers: int
    total_answers: int
    set_aside: list[str]
    wandb: str | None


# What a run is made of


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
    """What tells a run's data and base model from others."""

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


@dataclass(frozen=True, kw_only=True)
class Machine(Part):
    """What node 0 runs on."""

    system: str
    cpu: str
    cores: int
    memory_gib: float
    gpus: list[str]
    driver: str | None


@dataclass(frozen=True, kw_only=True)
class Start(Part):
    """One start of a run. None: not noted; a commit is None outside of a repository too."""

    opened_at: float | None = None
    command: str | None = None
    commit: str | None = None  # of this project
    changed_files: list[str] | None = None  # tracked ones that differ from the commit
    deepspeed_file: dict[str, object] | None = None
    python: str | None = None
    packages: dict[str, str] | None = None  # versions
    machine: Machine | None = None
    inputs: Inputs | None = None


@dataclass(frozen=True, kw_only=True)
class Environment(Record):
    """`environment.json`: the starts of a run. The fields of the one that its weights began in are at the top."""

    has_errors = True  # a command line, names of files

    began: Start = field(default_factory=Start)
    later_starts: list[Start] = field(default_factory=list)  # went on from a checkpoint
    earlier_starts: list[Start] = field(default_factory=list)  # nothing is left of them

    @classmethod
    def from_json(cls, content: object, name: str = "") -> Self:
        """Return the starts, the fields of the first of them gathered."""
        if isinstance(content, dict):
            others = {key: content[key] for key in ("later_starts", "earlier_starts") if key in content}
            began = {key: value for key, value in content.items() if key not in others}
            content = {"began": began} | others
        return super().from_json(content, name)

    def to_json(self) -> dict[str, object]:
        """Return the starts, the fields of the first of them at the top."""
        others = super().to_json()
        del others["began"]
        return self.began.to_json() | others


@dataclass(frozen=True, kw_only=True)
class NodeInfo(Record):
    """`node-R.json`: a node, written by itself."""

    name: str  # in the hostfile
    host: str
    ranks: list[int]
    gpus: list[str]  # UUIDs


@dataclass(frozen=True, kw_only=True)
class PlanSummary(Record):
    """`plan.json`: memory and time as estimated before the start."""

    model: str
    weights: int
    shape: str  # where it is from
    rows: dict[str, str | int | float]
    gpu: str
    gpus: int
    gpu_gib: float
    usable_gib: float
    settings: dict[str, object]  # that the plan depends on
    fits: bool
    memory_gib: dict[str, dict[str, float]]  # by moment of a step, by part
    peak_moment: str
    peak_gib: float
    allocated_gib: float  # to compare with mem/peak_gib
    host_gib: float
    host_memory_gib: dict[str, float]
    saves_beside_training: bool
    work: dict[str, int | float]
    timing: dict[str, float]
    tokens_per_second: int
    notes: list[str]


# What a run has found


BudgetSetting = Literal["max_tokens_per_micro_step", "batch_size"]


@dataclass(frozen=True, kw_only=True)
class Cut(Part):
    """One micro-step that did not fit, and the budget from then on."""

    setting: BudgetSetting
    asked: int  # its value in settings.json
    tried: int  # tokens or rows of the largest micro-step of the step that did not fit
    now: int  # the budget since
    place: str  # as in "step 17"
    where: str  # forward, backward or optimizer
    rank: int


@dataclass(frozen=True, kw_only=True)
class Budget(Record):
    """`budget.json`: the budgets of a micro-step that memory allows, the oldest first."""

    cuts: list[Cut] = field(default_factory=list)

    @classmethod
    def upgraded(cls, content: object, version: int) -> object:
        """Return the content of a file that was a bare list of cuts."""
        return {"cuts": content} if isinstance(content, list) else content


@dataclass(frozen=True, kw_only=True)
class Sample(Part):
    """A held-out row, answered."""

    prompt: str
    reference: str
    answer: str
    correct: bool
    correct_flexible: bool


@dataclass(frozen=True, kw_only=True)
class Results(Part):
    """What an evaluation found; shares are None without rows."""

    loss: float | None = None
    rows: int = 0
    answers: int = 0
    exact_match: float | None = None
    exact_match_flexible: float | None = None
    samples: list[Sample] = field(default_factory=list)
    seconds: float = 0.0
    generating_seconds: float = 0.0

    def numbers(self) -> dict[str, object]:
        """Return everything but the samples, as JSON data."""
        found = self.to_json()
        del found["samples"]
        return found


@dataclass(frozen=True, kw_only=True)
class Evaluation(Record):
    """`evaluation.json`: the base model before and the tuned one after training; None: not evaluated yet."""

    before: Results | None = None
    after: Results | None = None

    def parts(self) -> dict[Moment, Results]:
        """Return the results that there are."""
        found: dict[Moment, Results | None] = {"before": self.before, "after": self.after}
        return {moment: results for moment, results in found.items() if results}


# How a run and its ranks end


@dataclass(frozen=True, kw_only=True)
class Failure(Record):
    """`failure.json`: what broke a run. Programs go by its kind; the reason is for people."""

    has_errors = True

    kind: Kind
    reason: str
    rank: int | None = None  # that broke; None: it was a node or a task, or all ranks

    @property
    def is_fixable(self) -> bool:
        """Whether the user can fix it."""
        return self.kind == "user"

    @property
    def restart_may_help(self) -> bool:
        """Whether it may not come back if the run starts again."""
        return POLICIES[self.kind].restart_may_help


@dataclass(frozen=True, kw_only=True)
class RankEnd(Record):
    """`ranks/rank-N.json`: how a rank ended, written by itself as the last thing that it does."""

    has_errors = True

    status: Literal["finished", "stopped", "failed"]
    failure: Failure | None = None


@dataclass(frozen=True, kw_only=True)
class RankExit(Record):
    """`ranks/exit-N.json`: how a rank's process ended, as the operating system told DeepSpeed's launcher."""

    pid: int
    code: int  # -N: ended by signal N


# Checkpoints


@dataclass(frozen=True, kw_only=True)
class CheckpointFile(Part):
    """A file of a checkpoint."""

    bytes: int
    blake2b: str


@dataclass(frozen=True, kw_only=True)
class Share(Record):
    """`.rank-R.json` in a checkpoint that is being written: the files of one rank, by name."""

    files: dict[str, CheckpointFile]


@dataclass(frozen=True, kw_only=True)
class Manifest(Record):
    """`manifest.json` of a checkpoint."""

    step: int
    world_size: int
    files: dict[str, CheckpointFile]
    blake2b: str = ""  # of the manifest itself: sft/run/checkpoints.py
