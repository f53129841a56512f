"""The program on a host: `python -m sft.host.launch.hosts.agent`, started by the task over ssh, or directly.

It reads requests from standard input, a line of JSON each, and answers on standard output. Secrets come this way too,
and stand on no command line. The last request may start the host's node: then this program ends with the node's exit
code. If standard input is closed, the task is gone, or the connection to it: the node saves and stops.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from types import FrameType

from sft.host.launch import interface, signals
from sft.host.launch.hosts.look import look
from sft.host.launch.hosts.messages import ANSWER, Answer, Probed, Request
from sft.host.launch.hosts.prove import Listener, prove
from sft.host.launch.probe import PROBE_TIMEOUT_S, probe
from sft.run.typed_json import Part, WrongType

POLL_S = 0.2
END = "end"  # the line that ends a node at once


def main() -> None:
    """Answer requests until there are no more. Exit code: the node's, or 0 if none was started."""
    listener: Listener | None = None
    for line in lines():
        request = requested(line)
        os.environ.update(request.environment)
        if request.task == "look":
            answer(look(request.towards))
        elif request.task == "listen":
            listener, found = Listener.of(request.ports)
            answer(found)
        elif request.task == "release":
            if listener:
                listener.release()
            answer(Answer())
        elif request.task == "prove":
            answer(prove(request))
        elif request.task == "probe":
            answer(ranks_that_meet(request))
        elif request.task == "node":
            sys.exit(node(request.arguments))


def lines() -> Iterator[str]:
    """Yield the lines of standard input."""
    buffer = b""
    while part := os.read(0, 65536):
        *whole, buffer = (buffer + part).split(b"\n")
        yield from (line.decode() for line in whole)


def requested(line: str) -> Request:
    """Return a request. Raises SystemExit for anything else: it may hold a secret, and is not repeated."""
    try:
        return Request.from_json(json.loads(line))
    except (ValueError, WrongType):
        sys.exit("a request that this version does not know; is the project's code the same on all hosts?")


def answer(content: Part) -> None:
    """Print an answer."""
    print(ANSWER + json.dumps(content.to_json()), flush=True)


def ranks_that_meet(request: Request) -> Probed:
    """Have this host's share of ranks meet those of the other hosts."""
    ranks = range(request.node_rank * request.slots, (request.node_rank + 1) * request.slots)
    rendezvous = {"MASTER_ADDR": request.address, "MASTER_PORT": str(request.port)}
    rendezvous |= interface.variables(request.address)
    done = probe(request.device, ranks, request.nodes * request.slots, request.nodes, **rendezvous)
    if done is None:
        return Probed(said=f"they did not meet or add within {PROBE_TIMEOUT_S} s")
    return Probed(said="" if done.failed is None else done.last_line, speeds=None if ranks.start else done.speeds)


def node(arguments: list[str]) -> int:
    """Start the node program and see it through. Return its exit code, 128 + N if signal N has ended it."""
    with signals.blocked():
        process = subprocess.Popen(
            [sys.executable, "-m", "sft.host.launch.node", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # the node writes its log itself
            start_new_session=True,
        )

    def pass_on(number: int, _frame: FrameType | None = None) -> None:
        process.send_signal(number)

    with signals.handled(pass_on):
        connected = True
        while process.poll() is None:
            if connected and select.select([0], [], [], POLL_S)[0]:
                said = os.read(0, 4096)
                connected = bool(said)
                if not connected:
                    process.terminate()
                elif END.encode() in said:
                    process.send_signal(signal.SIGQUIT)
            elif not connected:
                wait_briefly(process)
    return process.returncode if process.returncode >= 0 else 128 - process.returncode


def wait_briefly(process: subprocess.Popen[bytes]) -> None:
    """Wait for the end of a program for a moment."""
    try:
        process.wait(POLL_S)
    except subprocess.TimeoutExpired:
        return


if __name__ == "__main__":
    main()
