"""How the ranks of one node ended: by their own records, and by the exit codes of their processes."""

from __future__ import annotations

import re
import signal
import time

from sft import resources
from sft.failures import exit_in_words, kind_of_exit, kind_of_library_error
from sft.host import limits
from sft.run.directory import Run
from sft.run.records import Failure, RankEnd

# How long another rank or node may take to say the reason of what may be its consequence here: twice that for a rank
# that says no more than that it lost another one.
REASON_WAIT_S = 5.0
WATCHDOG = re.compile(r"\[rank(\d+)\].*watchdog thread terminated with exception: (.+)")


class Ranks:
    """What the records in the run directory say about the ranks of a node."""

    def __init__(self, run: Run, numbers: range) -> None:
        self.run, self.numbers = run, numbers
        self.ends: dict[int, RankEnd] = {}
        self.exits: dict[int, int] = {}  # exit codes of their processes
        self.failures: dict[int, Failure] = {}
        self.broke_at: float | None = None
        self.kills_before = resources.memory_kills()

    def forget(self) -> None:
        """Remove the records of ranks of the last attempt that ended after this attempt had begun."""
        for rank in self.numbers:
            self.run.rank_file(rank).unlink(missing_ok=True)
            self.run.exit_file(rank).unlink(missing_ok=True)

    def look(self) -> None:
        """Read the records that are new."""
        for rank in self.numbers:
            # In this order: a rank whose exit is there has written its own record before.
            if rank not in self.exits and (exited := self.run.rank_exit(rank)):
                self.exits[rank] = exited.code
            if rank not in self.ends and (end := self.run.rank_end(rank)):
                self.ends[rank] = end
                if end.failure:
                    self.failures.setdefault(rank, end.failure)
        if self.broke_at is None and (self.failures or self.broken):
            self.broke_at = time.monotonic()

    @property
    def are_done(self) -> bool:
        """Whether all ranks have ended well."""
        return len(self.ends) == len(self.numbers) and not any(end.failure for end in self.ends.values())

    @property
    def broken(self) -> dict[int, int]:
        """The exit codes of the ranks that broke. A process that breaks after a good end does not count."""
        well = {rank for rank, end in self.ends.items() if not end.failure}
        return {rank: code for rank, code in self.exits.items() if code and rank not in well}

    def read_line(self, line: str) -> None:
        """Note what a line of output says about the end of a rank, before its process has ended."""
        if found := aborted_by_nccl(line):
            self.failures.setdefault(*found)

    def failure(self) -> tuple[Failure, float]:
        """Return why the ranks broke, as far as this node knows, and how long to wait for a better reason."""
        for rank, code in self.broken.items():
            if code < 0 and code != -signal.SIGABRT:  # with that one NCCL ends a rank that has lost another one, too
                return self.killed(f"rank {rank}", code, rank), 0
        said = list(self.failures.values())
        if own := [failure for failure in said if failure.kind != "lost_rank"]:
            return own[0], REASON_WAIT_S
        for rank, code in self.broken.items():
            if rank not in self.failures:
                reason = f"rank {rank} {exit_in_words(code)}"
                return Failure(kind=kind_of_exit(code), reason=reason, rank=rank), REASON_WAIT_S
        return said[0], 2 * REASON_WAIT_S

    def killed(self, what: str, code: int, rank: int | None = None) -> Failure:
        """Return the failure of a process that a signal has ended: the kernel counts those it kills for memory."""
        reason = f"{what} {exit_in_words(code)}"
        if code != -signal.SIGKILL:
            return Failure(kind="killed", reason=reason, rank=rank)
        if resources.memory_kills() == self.kills_before:
            hint = f" ({limits.cpu_time() or 'often because memory ran out: `dmesg` tells'})"
            return Failure(kind="killed", reason=reason + hint, rank=rank)
        why = "main memory ran out; use fewer ranks or a smaller model, or allow more memory"
        return Failure(kind="out_of_memory", reason=f"{reason}: {why}", rank=rank)


def aborted_by_nccl(line: str) -> tuple[int, Failure] | None:
    """Return the rank that NCCL's watchdog is about to abort, and why; None for any other line of output.

    The watchdog is a thread of torch's, in C++. It prints the error, raises it where no Python catches it, and so ends
    the process with SIGABRT: the rank itself never gets to say anything, and the signal does not say why.
    """
    if not (match := WATCHDOG.match(line)):
        return None
    rank, error = int(match[1]), match[2].strip()
    return rank, Failure(kind=kind_of_library_error(error), reason=f"rank {rank}: {error}", rank=rank)
