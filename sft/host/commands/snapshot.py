"""A snapshot of a run for `make monitor`, for people and for scripts."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from sft import hostfile
from sft.errors import UserError
from sft.host import gpus
from sft.host.commands import ending
from sft.host.commands.logs import ends
from sft.host.commands.metrics_reader import Metrics
from sft.host.gpus import Gpu
from sft.host.launch.slurm import queue
from sft.host.launch.slurm.queue import JobState
from sft.run import files
from sft.run.directory import Run
from sft.run.find import at_work
from sft.run.records import ENDED, Evaluation, NodeInfo, Prepared, RowCounts, State

signs: dict[Path, tuple[float, float | None]] = {}  # of runs: the last sign, and when this process saw it change


def age_of(run: Run, updated_at: float, now: float) -> float:
    """Return how many seconds ago a run gave its last sign of life.

    It was written by another machine's clock, perhaps: as soon as a new sign is seen, this process's own clock counts,
    and until then that of the file system.
    """
    last, seen_at = signs.get(run.path, (updated_at, None))
    if last != updated_at:
        seen_at = time.monotonic()
    signs[run.path] = (updated_at, seen_at)
    if seen_at is not None:
        return time.monotonic() - seen_at
    return max(0.0, age_on_disk(run) if run.is_running() else now - updated_at)


def age_on_disk(run: Run) -> float:
    """Return how many seconds older `state.json` is than a file that is written now, by the file system's own times."""
    new = files.temporary_name(run.state_file)
    written = time.time()
    with contextlib.suppress(FileNotFoundError):
        written = run.state_file.stat().st_mtime
    try:
        new.touch()
        return new.stat().st_mtime - written
    except OSError:  # another user's run, or a full disk
        return time.time() - written
    finally:
        with contextlib.suppress(OSError):
            new.unlink()


def nodes_in(run: Run, begun: int) -> int:
    """Return how many nodes the hostfile names; if it cannot be read, how many have begun."""
    try:
        return len(hostfile.read_hostfile(run.hostfile))
    except (UserError, OSError):
        return begun


@dataclass(frozen=True)
class Snapshot:
    """Everything that the monitor shows of a run at one moment."""

    run: Run
    running: bool
    age_s: float  # since the last sign of life
    elapsed_s: float  # in this attempt
    state: State
    problems: list[str]  # a line for each file that cannot be read
    metrics: dict[str, float]  # the newest value of each
    losses: list[float]  # of the whole run, as a curve
    results: Evaluation
    rows: RowCounts | None  # None: not prepared yet
    template: list[str]  # a line for everything that is unusual about the chat template
    nodes: list[NodeInfo]  # that have begun
    number_of_nodes: int  # that the hostfile names
    nodes_missing: list[int]  # of them, those that have not begun
    gpus: list[Gpu]
    how_to_continue: str  # how to continue a run that is not running
    logs: dict[str, list[str]]  # the end of each node's log, if the run failed
    job: JobState | None  # of a scheduler, as it says now
    others: list[str]  # commands that show other runs, which are running

    @classmethod
    def of(cls, run: Run, metrics: Metrics, problems: Sequence[str] = ()) -> Snapshot:
        """Return the present state of a run; `metrics` is what its metrics say so far."""
        state, now = run.state(), time.time()
        prepared = run.record(run.prepared, Prepared)
        updated_at = state.updated_at or now
        ended, running, job = state.status in ENDED, run.is_held(), queue.job_of(run)
        age_s = age_of(run, updated_at, now)
        nodes = run.nodes()
        slots = max((len(node.ranks) for node in nodes), default=1) or 1
        begun = {node.ranks[0] // slots for node in nodes if node.ranks}
        number = nodes_in(run, len(nodes))
        return cls(
            run=run,
            running=running,
            age_s=round(age_s, 1),
            # Both times are of one machine's clock, which need not be this one's.
            elapsed_s=round(max(0.0, updated_at - (state.attempt_started_at or updated_at)) + age_s * (not ended), 1),
            state=state,
            problems=list(problems),
            metrics=metrics.newest,
            losses=metrics.losses,
            results=run.results(),
            rows=prepared.row_counts if prepared else None,
            template=prepared.template.said if prepared and prepared.template else [],
            nodes=nodes,
            number_of_nodes=number,
            nodes_missing=[rank for rank in range(number) if rank not in begun],
            gpus=gpus.visible(),
            how_to_continue=""
            if running or state.status == "finished" or (job and job.is_active)
            else ending.how_to_continue(run, run.command("resume")),
            logs=ends(run) if state.status == "failed" or not (ended or running or (job and job.waits)) else {},
            job=job,
            others=[] if running else [other.command("monitor") for other in at_work(run.path.parent)],
        )

    @property
    def status(self) -> str:
        """The run's status; behind "stopped" why a scheduler wanted its nodes back, if that was the reason."""
        why = self.run.stop_reason() if self.state.status == "stopped" else None
        return f"stopped ({why})" if why in (ending.TIME_LIMIT, ending.PREEMPTED) else self.state.status

    @property
    def is_dead(self) -> bool:
        """Whether nothing is at work on a run that has not ended, and no job is going to be."""
        return self.state.status not in ENDED and not self.running and not (self.job and self.job.is_active)

    def node_of(self, gpu: Gpu) -> str:
        """Return the name of the node that has a GPU, or ""."""
        return next((node.name for node in self.nodes if gpu.uuid in node.gpus), "")

    def to_json(self) -> dict[str, object]:
        """Return what `inv monitor --json` prints; scripts of users read it."""
        return {
            "run": self.run.name,
            "path": str(self.run.path),
            "running": self.running,
            "age_s": self.age_s,
            "elapsed_s": self.elapsed_s,
            "state": self.state.to_json(),
            "problems": self.problems,
            "metrics": self.metrics,
            "losses": self.losses,
            "evaluation": {moment: results.numbers() for moment, results in self.results.parts().items()},
            "rows": self.rows.to_json() if self.rows else None,
            "template": self.template,
            "nodes": [node.to_json() for node in self.nodes],
            "gpus": [asdict(gpu) | {"node": self.node_of(gpu)} for gpu in self.gpus],
            "goes_on": self.how_to_continue,
            "logs": self.logs,
            "job": asdict(self.job) if self.job else None,
            "others": self.others,
        }
