"""Node programs without ranks, for benchmarks/scale.py: real ones, each in a process forked from this one."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import socket
import sys
import threading
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from benchmarks.idle import END, STARTED
from sft import hostfile
from sft.host.launch.node import Programs, run_node
from sft.run import lifecycle, typed_json
from sft.run.directory import Run
from sft.run.files import write_whole
from sft.run.records import Prepared
from sft.run.records.inputs import Inputs, Split
from sft.settings.load import load
from sft.settings.stages import resolve, without_plan

PROGRAMS = Programs(prepare="benchmarks.idle", ranks="benchmarks.idle")
SLOTS = 8  # ranks of a node
WAIT_S = 300.0


@dataclass
class Trial:
    """A run of so many nodes."""

    run: Run
    nodes: int
    port: int
    processes: dict[int, int] = field(default_factory=dict)  # by node
    codes: dict[int, int] = field(default_factory=dict)
    files: int = 0  # that a node's program may open

    def begin(self, rank: int) -> None:
        """Start a node's program."""
        sys.stdout.flush()
        pid = os.fork()
        if pid:
            self.processes[rank] = pid
            return
        code = 1
        try:
            os.setsid()
            os.closerange(3, 4096)  # what this program has open is not the node's
            null = os.open(os.devnull, os.O_RDWR)
            for stream in (0, 1):
                os.dup2(null, stream)
            os.dup2(os.open(self.run.path / "stderr", os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
            if self.files:
                hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
                resource.setrlimit(resource.RLIMIT_NOFILE, (self.files, hard))
            if rank == 1:
                count_opens(self.run.path, self.run.path / "opens")
            run_node(self.run, rank, PROGRAMS)
            code = 0
        except SystemExit as error:
            code = int(error.code or 0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)

    def reap(self) -> None:
        """Note which programs have ended."""
        for rank, pid in self.processes.items():
            if rank not in self.codes:
                found, status = os.waitpid(pid, os.WNOHANG)
                if found:
                    self.codes[rank] = os.waitstatus_to_exitcode(status)

    def have_ended(self) -> bool:
        self.reap()
        return len(self.codes) == self.nodes

    def started(self) -> int:
        """Return how many nodes have started their ranks."""
        return len(list((self.run.path / STARTED).iterdir()))

    def process(self, rank: int) -> psutil.Process:
        return psutil.Process(self.processes[rank])

    def cpu_s(self, rank: int) -> float:
        """Return the seconds of CPU that a program has taken: to the nanosecond, where `cpu_times` counts ticks."""
        process = self.processes[rank]
        tasks = Path(f"/proc/{process}/task").iterdir()
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9

    def end_ranks(self) -> None:
        """Let all ranks end well."""
        self.run.update_state("finished")
        os.close(os.open(self.run.path / END, os.O_WRONLY))

    def close(self) -> None:
        """End what is left."""
        for rank, pid in self.processes.items():
            if rank not in self.codes:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
                    os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if str(self.run.path) in process.cmdline():
                    process.kill()
        shutil.rmtree(self.run.path)


def count_opens(folder: Path, result: Path) -> None:
    """Count what this process opens in a folder, or tries to; write the number into a file every second."""
    count, prefix = [0], str(folder)

    def note(event: str, arguments: tuple[object, ...]) -> None:
        if event != "open" or threading.get_ident() == teller.ident:
            return
        if isinstance(arguments[0], str) and arguments[0].startswith(prefix):
            count[0] += 1

    def tell() -> None:
        while True:
            write_whole(result, f"{count[0]} {time.monotonic()}", flushed=False)
            time.sleep(1)

    teller = threading.Thread(target=tell, daemon=True)
    sys.addaudithook(note)
    teller.start()


def opened(trial: Trial) -> tuple[int, float]:
    """Return how many files node 1's program has opened, and when that was counted."""
    number, at = (trial.run.path / "opens").read_text().split()
    return int(number), float(at)


def made(nodes: int, runs: Path) -> Trial:
    """Return a trial whose run is ready for its nodes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1] - 1
    settings = load(
        None, runs_path=runs, run_name=f"scale-{nodes}", nodes=nodes, gpus_per_node=SLOTS, master_port=port,
        global_batch_size=nodes * SLOTS, rendezvous_timeout_s=int(WAIT_S),
    )  # fmt: skip
    run = lifecycle.create(
        without_plan(resolve(settings, "cpu", "local")),
        hostfile.hostfile(nodes, SLOTS),
    )
    (run.path / STARTED).mkdir()
    os.mkfifo(run.path / END)
    nothing = Split(rows=0, tokens=0, target_tokens=0, longest=0, cut_rows=0)
    typed_json.write(run.prepared, Prepared(model="", data="", train=nothing, validation=nothing, inputs=Inputs()))
    return Trial(run, nodes, port)
