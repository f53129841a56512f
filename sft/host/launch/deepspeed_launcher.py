"""DeepSpeed's launcher without torch: this module runs in place of `deepspeed.launcher.launch`.

The launcher sets a few variables and starts the ranks. But Python imports all of DeepSpeed before it, and with it
torch: seconds in which no rank can begin with its own imports (benchmarks/README.md). So the launcher's own file runs
here with stand-ins for the packages that it takes a few names from. DeepSpeed's version is pinned, and
tests/torch/test_deepspeed_launcher.py compares what the ranks get from this launcher and from DeepSpeed's own.

It also leaves the ranks' end to the node program. DeepSpeed's launcher answers a signal, or the end of one rank, by
giving the other ranks 30 s and killing them: a checkpoint that takes longer to write would be lost, and nobody would
see where the others hang. Here signals are held back from it. The exit code of a rank is written to the run directory
at once, where the node program reads it, but to DeepSpeed's launcher a broken rank is alive until all ranks have ended.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import logging
import os
import subprocess
import sys
from collections.abc import Iterable, MutableMapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import ClassVar

from sft.host.launch import signals
from sft.run import typed_json
from sft.run.directory import Run
from sft.run.records import RankExit

RUN = "SFT_RUN_PATH"  # names the run directory, in the environment that the node program gives
LINE = "[%(asctime)s] [%(levelname)s] [%(filename)s:%(lineno)d:%(funcName)s] %(message)s"
VISIBLE_DEVICES = "CUDA_VISIBLE_DEVICES"  # for ranks on a CPU too


class Accelerator:
    """What the launcher needs from an accelerator: the variables that tell a rank its node's cards."""

    def visible_devices_envs(self) -> list[str]:
        """Return the names of these variables."""
        return [VISIBLE_DEVICES]

    def set_visible_devices_envs(self, environment: MutableMapping[str, str], devices: Iterable[int]) -> None:
        environment[VISIBLE_DEVICES] = ",".join(map(str, devices))


def stand_in(name: str, **content: object) -> None:
    """Replace a package of DeepSpeed by one that holds only `content`, for the imports that follow."""
    deepspeed = importlib.util.find_spec("deepspeed")
    assert deepspeed is not None and deepspeed.origin is not None
    package = ModuleType(name)
    package.__path__ = [str(Path(deepspeed.origin).parent.joinpath(*name.split(".")[1:]))]
    package.__dict__.update(content)
    sys.modules[name] = package


class Rank(subprocess.Popen[bytes]):
    """A rank's process."""

    started: ClassVar[list[Rank]] = []

    def __init__(self, command: list[str], env: dict[str, str]) -> None:
        super().__init__(command, env=env)
        self.rank, self.is_noted = int(env["RANK"]), False
        self.started.append(self)

    def poll(self) -> int | None:
        """Return its exit code, None as long as it lives, and after an error as long as any rank lives."""
        code = self.look()
        # Look at all ranks: after the last one DeepSpeed's launcher ends without asking for the others again.
        others = [rank.look() for rank in self.started] if code else []
        return None if None in others else code

    def look(self) -> int | None:
        """Return its exit code, None as long as it lives. Record it the first time."""
        code = super().poll()
        if code is not None and not self.is_noted:
            self.is_noted = True
            self.note_exit(code)
        return code

    def note_exit(self, code: int) -> None:
        """Write the exit code to the run directory, and to the log if it means an error."""
        if code:
            sys.stdout.write(f"rank {self.rank}: exits with return code = {code}\n")
            sys.stdout.flush()
        if run := os.environ.get(RUN):
            with contextlib.suppress(OSError):  # a full disk: the rank itself has reported that
                typed_json.write(Run(Path(run)).exit_file(self.rank), RankExit(pid=self.pid, code=code), flushed=False)


def main() -> None:
    """Run the launcher with this program's arguments."""
    signals.block()
    logger = logging.getLogger("DeepSpeed")
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter(LINE))
    logger.addHandler(handler)
    stand_in("deepspeed.accelerator", get_accelerator=Accelerator)
    stand_in(
        "deepspeed.utils",
        logger=logger,
        set_log_level_from_string=lambda level: logger.setLevel(level.upper()),
        get_numactl_cmd=None,  # --bind_cores_to_rank is not used
    )
    stand_in("deepspeed")  # last: its place is looked up for the others
    launch = importlib.import_module("deepspeed.launcher.launch")
    launch.subprocess = SimpleNamespace(Popen=Rank)  # type: ignore[attr-defined]
    launch.main()


if __name__ == "__main__":
    main()
