"""A trial on a GPU in a process of its own: a kernel that crashes or hangs there must not end the run."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection

from sft.errors import SettingsError
from sft.run.records import Tried
from sft.trainer.causes import ends_gpu, reason_of
from sft.trainer.model import liger

LIMIT_S = 300.0  # the first use of a kernel may compile for a minute


def tried(attempt: Callable[[], Tried]) -> Tried:
    """Return what an attempt finds in a forked process. Raises SettingsError if the attempt does.

    If it crashes, hangs or loses the use of the GPU, nothing is known of the model, except that a kernel may do that in
    the ranks too: they use none of Liger's.
    """
    # Forked, as the libraries are loaded already. This process has not used the GPU, and has no threads of torch's.
    context = multiprocessing.get_context("fork")
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=send, args=(attempt, sending))
    process.start()
    sending.close()
    found: Tried | list[str] | str | None = None  # a list: the lines of a refusal; a text: the error that it ended with
    ended = "ended without a result"
    try:
        if receiving.poll(LIMIT_S):
            found = receiving.recv()
        else:
            ended = f"took more than {LIMIT_S:.0f} s"
    except EOFError:
        process.join()
        code = process.exitcode or 0
        ended = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    finally:
        process.kill()
        process.join()
        receiving.close()
    if isinstance(found, list):
        raise SettingsError(found)
    return found if isinstance(found, Tried) else crashed(f"ended with {found}" if found else ended)


def send(attempt: Callable[[], Tried], sending: Connection) -> None:
    """Make the attempt, and send what it returns or raises."""
    try:
        sending.send(attempt())
    except SettingsError as error:
        sending.send(error.problems)
    except Exception as error:  # of any kind: what a kernel does to the GPU
        if not ends_gpu(error):  # a fault of the trial itself, with its traceback
            raise
        sending.send(reason_of(error))


def crashed(ended: str) -> Tried:
    """Return what is known of a model whose trial crashed."""
    said = f"its trial {ended}: training without Liger's kernels"
    return Tried(not_tried=said, without_kernels=list(liger.KERNELS), left_out=[said])
