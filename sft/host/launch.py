"""The node program: `python -m sft.host.launch --run runs/NAME --node-rank R`, the same under every launcher.

The nodes meet (sft/host/link.py), and every node starts DeepSpeed's launcher for its own ranks: what they import takes
as long as node 0 takes to make data and model ready. A node writes their log, and ends only when none of its processes
is left. No exit code of the launcher is believed: it can be 0 with dead ranks. Every rank says `rank N: done` at its
clean end, and those lines are counted.

Without `--run`, as in `docker compose up` by hand, node 0 opens the run itself and tells the others its name.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import IO, Any

import psutil

from sft import budget, cluster, files, machine, variables
from sft.errors import RunFailed, SettingsError, SftError, UserError, wrong
from sft.host import gpus, inputs, opening, surroundings
from sft.host.link import Link, MasterLink, WorkerLink, master_address
from sft.host.setup import make_folders
from sft.redaction import guard_tracebacks, redact
from sft.run import Run
from sft.settings import Settings

LAUNCHER = "sft.host.deepspeed_launcher"
POLL_S = 0.2
# After a failure the other ranks get this long to end by themselves, and another node this long to say the reason.
FAILURE_GRACE_S = 10.0
REASON_WAIT_S = 5.0
# What is no step (loading, a save that has to be waited for, evaluation, the export) may take so much longer.
SLOWER = 10
NO_SIGN = "no sign of the ranks"


def main() -> None:
    """Run one node. Exit code 0: finished or stopped; 1: the run failed; 2: the user can mend it."""
    parser = argparse.ArgumentParser(description=__doc__)
    name = os.environ.get("SFT_RUN")  # compose cannot leave out an argument
    parser.add_argument(
        "--run", type=Path, default=variables.runs_path() / name if name else None, help="its directory"
    )
    parser.add_argument("--node-rank", type=int, required=True, help="0 is the master")
    arguments = parser.parse_args()
    run = Run(arguments.run.resolve()) if arguments.run else None
    guard_tracebacks()
    signals, link, opened = Signals(), Link(), contextlib.ExitStack()
    node: Node | None = None
    try:
        settings = run.settings() if run else Settings.load()
        link = start_link(settings, arguments.node_rank)
        run = run or (first_run(settings, opened) if arguments.node_rank == 0 else told_run(settings, link, signals))
        if run:
            node = Node(run, arguments.node_rank, link, signals)
            node.work()
    except SftError as error:
        if run and node is None and run.logs.is_dir() and not run.is_running():
            run.fail(f"node {arguments.node_rank}: {error}")  # a node that is at work says so itself
        print(redact(str(error)), file=sys.stderr, flush=True)
        if run is None and isinstance(link, MasterLink):
            link.refuse(str(error))
        sys.exit(error.exit_code)


class Signals:
    """What asked this node to end: the first signal to save and stop, a second one or SIGQUIT to end at once."""

    def __init__(self) -> None:
        """Take the signals over, and remember who started this program."""
        self.parent = os.getppid()
        self.count = 0
        self.end_now = False
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
            signal.signal(number, self.on_signal)

    def on_signal(self, number: int, _frame: FrameType | None) -> None:
        """Note a signal."""
        self.count += 1
        self.end_now = self.end_now or self.count > 1 or number == signal.SIGQUIT

    def who(self) -> str | None:
        """Return what asks for a stop, a signal or the end of whoever started this program, or None."""
        if self.count:
            return "a signal to node"
        return "the end of what started node" if os.getppid() != self.parent else None


def start_link(settings: Settings, rank: int) -> Link:
    """Return the line to the other nodes. Raises SettingsError where its port is taken."""
    port = cluster.link_port(settings.master_port)
    if settings.nodes == 1:
        return Link()
    if rank:
        return WorkerLink(rank, port)
    try:
        return MasterLink(settings.nodes, port)
    except OSError as error:
        what = f"the port behind it, {port}, where the nodes meet, cannot be had ({error.strerror})"
        raise SettingsError([wrong("MASTER_PORT", settings.master_port, what, "choose another port")]) from None


def first_run(settings: Settings, opened: contextlib.ExitStack) -> Run:
    """Return the run that these settings ask for, kept open by node 0 itself in `opened`. Raises SettingsError."""
    inputs.check(settings)
    make_folders(settings)
    asked = settings
    cards = gpus.visible()
    settings = opening.with_device(settings, cards, settings.gpus_per_node, "in this container")

    def say(line: str) -> None:
        print(line, flush=True)

    cards = cards[: settings.gpus_per_node]
    settings = settings.resolved(settings.device, "compose", all(card.has_bf16 for card in cards))
    settings, plan = opening.planned(settings, cards, say)
    run = opened.enter_context(opening.open_run(settings, plan, say))
    for line in budget.revise(run, asked):
        say(line)
    return run


def told_run(settings: Settings, link: Link, signals: Signals) -> Run | None:
    """Return the run that node 0 works on, or None where this node is stopped before. Raises RunFailed."""
    assert isinstance(link, WorkerLink)
    deadline = time.monotonic() + settings.rendezvous_timeout_s
    while (name := link.run_name()) is None:
        if signals.end_now or (signals.who() and not link.peers):
            return None
        if reason := link.refusal():
            raise UserError(f"node 0: {reason}")
        if reason := link.lost() or no_meeting(settings, [0], deadline):
            raise RunFailed(f"node {link.rank}: {reason}")
        link.poll()
        time.sleep(POLL_S)
    return Run(settings.runs_path.resolve() / name)


def no_meeting(settings: Settings, missing: list[int], deadline: float) -> str:
    """Return why the nodes did not meet once the time is over, otherwise ""."""
    if time.monotonic() < deadline:
        return ""
    nodes = f"node{'s' * (len(missing) > 1)} {', '.join(map(str, missing))}"
    at = f"{master_address()}:{cluster.link_port(settings.master_port)}"
    return f"{nodes} did not come to {at} within RENDEZVOUS_TIMEOUT_S={settings.rendezvous_timeout_s} seconds"


class Log:
    """A node's log: every line goes to `logs/node-R.log` and to standard output, without secrets."""

    def __init__(self, path: Path) -> None:
        """Append to the log in `path`."""
        self.file = path.open("a", encoding="utf-8", errors="backslashreplace", buffering=1)

    def write(self, line: str) -> None:
        """Write one line. A full disk costs the line, never the run: the ranks would block on a full pipe."""
        line = redact(line)
        for stream in (self.file, sys.stdout):
            try:
                stream.write(line.rstrip("\n") + "\n")
                stream.flush()
            except OSError:
                continue


