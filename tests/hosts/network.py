"""Two hosts on one machine: namespaces of network, host name and mounts, wired to a switch, with sshd in each."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.conftest import MARK

PROGRAMS = ("ip", "tc", "nsenter", "unshare", "ssh", "ssh-keygen", "sshd")
REMEDY = "`.ci/hosts` installs it on Debian"
NAMES = ("hostA", "hostB")
WAIT_S = 30

SSHD = """
ListenAddress {address}
ListenAddress {address6}
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/user_key.pub
PidFile {folder}/{name}.pid
PermitRootLogin yes
StrictModes no
UsePAM no
PasswordAuthentication no
LogLevel ERROR
{more}
"""
SSH = """
Host *
  IdentityFile {folder}/user_key
  UserKnownHostsFile {folder}/known_hosts
  StrictHostKeyChecking yes
"""


def why_not() -> str | None:
    """Return why no hosts can be made here, with the remedy."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    os.environ["PATH"] += os.pathsep + "/usr/sbin"  # sshd and tc, which users' paths lack
    if missing := [program for program in PROGRAMS if not shutil.which(program)]:
        return f"{missing[0]} is not installed; {REMEDY}"
    trial = f"sft-try-{os.getpid()}"
    if call("ip", "netns", "add", trial, check=False):
        return "this machine lets nobody make network namespaces; run the tests on a machine or in a VM, as root"
    try:
        call("ip", "-n", trial, "link", "add", "switch", "type", "bridge")
        call("ip", "netns", "exec", trial, "tc", "qdisc", "add", "dev", "lo", "root", "tbf", *rate(1))
    except subprocess.CalledProcessError as error:
        return f"the kernel lacks what `{' '.join(error.cmd)}` needs; run the tests on a usual Debian kernel"
    finally:
        call("ip", "netns", "del", trial)
    return None


def call(*command: str, check: bool = True) -> int:
    """Run a command. Return its exit code, or raise CalledProcessError."""
    return subprocess.run(command, check=check, stderr=subprocess.PIPE, text=True).returncode


def rate(gbit: float) -> list[str]:
    """Return tc's words for a link of that speed: a burst is at least what passes between two ticks of the kernel."""
    return ["rate", f"{gbit}gbit", "burst", f"{max(256, int(1250 * gbit))}kb", "latency", "20ms"]


@dataclass
class Host:
    """One host."""

    name: str
    number: int
    pid: int  # of the process that keeps its namespaces

    @property
    def enter(self) -> list[str]:
        """The words before a command that is to run on it."""
        return ["nsenter", "--target", str(self.pid), "--net", "--uts", "--mount"]

    @property
    def address(self) -> str:
        return f"10.77.0.{self.number}"

    @property
    def address6(self) -> str:
        return f"fd77::{self.number}"

    def run(self, *command: str) -> str:
        """Return what a command prints on it."""
        return subprocess.run([*self.enter, *command], check=True, capture_output=True, text=True).stdout


