"""A real Slurm of two nodes on one machine: munge, the controller and a daemon for each node, without root's files."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

from sft.host.launch.slurm import queue
from tests.conftest import MARK
from tests.e2e.project import PORTS, free_port, worker

PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "srun", "scontrol", "sinfo", "scancel")
NODES = ("n0", "n1")
START_S = 60

# A job that is queued again waits until its old credentials have expired, usually two minutes; and the scheduler looks
# at the queue every half minute. Here both are seconds. A job in `high` takes the nodes of one in `low`, which has
# GraceTime to save.
CONF = """
ClusterName=sft
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={socket},cred_expire=5
CredType=cred/munge
SlurmctldPort={port}
StateSaveLocation={folder}/ctld
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/ctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/ctld.log
SlurmdLogFile={folder}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
MpiDefault=none
SlurmdParameters=config_overrides
SlurmdTimeout=20
KillWait=30
SchedulerParameters=bf_interval=1,sched_interval=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
FirstJobId={first_job}
NodeName=n[0-1] NodeHostname={host} NodeAddr=127.0.0.1 Port={ports} CPUs=4 State=UNKNOWN
PartitionName=low Nodes=n[0-1] Default=YES MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=60
PartitionName=high Nodes=n[0-1] MaxTime=INFINITE State=UP PriorityTier=10
"""


def why_not() -> str | None:
    """Return why no cluster can be brought up here, with the remedy."""
    if os.geteuid() != 0:
        return "Slurm's daemons need root"
    missing = [program for program in PROGRAMS if not shutil.which(program)]
    return f"{missing[0]} is not installed; `.ci/slurm` installs Slurm on Debian" if missing else None


class Cluster:
    """The daemons, and their configuration in the environment of this process."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.host = folder, socket.gethostname().split(".")[0]
        for name in ("ctld", *NODES):
            (folder / name).mkdir()
        self.conf = folder / "slurm.conf"
        ports = free_port()  # and the next one
        self.conf.write_text(
            CONF.format(
                # Jobs of one number have one port, 20,000 and twice the number: here one of this process's.
                first_job=1 + PORTS // 2 * worker() + random.SystemRandom().randrange(1400),
                host=self.host,
                port=free_port(),
                ports=f"{ports}-{ports + 1}",
                folder=folder,
                socket=folder / "munge",
            )
        )
        os.environ["SLURM_CONF"] = str(self.conf)

    def start(self) -> None:
        """Start all daemons, and wait until both nodes are idle."""
        self.start_munge()
        self.start_controller()
        for node in NODES:
            self.start_node(node)
        self.wait_for_idle()

    def start_munge(self) -> None:
        """Start munge, with which Slurm's programs know each other, with a key and a socket of its own."""
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        self.folder.chmod(0o755)
        files = {"key-file": "munge.key", "socket": "munge", "pid-file": "munge.pid", "log-file": "munge.log"}
        options = [f"--{name}={self.folder / path}" for name, path in files.items()]
        self.run("munged", "--force", f"--seed-file={self.folder / 'munge.seed'}", *options)

    def start_controller(self) -> None:
        self.run("slurmctld", "-f", str(self.conf))

    def start_node(self, node: str) -> None:
        self.run("slurmd", "-f", str(self.conf), "-N", node)

    def run(self, *command: str) -> None:
        """Start a daemon. The end of a failed test ends what that test has started, and not the cluster."""
        environment = {name: value for name, value in os.environ.items() if name != MARK}
        subprocess.run(command, env=environment, check=True, stderr=subprocess.DEVNULL)

    def wait_for_idle(self) -> None:
        """Wait until no job is left and both nodes are ready."""
        deadline = time.monotonic() + START_S
        while True:
            with contextlib.suppress(Exception):
                idle = queue.call("sinfo", "--noheader", "--states=idle", "--format=%D", "--partition=low").split()
                if idle == ["2"]:
                    return
            assert time.monotonic() < deadline, (self.folder / "ctld.log").read_text()
            time.sleep(0.2)

    def pid(self, name: str) -> int:
        """Return the process of a daemon: ctld, n0, n1 or munge."""
        return int((self.folder / f"{name}.pid").read_text())

    def end(self, name: str, number: int = signal.SIGTERM) -> None:
        """End a daemon, and wait until it is gone."""
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, ValueError):
            pid = self.pid(name)
            os.kill(pid, number)
            while Path(f"/proc/{pid}").exists():
                time.sleep(0.1)

    def close(self) -> None:
        """End all jobs, and then all daemons."""
        subprocess.run(["scancel", "--user=root"], check=False, stderr=subprocess.DEVNULL)
        with contextlib.suppress(AssertionError):
            self.wait_for_idle()
        for name in (*NODES, "ctld", "munge"):
            self.end(name)
        del os.environ["SLURM_CONF"]
