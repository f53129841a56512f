"""What a node learns about its ranks from what they and DeepSpeed's launcher print."""

from __future__ import annotations

import re
import signal
import time
from dataclasses import dataclass, field

from sft.errors import only_lost_another

# How long another rank or node may take to say the reason of what may be its consequence here: twice that for a rank
# which says no more than that it lost another one.
REASON_WAIT_S = 5.0


# A rank says the first itself; NCCL's watchdog says the second and aborts the rank.
ERROR_BETWEEN_RANKS = re.compile(
    r"(?:rank (\d+): error between ranks|\[rank(\d+)\].*watchdog thread terminated with exception): (.+)"
)


@dataclass
class Ranks:
    """What is known of this node's ranks from what they and DeepSpeed's launcher print."""

    done: set[int] = field(default_factory=set)
    codes: dict[int, int] = field(default_factory=dict)  # how those that broke ended, the first one first
    errors: dict[int, str] = field(default_factory=dict)  # what may only be the consequence of another rank's error
    broke_at: float | None = None

    def read(self, line: str) -> None:
        """Note what a line says."""
        if match := re.fullmatch(r"rank (\d+): done", line.strip()):
            self.done.add(int(match[1]))
        elif match := ERROR_BETWEEN_RANKS.match(line):
            self.errors.setdefault(int(match[1] or match[2]), match[3].strip())
        elif match := re.fullmatch(r"rank (\d+): exits with return code = (-?\d+)", line.strip()):
            self.codes.setdefault(int(match[1]), int(match[2]))
            self.broke_at = self.broke_at or time.monotonic()

    def reason(self) -> tuple[str, float]:
        """Return why they broke, as far as it is known here, and how long another one may take to know better."""
        killed = [(rank, code) for rank, code in self.codes.items() if code < 0 and code != -signal.SIGABRT]
        for rank, code in killed:
            hint = " (often because memory ran out: `dmesg` tells)" if code == -signal.SIGKILL else ""
            return f"rank {rank} {ended_with(code)}{hint}", 0
        for rank, error in self.errors.items():
            if not only_lost_another(error):
                return f"rank {rank}: {error}", REASON_WAIT_S
        for rank in self.codes:
            if rank not in self.errors:
                return f"rank {rank} {ended_with(self.codes[rank])}", REASON_WAIT_S
        return next((f"rank {rank}: {error}" for rank, error in self.errors.items()), ""), 2 * REASON_WAIT_S


def ended_with(code: int) -> str:
    """Return an exit code in words."""
    return f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
