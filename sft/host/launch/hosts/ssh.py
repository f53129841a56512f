"""Agents: programs on the hosts of a run, started with the system's own ssh, or directly on this machine.

ssh uses the user's keys and configuration, and never asks for anything (BatchMode).
"""

from __future__ import annotations

import contextlib
import getpass
import json
import queue
import shlex
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import IO, TypeVar

from sft import ROOT
from sft.errors import UserError, wrong
from sft.host.launch import signals
from sft.host.launch.hosts.messages import ANSWER, Answer, Facts, Request
from sft.run.typed_json import Part
from sft.settings.hosts import Host

OPTIONS = (
    "-T", "-x", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "-o", "LogLevel=ERROR",
    # A connection that says nothing for so long is given up: the link between the nodes notices a cut earlier.
    "-o", "ServerAliveInterval=10", "-o", "ServerAliveCountMax=6",
)  # fmt: skip
SSH_FAILED = 255  # ssh's exit code for an error of its own
ANSWER_TIMEOUT_S = 90  # for a host whose disk is slow
NO_FOLDER, NO_PYTHON = 91, 92  # exit codes of the command below
# What ssh says, and what helps.
REMEDIES = {
    "Permission denied": "`ssh-copy-id {host}` lets this user in without a password",
    "Host key verification failed": "`ssh {host}` once, and accept its key after comparing it",
    "REMOTE HOST IDENTIFICATION HAS CHANGED": "its key has changed: find out why, then `ssh-keygen -R {name}`",
    "Could not resolve hostname": "check the name, or put it into ~/.ssh/config or /etc/hosts",
    "Connection refused": "start sshd there, or give its port as in {name}:2222",
    "timed out": "is it switched on, and the network between?",
    "No route to host": "is it switched on, and the network between?",
    "Network is unreachable": "is it switched on, and the network between?",
}

P = TypeVar("P", bound=Part)


def configured_name(host: Host) -> str:
    """Return the name or address under which ssh looks for a host, by its configuration."""
    asked = subprocess.run(
        ["ssh", "-G", *where(host)], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    found = dict(line.partition(" ")[::2] for line in asked.stdout.splitlines())
    return found.get("hostname", host.name)


def is_here(host: Host) -> bool:
    """Whether a host is this machine, and its node would be this user's."""
    if host.port or (host.user and host.user != getpass.getuser()):
        return False
    with contextlib.suppress(OSError):
        for family, _, _, _, address in socket.getaddrinfo(configured_name(host), 0, type=socket.SOCK_DGRAM):
            with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.bind(address)
                return True
    return False


def where(host: Host) -> list[str]:
    """Return ssh's arguments that name a host."""
    user = ["-l", host.user] if host.user else []
    port = ["-p", str(host.port)] if host.port else []
    return [*user, *port, host.name]


def command(host: Host) -> list[str]:
    """Return the command that starts an agent on a host, in the folder that the project has here."""
    agent = [sys.executable, "-m", "sft.host.launch.hosts.agent"]
    if is_here(host):
        return agent
    script = (
        f"cd {shlex.quote(str(ROOT))} 2>/dev/null || exit {NO_FOLDER}; "
        f"test -x {shlex.quote(sys.executable)} || exit {NO_PYTHON}; exec {shlex.join(agent)}"
    )
    return ["ssh", *OPTIONS, *where(host), shlex.join(["sh", "-c", script])]


class Agent:
    """A started agent."""

    def __init__(self, host: Host, errors: IO[bytes] | None = None) -> None:
        """Start it. What it says on standard error goes to `errors`, or is kept for a message."""
        self.host = host
        if not shutil.which("ssh"):
            raise UserError("LAUNCHER=hosts: ssh is not installed here; install it (Debian: openssh-client)")
        with signals.blocked():
            self.process = subprocess.Popen(
                command(host),
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors or subprocess.PIPE,
                start_new_session=True,  # a Ctrl-C in the terminal is meant for the task
            )
        self.answers: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self.read, daemon=True).start()

    def read(self) -> None:
        """Pass its answers on until it ends."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            text = line.decode(errors="replace")
            if text.startswith(ANSWER):
                self.answers.put(text.removeprefix(ANSWER))
        self.answers.put(None)

    def send(self, text: str) -> None:
        """Send it a line. One that has ended does not get it."""
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):
            self.process.stdin.write(text.encode() + b"\n")
            self.process.stdin.flush()

    def request(self, request: Request) -> None:
        """Send it a request."""
        self.send(json.dumps(request.to_json()))

    def ask(self, request: Request) -> Answer:
        """Return its answer to an ordinary request. Raises UserError if there is none."""
        return self.answer(request, Answer)

    def look(self, towards: list[str]) -> Facts:
        """Return what its host is. Raises UserError if it does not answer."""
        return self.answer(Request(task="look", towards=towards), Facts)

    def answer(self, request: Request, kind: type[P], timeout_s: float = ANSWER_TIMEOUT_S) -> P:
        """Return its answer to a request. Raises UserError if there is none."""
        self.request(request)
        try:
            text = self.answers.get(timeout=timeout_s)
        except queue.Empty:
            self.process.kill()
            raise self.wrong(f"did not answer within {timeout_s:.0f} s", "log in there, and look") from None
        if text is None:
            raise self.why_it_ended()
        return kind.from_json(json.loads(text))

    def why_it_ended(self) -> UserError:
        """Return the error for an agent that has ended without an answer."""
        code = self.process.wait()
        said = self.process.stderr.read().decode(errors="replace").strip() if self.process.stderr else ""
        lines = [line.strip() for line in said.splitlines() if line.strip()]
        last = lines[-1] if lines else f"ended with exit code {code}"
        if code == NO_FOLDER:
            return self.wrong(f"{ROOT} is not there", "put the project there under the same path, or share its folder")
        if code == NO_PYTHON:
            return self.wrong(f"{sys.executable} is not there", f"`make setup` in {ROOT} there")
        if code == SSH_FAILED:
            remedy = next((text for words, text in REMEDIES.items() if words in said), "`ssh {host}` should work first")
            return self.wrong(last, remedy.format(host=self.host.text, name=self.host.name))
        return self.wrong(f"the project does not start there: {last}", f"`make setup` in {ROOT} there")

    def wrong(self, what: str, remedy: str) -> UserError:
        """Return the error about its host."""
        return UserError(wrong("HOSTS", self.host.text, what, remedy))

    def close(self) -> None:
        """Let it end: it has no more requests to wait for."""
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):
            self.process.stdin.close()


@contextlib.contextmanager
def agents(hosts: list[Host]) -> Iterator[list[Agent]]:
    """Yield an agent on each host, and let them end afterwards."""
    started = [Agent(host) for host in hosts]
    try:
        yield started
    finally:
        for agent in started:
            agent.close()