class Heartbeat:
    """What `state.json` tells about the ranks: rank 0 changes it with every step, and while it evaluates or saves."""

    def __init__(self, run: Run, limit_s: int) -> None:
        """Watch from now on. `limit_s` is the longest time between steps, 0 for none."""
        self.run, self.limit_s = run, limit_s
        self.seen: Any = None
        self.since = time.monotonic()

    def silence(self) -> str:
        """Return in words that the ranks have been silent for too long, otherwise ""."""
        state = self.run.state()
        if (sign := state.get("updated_at")) != self.seen:  # compared with itself: clocks of machines differ
            self.seen, self.since = sign, time.monotonic()
        steps = state.get("status") == "training"
        limit_s = self.limit_s if steps else SLOWER * self.limit_s
        if not limit_s or time.monotonic() - self.since < limit_s:
            return ""
        setting = f"STEP_TIMEOUT_S={self.limit_s}"
        limit = f"{setting} seconds" if steps else f"{SLOWER} x {setting} seconds ({state.get('status')})"
        return f"{NO_SIGN} within {limit}, after step {state.get('step')}"


class Node:
    """One node's share of a run."""

    def __init__(self, run: Run, rank: int, link: Link, signals: Signals) -> None:
        """Read the run directory. Raises UserError for a hostfile or a rank that cannot be right."""
        self.run, self.rank, self.link, self.signals = run, rank, link, signals
        self.settings = run.settings()
        slots = cluster.read_hostfile(run.hostfile)
        if not 0 <= rank < len(slots):
            raise UserError(f"--node-rank={rank}: the hostfile has {len(slots)} nodes; use 0 to {len(slots) - 1}")
        self.hosts, self.slots = slots, list(slots.values())[rank]
        self.log = Log(run.logs / f"node-{rank}.log")
        self.alive_file = os.environ.get("NODE_ALIVE_FILE")  # for a health check
        self.lost_at: float | None = None
        self.hours_from: float = run.state()["hours_from"]
        self.done_ranks: set[int] = set()
        self.rank_exit_code: int | None = None
        self.pumps: list[threading.Thread] = []  # what copies the programs' output to the log

    def work(self) -> None:
        """Meet the other nodes, prepare, train, clean up. Raises RunFailed, or UserError for what the user can mend."""
        lock = self.run.lock() if self.rank == 0 else None
        if self.rank == 0 and lock is None:
            raise UserError(f"{self.run.path}: is running already; `{self.run.command('monitor')}` shows it")
        well = False
        try:
            self.introduce()
            cluster.agree(self.settings.nodes, self.settings.gpus_per_node, self.hosts)
            if self.nodes_are_here():
                ranks = self.start_ranks()
                if self.inputs_are_ready():
                    self.train(ranks)
            well = not self.end_now
        except BaseException as error:
            self.run.fail(f"node {self.rank}: {error}")
            raise
        finally:
            self.end_what_is_left()
            reason = self.run.failure()
            # The first node says how the run ended; another one does where the first is gone.
            if reason is not None and not self.run.ended and (self.rank == 0 or not self.run.is_running()):
                self.run.update_state("failed", error=reason)
            self.link.close(well)
            if lock:
                lock.close()

    def introduce(self) -> None:
        """Write what this node is, for the monitor: one machine's cards may belong to several nodes."""
        about = {
            "name": list(self.hosts)[self.rank],
            "host": socket.gethostname(),
            "ranks": list(range(self.rank * self.slots, (self.rank + 1) * self.slots)),
            "gpus": [card.uuid for card in self.cards()],
        }
        files.write_json(self.run.node_file(self.rank), about)

    def cards(self) -> list[gpus.Gpu]:
        """Return the GPUs of this node's ranks: the first of those that this program may use."""
        return gpus.visible()[: self.slots] if self.settings.device == "cuda" else []

    # What every wait looks at

    def look(self) -> None:
        """Pass on what asks for a stop, notice a lost node, and show that this program is alive."""
        if self.alive_file:
            Path(self.alive_file).touch()
        who = self.signals.who()
        if (reason := f"{who} {self.rank}" if who else self.time_is_over()) and self.run.stop_reason() is None:
            self.run.request_stop(reason)
        self.link.poll()
        if (lost := self.link.lost()) and self.run.failure() is None:
            # Whoever knows why it was lost says so first: that node itself, or what started it.
            self.lost_at = self.lost_at or time.monotonic()
            if time.monotonic() - self.lost_at > REASON_WAIT_S:
                self.run.fail(f"node {self.rank}: {lost}; logs/ and `make test-env` may tell why")
        time.sleep(POLL_S)

    def time_is_over(self) -> str | None:
        """Return in words that MAX_HOURS are over, or None."""
        hours = self.settings.max_hours
        if not hours or self.rank or time.time() < self.hours_from + 3600 * hours:
            return None
        return f"MAX_HOURS={hours:g} are over"

    @property
    def end_now(self) -> bool:
        """Whether this node is to end without saving."""
        return self.signals.end_now

    def raise_failure(self) -> None:
        """Raise RunFailed where the run is broken."""
        if self.run.failure() is not None:
            raise RunFailed(f"node {self.rank}: {self.run.failure()}")

    def nodes_are_here(self) -> bool:
        """Wait for the other nodes; False where the run is stopped before."""
        deadline = time.monotonic() + self.settings.rendezvous_timeout_s
        if isinstance(self.link, MasterLink):
            self.link.name_run(self.run.name)
        while missing := self.missing_nodes():
            self.look()
            # Node 0 alone decides whether a stop comes before the ranks: no node must go on without another.
            if self.rank == 0 and self.run.stop_reason() is not None:
                self.run.update_state("stopped")
            if self.end_now or self.run.ended:
                return False
            if reason := no_meeting(self.settings, missing, deadline):
                raise RunFailed(reason)
            self.raise_failure()
        return True

    def missing_nodes(self) -> list[int]:
        """Return the nodes that this one still has to meet."""
        if isinstance(self.link, MasterLink):
            return self.link.missing()
        if isinstance(self.link, WorkerLink):
            if (name := self.link.run_name()) not in (None, self.run.name):
                raise UserError(f"--run={self.run.path}: node 0 works on {name}; start every node with the same run")
            return [0] if name is None else []
        return []

    # Preparing

    def inputs_are_ready(self) -> bool:
        """Make data and model ready on node 0, wait for them elsewhere; False where the run is stopped before."""
        if self.rank == 0:
            return self.prepare()
        while not self.run.prepared.is_file():
            self.look()
            if self.end_now or self.run.ended:
                return False
            self.raise_failure()
        return True

    def prepare(self) -> bool:
        """Run the program that prepares the inputs; False where the run is stopped while it works."""
        self.run.update_state("preparing")
        surroundings.note_machine(self.run)
        process = self.start("sft.trainer.prepare", "--run", str(self.run.path))
        self.see_through(process, until_stop=True)
        if self.run.prepared.is_file():
            surroundings.note_inputs(self.run)
            for line in [*files.read_json(self.run.prepared)["said"], *surroundings.since_it_began(self.run)]:
                self.log.write(f"not as the run began: {line}")
            return True
        if self.end_now or self.run.stop_reason() is not None:
            self.run.update_state("stopped")
            return False
        self.run.fail(f"node 0: preparing {ended_with(process.returncode)}; logs/node-0.log says more")
        raise (UserError if process.returncode == UserError.exit_code else RunFailed)(str(self.run.failure()))

    # Training

    def start_ranks(self) -> subprocess.Popen[str]:
        """Start DeepSpeed's launcher with this node's ranks, which import what they need while the inputs are prepared.

        They wait for `prepared.json` before they do anything. Where it never comes, they are ended with this node.
        """
        # What `deepspeed --hostfile … --no_ssh` starts, after importing everything once more to read the hostfile.
        world = {name: list(range(slots)) for name, slots in self.hosts.items()}
        return self.start(
            LAUNCHER,
            f"--world_info={base64.urlsafe_b64encode(json.dumps(world).encode()).decode()}",
            f"--node_rank={self.rank}",
            f"--master_addr={master_address()}", f"--master_port={self.settings.master_port}",
            "--module", "sft.trainer.train", "--run", str(self.run.path),
        )  # fmt: skip

    def train(self, process: subprocess.Popen[str]) -> None:
        """See DeepSpeed's launcher with this node's ranks through to the end. Raises RunFailed."""
        self.see_through(process, heartbeat=Heartbeat(self.run, self.settings.step_timeout_s))
        for pump in self.pumps:
            pump.join(timeout=5)
        if len(self.done_ranks) == self.slots:
            return
        if self.end_now:
            if self.rank == 0:
                self.run.update_state("stopped")
            return
        reason, is_certain = self.what_happened(process.returncode)
        if not is_certain:  # a rank that only lost another one says nothing: wait for the one that knows
            deadline = time.monotonic() + REASON_WAIT_S
            while not self.run.failure() and time.monotonic() < deadline:
                self.look()
        self.run.fail(reason)
        mendable = self.rank_exit_code == UserError.exit_code
        raise (UserError if mendable else RunFailed)(f"node {self.rank}: {self.run.failure()}")

    def what_happened(self, launcher_code: int) -> tuple[str, bool]:
        """Return why this node's ranks are not done, and whether that is the cause rather than a consequence."""
        code, where = self.rank_exit_code, f"logs/node-{self.rank}.log says more"
        if code is not None:
            hint = " (often for want of memory: `dmesg` tells)" if code == -signal.SIGKILL else ""
            return f"node {self.rank}: a rank {ended_with(code)}{hint}; {where}", code < 0
        return f"node {self.rank}: the launcher {ended_with(launcher_code)} before its ranks were done; {where}", True

    # Processes

    def start(self, module: str, *arguments: str) -> subprocess.Popen[str]:
        """Start a program in a session of its own, its output going to the log."""
        process = subprocess.Popen(
            [sys.executable, "-u", "-m", module, *arguments],
            env=self.environment(module),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        pump = threading.Thread(target=self.read, args=(process.stdout,), daemon=True)
        pump.start()
        self.pumps.append(pump)
        return process

    def see_through(
        self, process: subprocess.Popen[str], until_stop: bool = False, heartbeat: Heartbeat | None = None
    ) -> None:
        """Wait for a program's end; end it at once where that is asked for, and some time after a failure."""
        failed_at = None
        while process.poll() is None:
            self.look()
            if heartbeat and (reason := heartbeat.silence()):
                self.run.fail(f"node {self.rank}: {reason}; the stacks of all ranks are in logs/")
            if failed_at is None and (failure := self.run.failure()):  # not yet while it is just being written
                failed_at = time.monotonic()
                if NO_SIGN in failure:
                    self.write_stacks()
            stopped = self.end_now or (until_stop and self.run.stop_reason() is not None)
            if stopped or (failed_at and time.monotonic() - failed_at > FAILURE_GRACE_S):
                self.kill(process)

    def read(self, stream: IO[str]) -> None:
        """Copy a program's output to the log, and note what it says about the ranks."""
        for line in stream:
            self.log.write(line)
            if match := re.fullmatch(r"rank (\d+): done", line.strip()):
                self.done_ranks.add(int(match[1]))
            if match := re.search(r"exits with return code = (-?\d+)", line):
                self.rank_exit_code = int(match[1])

    def environment(self, module: str) -> dict[str, str]:
        """Return the environment of a program of this node. What the user has set stays."""
        ours = {
            "SFT_NODE_PID": str(os.getpid()),  # tells this node's processes, and ends them without it
            "TOKENIZERS_PARALLELISM": "false",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }
        default = {
            "OMP_NUM_THREADS": str(max(1, machine.cores() // self.slots)),
            "TQDM_DISABLE": "1",  # bars are for terminals, this goes to a log
            "PYTHONWARNINGS": "ignore::FutureWarning:torch.distributed.c10d_logger",  # DeepSpeed's calls, one a rank
        }
        if module == LAUNCHER:
            ours["HF_HUB_OFFLINE"] = "1"  # everything is here by now
        if self.settings.device == "cpu":
            ours["DS_ACCELERATOR"] = "cpu"
        else:
            default["PYTORCH_CUDA_ALLOC_CONF"] = "expandable_segments:True"
            cards = self.cards()
            default |= gpus.nccl_variables(cards)
            if cards:  # DeepSpeed's launcher puts 0 to N - 1 into CUDA_VISIBLE_DEVICES: sft/trainer/process.py
                told = gpus.environment(cards)
                ours |= told | {"SFT_CUDA_DEVICES": told["CUDA_VISIBLE_DEVICES"]}
        return default | dict(os.environ) | ours

    def kill(self, process: subprocess.Popen[Any]) -> None:
        """End a program and everything in its session at once."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def end_what_is_left(self) -> None:
        """End every process that this node started."""
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                process.kill()

    def write_stacks(self) -> None:
        """Have every rank of this node write the stacks of its threads to the log."""
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                if any(word.startswith("--local_rank=") for word in process.cmdline()):
                    self.log.write(f"the stacks of process {process.pid}:")
                    process.send_signal(signal.SIGUSR1)

    def processes(self) -> Iterator[psutil.Process]:
        """Yield the processes that this node started, wherever they went: known by their environment."""
        mine = str(os.getpid())
        for process in psutil.process_iter():
            try:
                if process.pid != os.getpid() and process.environ().get("SFT_NODE_PID") == mine:
                    yield process
            except psutil.Error:
                continue  # gone by now, or of another user


def ended_with(code: int) -> str:
    """Return an exit code in words."""
    return f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"


if __name__ == "__main__":
    main()
