"""A template: `template.py SOCKET FOLDER KEY` imports what a rank imports beside sft, and forks at each request.

It reads requests from the socket. `FOLDER` is the server's; `KEY` stands for the conditions that it was started for. It
ends if it has other ones, such as a limit that the server does not have: the server then refuses such requests.

No thread may run in it, and no collection of garbage: a fork shares its memory as long as nothing is written there.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any, NoReturn

IMPORTED = """
    torch torch.distributed torch.utils.flop_counter torch.nn.attention.varlen torch.nn.attention.flex_attention
    transformers transformers.modeling_utils transformers.integrations.deepspeed transformers.models.auto
    transformers.models.auto.tokenization_auto transformers.models.auto.modeling_auto
    transformers.models.llama.modeling_llama transformers.convert_slow_tokenizer transformers.generation
    accelerate deepspeed deepspeed.runtime.zero.stage3 deepspeed.runtime.zero.stage_1_and_2
    deepspeed.runtime.superoffload.superoffload_stage3 deepspeed.comm.mori deepspeed.utils.pin_memory
    pydantic psutil numpy dotenv safetensors tokenizers.trainers sentencepiece tomllib
""".split()
MOST = 1 << 20  # bytes of a request
PR_SET_PDEATHSIG = 1


class Template:
    """The stubs that are waiting, and the forks in their places."""

    def __init__(self, requests: socket.socket) -> None:
        self.requests = requests
        self.selector = selectors.DefaultSelector()
        self.selector.register(requests, selectors.EVENT_READ, self.offer)
        self.forks: dict[socket.socket, int] = {}  # pids

    def serve(self) -> dict[str, Any] | None:
        """Return a request in each fork, and None in the template itself when the server is gone."""
        while True:
            for key, _ in self.selector.select():
                with contextlib.suppress(OSError):
                    if (request := key.data()) is not None:
                        return request if request else None

    def offer(self) -> dict[str, Any] | None:
        """Read a request, and offer the stub a fork. Return {} if the server is gone."""
        data, files, _, _ = socket.recv_fds(self.requests, MOST, 4)
        if not data:
            return {}
        connection = socket.socket(fileno=files.pop())
        request = json.loads(data)
        self.selector.register(connection, selectors.EVENT_READ, lambda: self.begin(connection, request, files))
        connection.send(b"offered")
        return None

    def begin(self, connection: socket.socket, request: dict[str, Any], files: list[int]) -> dict[str, Any] | None:
        """Fork if the stub wants it still. Return the request in the fork."""
        self.selector.unregister(connection)
        if connection.recv(100) == b"go":
            template = os.getpid()
            pid = os.fork()
            if pid == 0:
                take_over(request, files, template)
                return request
            self.forks[connection] = pid
            self.selector.register(connection, selectors.EVENT_READ, lambda: self.forward(connection))
            ended = os.pidfd_open(pid)
            self.selector.register(ended, selectors.EVENT_READ, lambda: self.end(connection, ended))
        else:
            connection.close()
        for number in files:
            os.close(number)
        return None

    def forward(self, connection: socket.socket) -> None:
        """Send a fork the signal that its stub has got, or SIGKILL if the stub is gone."""
        if connection not in self.forks:  # its end came in the same moment, and was taken first
            return
        try:
            number = int(connection.recv(100) or signal.SIGKILL)
        except OSError:
            number = signal.SIGKILL
        if number == signal.SIGKILL:
            self.selector.unregister(connection)
        os.kill(self.forks[connection], number)

    def end(self, connection: socket.socket, ended: int) -> None:
        """Tell the stub how its fork has ended."""
        self.selector.unregister(ended)
        os.close(ended)
        _, status = os.waitpid(self.forks.pop(connection), 0)
        with contextlib.suppress(KeyError):
            self.selector.unregister(connection)
        with contextlib.suppress(OSError):
            connection.send(b"%d" % status)
        connection.close()


def take_over(request: dict[str, Any], files: list[int], template: int) -> None:
    """Make this fork what the stub was before its first import."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != template:
        os._exit(1)
    os.setsid()
    for place, number in enumerate(files):
        os.dup2(number, place)
    for number in open_files() - KEPT - {0, 1, 2}:
        os.close(number)
    os.chdir(request["folder"])
    os.umask(request["umask"])
    os.environ.clear()
    os.environ.update(request["environment"])
    time.tzset()
    for number in request["ignored"]:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, request["blocked"])
    place = request["arguments"].index("-m")
    sys.orig_argv[:] = request["arguments"]
    sys.argv[:] = request["arguments"][place + 1 :]
    sys.path[:] = [request["folder"], *request["path"]]
    importlib.invalidate_caches()


def run(hooks: list[str], module: str) -> NoReturn:
    """Run a program as `python -m` does, and end this process without taking its modules apart.

    Python clears every object of every module at the end. In a fork each of them would have to be copied first, which
    takes longer than many a program.
    """
    code: object = None
    try:
        for path in hooks:
            runpy.run_path(path, run_name="sitecustomize")
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    if code is not None and not isinstance(code, int):
        print(code, file=sys.stderr)
    threading._shutdown()  # type: ignore[attr-defined]  # waits for threads, as at the end of any program
    atexit._run_exitfuncs()
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code & 0xFF if isinstance(code, int) else code is not None)


def open_files() -> set[int]:
    """Return the numbers of the files that are open, without the one that lists them."""
    return {number for number in map(int, os.listdir("/proc/self/fd")) if os.path.exists(f"/proc/self/fd/{number}")}


def check(folder: str, key: str) -> None:
    """End this program if it has other conditions than those that `key` stands for."""
    sys.path[0] = str(Path(__file__).with_name("hook"))  # in place of this file's folder
    stub = importlib.import_module("warm_stub")
    found = stub.conditions(folder, sys.orig_argv[1 : sys.orig_argv.index(__file__)])
    del sys.path[0], sys.modules["warm_stub"]
    if stub.key_of(found) != key:
        sys.exit(f"not the conditions of {key}: {found}")


if __name__ == "__main__":
    number = int(sys.argv[1])
    check(*sys.argv[2:])
    for name in IMPORTED:
        importlib.import_module(name)
    threads = os.listdir("/proc/self/task")
    assert len(threads) == 1, f"threads have been started: {threads}"
    gc.collect()
    gc.freeze()
    KEPT = open_files() - {number}
    if request := Template(socket.socket(fileno=number)).serve():
        run(request["hooks"], sys.argv[0])
