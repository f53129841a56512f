"""What is left of a program of the trainer after a fork runs in its place. Standard library only, and little of it.

A stub and a template talk over a socket. The template says "offered"; the stub answers "go", and from then on sends the
number of each signal that it gets. The template sends the fork's wait status at the end.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import resource
import signal
import socket
import sys
import time

OFFER_S = 120.0  # a template imports for some seconds, and the machine may be busy
STATUS = ("Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp",
          "Cpus_allowed", "Mems_allowed")  # fmt: skip
# Variables that differ between programs and change nothing in a library that is imported.
IGNORED = ("SFT_", "PYTEST_", "MAKE", "INVOKE_", "SLURM", "SRUN_", "SBATCH_")
IGNORED_NAMES = {
    "RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_SIZE", "CROSS_RANK", "CROSS_SIZE", "MASTER_ADDR", "MASTER_PORT",
    "CUDA_VISIBLE_DEVICES", "PYTORCH_NVML_BASED_CUDA_CHECK", "PYTHONPATH", "PWD", "OLDPWD", "SHLVL", "MFLAGS", "_",
}  # fmt: skip
LIMITS = sorted({getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")})
FORWARDED = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2,
             signal.SIGALRM, signal.SIGCONT}  # fmt: skip


def hand_over(folder: str, hooks: list[str]) -> None:
    """Have a fork run this program after `hooks`, and end as it does. Return if this process has to run it itself."""
    if os.environ.get("DS_ACCELERATOR") != "cpu" and os.path.exists("/dev/nvidiactl"):
        return  # CUDA and forks do not mix
    try:
        connection = accepted(folder, hooks)
    except OSError:  # also another user, who may not connect
        return
    if connection:
        end_as(wait(connection))


def accepted(folder: str, hooks: list[str]) -> socket.socket | None:
    """Return the connection to the template that has forked, or None if there is none for this program."""
    options = sys.orig_argv[1 : sys.orig_argv.index("-m")]
    found = conditions(folder, options)
    request = {
        "key": key_of(found),
        "options": options,
        "hooks": hooks,
        "arguments": sys.orig_argv,
        "path": sys.path,
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "umask": umask(),
        "groups": os.getgroups(),  # Slurm sets those of the user, and a template can have them too
        "blocked": [int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, ())],
        "ignored": [int(number) for number in FORWARDED if signal.getsignal(number) == signal.SIG_IGN],
    }
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.connect(os.path.join(folder, "socket"))
    connection.settimeout(OFFER_S)
    socket.send_fds(connection, [json.dumps(request).encode()], [0, 1, 2])
    if connection.recv(100) != b"offered":
        connection.close()
        return None
    # One that ended this process here would take the fork with it.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED)
    try:
        connection.send(b"go")
    except OSError:  # the template is gone: this process runs the program, and takes its own signals
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        raise
    listen(connection)
    return connection


def listen(connection: socket.socket) -> None:
    """Pass signals on from here, those too that have been blocked until now."""

    def forward(number: int, _: object) -> None:
        with contextlib.suppress(OSError):  # the fork has ended meanwhile
            connection.send(b"%d" % number)

    for number in FORWARDED:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, forward)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def wait(connection: socket.socket) -> int:
    """Return the fork's wait status. A fork sees another parent than its program would: watch the real one for it."""
    parent = os.getppid()
    connection.settimeout(1.0)
    while os.getppid() == parent:
        try:
            return int(connection.recv(100) or signal.SIGKILL)  # nothing: the template is gone
        except TimeoutError:
            continue
    return signal.SIGKILL


def end_as(status: int) -> None:
    """End with an exit code or by a signal."""
    if os.WIFEXITED(status):
        os._exit(os.WEXITSTATUS(status))
    number = os.WTERMSIG(status)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if number not in (signal.SIGKILL, signal.SIGSTOP):
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    time.sleep(60)


def conditions(folder: str, options: list[str]) -> dict[str, object]:
    """Return what a fork inherits from its template, and cannot be given."""
    with open(os.path.join(folder, "ignored")) as file:
        ignored = IGNORED_NAMES | set(file.read().split())
    with open("/proc/self/status") as file:
        status = {name: value.strip() for name, _, value in (line.partition(":") for line in file) if name in STATUS}
    return {
        "status": status,
        "namespaces": [os.readlink(f"/proc/self/ns/{name}") for name in ("cgroup", "ipc", "mnt", "net", "pid", "uts")],
        "root": os.readlink("/proc/self/root"),
        "cgroup": read("/proc/self/cgroup"),
        "oom_score_adj": read("/proc/self/oom_score_adj"),
        "nice": os.getpriority(os.PRIO_PROCESS, 0),
        "limits": [resource.getrlimit(number) for number in LIMITS],
        "python": [sys.executable, sys.prefix, options, list(sys.flags)],
        "environment": {
            name: value
            for name, value in os.environ.items()
            if name not in ignored and not name.startswith(IGNORED)
        },
    }  # fmt: skip


def key_of(found: dict[str, object]) -> str:
    """Return what stands for the same conditions, and for no others."""
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()


def read(path: str) -> str:
    with open(path) as file:
        return file.read()


def umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
