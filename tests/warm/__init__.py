"""Processes that have imported torch, transformers and DeepSpeed, and fork where a test's run starts a rank.

A rank imports for three to four seconds before it does anything, and the tests start hundreds of them. So with
tests/warm/hook on PYTHONPATH a program of the trainer connects to a server (server.py) before its first import. The
server passes it on to a template (template.py): a process that has imported the libraries, but nothing of sft. The
template forks, and the fork runs the program: with the arguments, environment, working directory, open files, umask
and signals of the process that asked. That process (hook/warm_stub.py) stays in its place. It has the rank's pid,
session and parent: it passes signals on, ends as the fork does, and if it is killed, so is the fork.

A fork inherits from its template what cannot be handed over: user, limits, namespaces, cgroup, and variables that
libraries read while they are imported (`warm_stub.conditions`). If the server has no template with the same ones, the
program runs as it is. So do those of tests that are marked `real`, and of all tests with SFT_TEST_WARM=0.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from sft.settings.fields import Settings

HOOK = Path(__file__).parent / "hook"
HOOKS = Path(__file__).parents[1] / "e2e"  # others, which change a rank after its libraries are imported
NAME = "SFT_TEST_WARM"  # names the server's folder
LIBRARIES = ("HF_", "HUGGINGFACE_", "TRANSFORMERS_", "TORCH_", "WANDB_")  # how their own variables begin


class Server:
    """The server, started once for all processes of the tests. It ends when the process that started it does."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="sft-warm-"))
        ours = [name.upper() for name in Settings.model_fields]
        (self.folder / "ignored").write_text("\n".join(name for name in ours if not name.startswith(LIBRARIES)))
        program = Path(__file__).with_name("server.py")
        self.process = subprocess.Popen([sys.executable, program, self.folder], stdin=subprocess.PIPE)
        os.environ[NAME] = str(self.folder)

    def end(self) -> None:
        """End the server and its templates."""
        os.environ.pop(NAME, None)
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()
        shutil.rmtree(self.folder)


@contextlib.contextmanager
def left_out() -> Iterator[None]:
    """Have no program of the trainer forked meanwhile."""
    folder = os.environ.pop(NAME, None)
    try:
        yield
    finally:
        if folder:
            os.environ[NAME] = folder


def environment(given: dict[str, str]) -> dict[str, str]:
    """Return the variables that have programs of the trainer forked, beside those `given`."""
    changes = given.get("PYTHONPATH", "")  # a folder with modules may change the libraries
    if os.environ.get(NAME, "0") == "0" or (changes and Path(changes).parent != HOOKS):
        return {}
    return {"PYTHONPATH": f"{HOOK}{os.pathsep}{changes}" if changes else str(HOOK)}