class Network:
    """The hosts, the switch between them, and what can be done to both."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.prefix = f"sft{os.getpid()}"
        self.switch = f"{self.prefix}-switch"
        self.keepers: list[subprocess.Popen[bytes]] = []
        self.hosts: list[Host] = []

    def start(self) -> None:
        """Make the hosts, connect them, and start an sshd on each."""
        self.write_files()
        call("ip", "netns", "add", self.switch)
        call("ip", "-n", self.switch, "link", "add", "switch", "type", "bridge", "forward_delay", "0")
        call("ip", "-n", self.switch, "link", "set", "switch", "up")
        for number, name in enumerate(NAMES, 1):
            self.hosts.append(self.make(name, number))
        for host in self.hosts:
            self.start_sshd(host)
        for host in self.hosts:  # an IPv6 address is checked for duplicates before it can be used
            self.wait(partial(self.answers, host))

    def write_files(self) -> None:
        """Write keys, and configurations that take the place of the system's on the hosts."""
        for name in ("host_key", "user_key"):
            call("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.folder / name))
        key = " ".join((self.folder / "host_key.pub").read_text().split()[:2])
        self.folder.joinpath("known_hosts").write_text(f"* {key}\n")
        self.folder.joinpath("ssh_config").write_text(SSH.format(folder=self.folder))
        lines = [f"10.77.0.{n} {name}\nfd77::{n} {name}-v6\n" for n, name in enumerate(NAMES, 1)]
        self.folder.joinpath("hosts").write_text("127.0.0.1 localhost\n::1 localhost\n" + "".join(lines))

    def make(self, name: str, number: int) -> Host:
        """Make a host, and connect it to the switch."""
        net = f"{self.prefix}-{name}"
        call("ip", "netns", "add", net)
        script = (
            f"hostname {name} && mount --bind {self.folder}/hosts /etc/hosts && "
            f"mount --bind {self.folder}/ssh_config /etc/ssh/ssh_config && exec sleep infinity"
        )
        unshare = ["unshare", "--uts", "--mount", "--propagation", "private", "sh", "-c", script]
        keeper = subprocess.Popen(["ip", "netns", "exec", net, *unshare], env=unmarked(), start_new_session=True)
        self.keepers.append(keeper)
        self.wait(lambda: Path(f"/proc/{keeper.pid}/comm").read_text().strip() == "sleep")
        host = Host(name, number, keeper.pid)
        there = ["ip", "-n", net]
        call("ip", "-n", self.switch, "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", net)
        call("ip", "-n", self.switch, "link", "set", name, "master", "switch", "up")
        call(*there, "address", "add", f"{host.address}/24", "dev", "eth0")
        call(*there, "address", "add", f"{host.address6}/64", "dev", "eth0", "nodad")
        for device in ("lo", "eth0"):
            call(*there, "link", "set", device, "up")
        return host

    def drop_ipv4(self) -> None:
        """Take the IPv4 addresses from the hosts."""
        for host in self.hosts:
            call(*host.enter, "ip", "-4", "address", "flush", "dev", "eth0")

    def give_ipv4(self) -> None:
        """Give the hosts their IPv4 addresses again."""
        for host in self.hosts:
            call(*host.enter, "ip", "address", "add", f"{host.address}/24", "dev", "eth0")

    def start_sshd(self, host: Host, more: str = "") -> None:
        """Start sshd on a host, with more lines in its configuration; in place of the one that runs there."""
        pid = self.folder / f"{host.name}.pid"
        if pid.exists():
            os.kill(int(pid.read_text()), signal.SIGTERM)
            self.wait(lambda: not pid.exists())
        conf = self.folder / f"{host.name}.sshd"
        places = {"folder": self.folder, "name": host.name, "address": host.address, "address6": host.address6}
        conf.write_text(SSHD.format(more=more, **places))
        Path("/run/sshd").mkdir(exist_ok=True)
        program = shutil.which("sshd")
        assert program
        subprocess.run([*host.enter, program, "-f", str(conf)], env=unmarked(), check=True)
        self.wait(pid.exists)

    def answers(self, host: Host) -> bool:
        """Whether the first host reaches the sshd of a host."""
        ssh = ["ssh", "-o", "BatchMode=yes", f"{host.name}-v6", "true"]
        return subprocess.run([*self.hosts[0].enter, *ssh], check=False, stderr=subprocess.PIPE).returncode == 0

    def wait(self, true: Callable[[], bool]) -> None:
        """Wait until something is so."""
        deadline = time.monotonic() + WAIT_S
        while True:
            with contextlib.suppress(OSError, ValueError):
                if true():
                    return
            assert time.monotonic() < deadline, true
            time.sleep(0.02)

    @contextlib.contextmanager
    def limited(self, gbit: float) -> Iterator[None]:
        """Limit what each host sends meanwhile."""
        for host in self.hosts:
            call(*host.enter, "tc", "qdisc", "add", "dev", "eth0", "root", "tbf", *rate(gbit))
        try:
            yield
        finally:
            for host in self.hosts:
                call(*host.enter, "tc", "qdisc", "del", "dev", "eth0", "root")

    def cut(self) -> None:
        """Pull the second host's cable out of the switch: what is sent is lost, and nobody is told."""
        call("ip", "-n", self.switch, "link", "set", NAMES[1], "nomaster")

    def join(self) -> None:
        """Put the cable back."""
        call("ip", "-n", self.switch, "link", "set", NAMES[1], "master", "switch")

    def sent_bytes(self) -> int:
        """Return how much the first host has sent since it was made."""
        return int(self.hosts[0].run("cat", "/sys/class/net/eth0/statistics/tx_bytes"))

    def mount(self, host: Host, content: Path, over: Path) -> None:
        """Show a file or folder in place of another one, on one host alone."""
        host.run("mount", "--bind", str(content), str(over))

    def unmount(self, host: Host, path: Path) -> None:
        host.run("umount", "--lazy", str(path))  # what ran there may take a moment to end

    def close(self) -> None:
        """End what runs on the hosts, and remove them."""
        for host in self.hosts:
            with contextlib.suppress(OSError, ValueError):
                os.kill(int((self.folder / f"{host.name}.pid").read_text()), signal.SIGTERM)
        for keeper in self.keepers:
            keeper.kill()
            keeper.wait()
        for name in (*NAMES, "switch"):
            call("ip", "netns", "del", f"{self.prefix}-{name}", check=False)


def unmarked() -> dict[str, str]:
    """Return the environment without the mark: what a failed test leaves is ended, and the hosts are not."""
    return {name: value for name, value in os.environ.items() if name != MARK}
