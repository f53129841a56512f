"""A fork is what the program in its place would be: tests/warm."""

import json
import os
import signal
import subprocess
import sys

import pytest

from .. import warm

TRIES = 5
PROGRAM = """
import atexit, json, os, resource, signal, sys, threading, time
if "--die" in sys.argv:
    os.kill(os.getpid(), signal.SIGSEGV)
if "--wait" in sys.argv:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
    print(os.getpid(), flush=True)
    time.sleep(600)
threading.Thread(target=lambda: (time.sleep(0.5), print("a thread", file=sys.stderr))).start()
atexit.register(print, "at exit", file=sys.stderr)
mask = os.umask(0)
print(json.dumps({
    "arguments": sys.argv, "file": __file__, "name": __name__, "path": sys.path, "environment": dict(os.environ),
    "folder": os.getcwd(), "umask": mask, "input": sys.stdin.read(), "flags": list(sys.flags),
    "limit": resource.getrlimit(resource.RLIMIT_FSIZE), "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
    "heeds": [signal.getsignal(number) == signal.SIG_IGN for number in (signal.SIGHUP, signal.SIGINT)],
    "files": len(os.listdir("/proc/self/fd")), "modules": "torch" in sys.modules,
}))
raise {"--exit": SystemExit(5), "--say": SystemExit("said")}.get(sys.argv[1], ArithmeticError("broken"))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a package sft of one program, for which there is a template, of a server of its own."""
    shared = os.environ.get(warm.NAME, "0")  # it may have no place for another template
    if shared == "0":
        pytest.skip("SFT_TEST_WARM=0: no program is forked")
    server = warm.Server()
    folder = tmp_path_factory.mktemp("warm")
    for package in (folder / "sft", folder / "sft" / "trainer"):
        package.mkdir()
        (package / "__init__.py").touch()
    (folder / "sft" / "trainer" / "toy.py").write_text(PROGRAM)
    try:
        # The first is always refused.
        if not any(json.loads(start(folder, "--first").communicate("")[0])["modules"] for _ in range(TRIES)):
            said = (server.folder / "log").read_text() or "it says nothing"
            pytest.skip(f"the server has made no template for this program: {said}")
        yield folder
    finally:
        server.end()
        os.environ[warm.NAME] = shared


def start(folder, *arguments, fork=True, **options):
    hook = warm.environment({}) if fork else {}
    environment = os.environ | {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "A_SETTING": "ä"} | hook
    return subprocess.Popen(
        [sys.executable, "-u", "-m", "sft.trainer.toy", *arguments], cwd=folder, env=environment, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options,
    )  # fmt: skip


def prepare():
    os.umask(0o027)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})


@pytest.mark.parametrize(("end", "code"), [("--exit", 5), ("--say", 1), ("--break", 1)])
def test_it_has_what_the_program_would_have_and_ends_as_it_would(folder, end, code):
    found = []
    for fork in (True, False):
        process = start(folder, end, "b c", fork=fork, preexec_fn=prepare)
        output, errors = process.communicate("some input")
        assert process.returncode == code
        lines = errors.splitlines()
        found.append((json.loads(output), [line for line in lines if not line.startswith("  ")]))  # frames
    (forked, said), (real, as_said) = found
    assert said == as_said and {"a thread", "at exit"} <= set(said)
    assert forked.pop("modules") and not real.pop("modules")
    hook = forked["environment"].pop("PYTHONPATH")
    forked["path"].remove(hook)
    assert forked == real


def test_it_ends_by_the_signal_that_ends_the_fork(folder):
    assert start(folder, "--die").wait(60) == -signal.SIGSEGV


def test_a_signal_reaches_the_fork(folder):
    process = start(folder, "--wait")
    assert int(process.stdout.readline()) != process.pid
    process.terminate()
    assert process.wait(60) == 7


def test_the_fork_is_killed_with_it(folder):
    process = start(folder, "--wait")
    fork = os.pidfd_open(int(process.stdout.readline()))
    process.kill()
    assert process.stdout.read() == ""  # nobody has it open any more
    os.close(fork)


def limit_files():
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))


def test_other_limits_are_not_lost(folder):
    for _ in range(2):  # also not the second time, when a template is started for them
        process = start(folder, preexec_fn=limit_files)
        output, _ = process.communicate("")
        assert json.loads(output)["limit"] == [1 << 20, 1 << 20]
