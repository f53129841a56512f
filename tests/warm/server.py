"""The server: passes each request on to a template with the same conditions. `server.py FOLDER`, until stdin ends.

The first request of its kind is refused, so that no template is made for conditions that come once. Standard library
only.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path

MOST = 1 << 20  # bytes of a request
TEMPLATES = 8  # at most: each takes 300 MB. The usual ones are needed first
NEVER = -1_000_000  # as often as a kind of request has come
MARKS = ("SFT_", "PYTEST_")  # a template belongs to no test


class Server:
    """The templates by their conditions, and where requests come from."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listening.bind(str(folder / "socket"))
        self.listening.listen(100)
        self.log = (folder / "log").open("a")
        self.templates: dict[str, socket.socket] = {}
        self.processes: list[subprocess.Popen[bytes]] = []
        self.asked: Counter[str] = Counter()

    def serve(self) -> None:
        """Serve until standard input ends."""
        selector = selectors.DefaultSelector()
        selector.register(self.listening, selectors.EVENT_READ)
        selector.register(sys.stdin, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is sys.stdin:
                    return
                connection, _ = self.listening.accept()
                with connection:
                    connection.settimeout(10)
                    with contextlib.suppress(OSError):
                        self.answer(connection)

    def answer(self, connection: socket.socket) -> None:
        """Pass a request on, or refuse it by closing its connection."""
        data, files, _, _ = socket.recv_fds(connection, MOST, 3)
        if not data:  # the stub was killed before it had asked
            return
        with contextlib.ExitStack() as closed:
            for number in files:
                closed.enter_context(open(number, closefd=True, mode="rb", buffering=0))
            request = json.loads(data)
            name = request["key"]
            self.asked[name] += 1
            if name not in self.templates:
                if self.asked[name] < 2 or len(self.templates) == TEMPLATES:
                    return
                self.templates[name] = self.start_template(request)
            try:
                socket.send_fds(self.templates[name], [data], [*files, connection.fileno()])
            except OSError:  # it has ended: it could not have these conditions
                self.templates.pop(name).close()
                self.asked[name] = NEVER

    def start_template(self, request: dict[str, object]) -> socket.socket:
        """Start the template for requests like this one. It reads them from the socket returned."""
        arguments, options, environment = request["arguments"], request["options"], request["environment"]
        groups = request["groups"]
        assert isinstance(arguments, list) and isinstance(options, list) and isinstance(environment, dict)
        assert isinstance(groups, list)
        kept = {name: value for name, value in environment.items() if not name.startswith(MARKS)}
        kept.pop("PYTHONPATH", None)
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(10)
        with its:
            program = str(Path(__file__).with_name("template.py"))
            words = [str(its.fileno()), str(self.folder), str(request["key"])]
            self.processes.append(subprocess.Popen(
                [arguments[0], *options, program, *words], env=kept, pass_fds=[its.fileno()],
                stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, cwd="/",
                extra_groups=groups if os.geteuid() == 0 else None,
            ))  # fmt: skip
        return ours

    def end(self) -> None:
        """End the templates, and wait for them."""
        for requests in self.templates.values():
            requests.close()
        for process in self.processes:
            process.wait()


if __name__ == "__main__":
    server = Server(Path(sys.argv[1]))
    server.serve()
    server.end()
