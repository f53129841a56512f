"""What can break a run: a closed set of kinds. Whether a restart may help and the exit code follow from the kind.

A kind is chosen once, where the error is caught, and is written to the run's `failure.json` beside the reason. The
reason is for people: no program looks for words in it.
"""

from __future__ import annotations

import errno
import os
from typing import Literal, NamedTuple

Kind = Literal[
    "user",  # a setting, a row or a file that the user can fix
    "out_of_memory",  # of a GPU; or of the machine or a container, if a rank could still report it or the kernel has
    "not_finite",  # a loss or a gradient
    "disk_full",
    "hang",  # no sign of the ranks within STEP_TIMEOUT_S
    "killed",  # a process was ended by a signal
    "between_ranks",  # an error of the connection between ranks
    "lost_rank",  # such an error that only says that another rank is gone
    "lost_node",  # a node did not come, or its connection broke
    "crash",  # any other error
]

FULL = (errno.ENOSPC, errno.EDQUOT)  # the disk's end, or that of the user's share of it
NO_SPACE = tuple(os.strerror(number).lower() for number in FULL)


class Policy(NamedTuple):
    """What is done about a failure."""

    restart_may_help: bool  # RESTARTS counts only these
    exit_code: int  # of ranks, node programs and tasks


POLICIES: dict[Kind, Policy] = {
    "user": Policy(restart_may_help=False, exit_code=2),
    # After a rank has cut the budget of a micro-step the run starts again all the same: sft/trainer/oom.py.
    "out_of_memory": Policy(restart_may_help=False, exit_code=1),
    "not_finite": Policy(restart_may_help=False, exit_code=1),  # the same rows would break it again
    "disk_full": Policy(restart_may_help=False, exit_code=1),
    "hang": Policy(restart_may_help=True, exit_code=1),
    "killed": Policy(restart_may_help=True, exit_code=1),
    "between_ranks": Policy(restart_may_help=True, exit_code=1),
    "lost_rank": Policy(restart_may_help=True, exit_code=1),
    "lost_node": Policy(restart_may_help=True, exit_code=1),
    "crash": Policy(restart_may_help=True, exit_code=1),
}

# Whether this may only be a consequence of another rank's failure.
MAY_FOLLOW: tuple[Kind, ...] = ("between_ranks", "lost_rank")


def kind_of_exit(code: int) -> Kind:
    """Return the kind of failure that a process's exit code means; -N stands for signal N."""
    if code < 0:
        return "killed"
    return "user" if code == POLICIES["user"].exit_code else "crash"


def exit_in_words(code: int) -> str:
    """Return an exit code as a user reads it."""
    return f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"


def is_disk_full(error: BaseException) -> bool:
    """Tell whether an error means a full disk: by its number, and where a library gives none, by the system's words."""
    return getattr(error, "errno", None) in FULL or says_no_space(str(error))


def says_no_space(text: str) -> bool:
    """Tell whether a library's text has the system's words for a full disk."""
    return any(words in text.lower() for words in NO_SPACE)


# torch, gloo and NCCL raise a RuntimeError with a text, and no number that tells one failure from another. Words in the
# text of an error between ranks which say no more than that another rank is gone: its own reason often comes later.
LOST = (
    "connection reset", "connection closed", "connection refused", "broken pipe", "timed out", "timeout",
    "remote process", "remote error", "ncclremoteerror", "was aborted", "failed to recv", "socket closed",
)  # fmt: skip
# Words in the text of an error that is this rank's own, whatever else the text says.
OWN = (
    "address already in use", "no socket interface", "unable to find address", "ncclunhandledcudaerror",
    "ncclinvalid", "duplicate gpu", "cuda error", "shared memory",
)  # fmt: skip


def kind_of_library_error(text: str) -> Kind:
    """Return the kind of failure that the text of an error of torch, gloo or NCCL means."""
    text = text.lower()
    if says_no_space(text):
        return "disk_full"
    if "out of memory" in text:
        return "out_of_memory"
    if any(word in text for word in OWN):
        return "crash"
    if any(word in text for word in LOST):
        return "lost_rank"
    return "between_ranks" if "nccl" in text or "gloo" in text else "crash"
