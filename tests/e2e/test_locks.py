"""Files that several processes write and lock at once."""

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sft.host.launch.word import WORD
from sft.run import files

from .project import ROOT

NFS = os.environ.get("SFT_TEST_NFS", "")


def python(code, *arguments, **options):
    """Start a Python process that has imported `files`."""
    head = "import os, sys, time; from pathlib import Path; from sft.run import files\n"
    command = [sys.executable, "-c", head + code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True, **options)


def holding(process):
    """Wait until a process says that it holds what it should."""
    assert process.stdout.readline() == "held\n"
    return process


HOLD = "print('held', flush=True); sys.stdin.readline()"


MAKE = """
for number in range(int(sys.argv[2])):
    files.sweep(Path(sys.argv[1]))
    with files.whole_folder(Path(sys.argv[1]) / str(number), lambda found: (found / "last").exists()) as folder:
        folder.mkdir()
        for name in ("first", "last"):
            (folder / name).write_text("x" * 1000)
    assert (Path(sys.argv[1]) / str(number) / "last").read_text() == "x" * 1000
"""


def test_processes_that_make_the_same_at_once_all_end_well(tmp_path):
    makers = [python(MAKE, tmp_path, 40) for _ in range(3)]
    assert [(maker.wait(300), maker.stdout.read()) for maker in makers] == [(0, "")] * 3
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(map(str, range(40)))


def test_what_a_killed_maker_left_is_removed_and_what_one_at_work_makes_is_not(tmp_path):
    make = "with files.temporary_folder(Path(sys.argv[1])) as made: (made / 'large').write_text('x'); " + HOLD
    killed, at_work = (holding(python(make, tmp_path / "data")) for _ in range(2))
    killed.kill()
    killed.wait()
    (tmp_path / ".mine").mkdir()
    files.write_whole(tmp_path / "other", "")
    assert len(list(tmp_path.glob(".data.*"))) == 2
    files.sweep(tmp_path)
    (left,) = tmp_path.glob(".data.*")
    assert (left / "large").read_text() == "x"
    at_work.communicate("\n")
    assert at_work.returncode == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [".mine", "other"]


def on_nfs():
    """Return whether SFT_TEST_NFS is a folder on NFS."""
    if not NFS:
        return False
    kind = subprocess.run(["stat", "-f", "-c", "%T", NFS], capture_output=True, text=True, check=True).stdout
    return kind.startswith("nfs")


@pytest.fixture(params=["local", "nfs"])
def shared(request, tmp_path):
    """A folder that several processes lock files in. The kernel holds local locks to the rules of NFS's, see below."""
    if request.param == "local":
        yield tmp_path
        return
    if not on_nfs():
        pytest.skip("no folder on NFS is given; set SFT_TEST_NFS=/mnt/folder to one that this user may write to")
    with files.temporary_folder(Path(NFS) / "test") as folder:
        yield folder


def test_a_lock_of_a_file_that_is_open_for_reading_or_of_a_folder_is_refused(shared):
    """The rules of NFS, where flock is turned into these locks: code that breaks them fails here too."""
    (shared / "file").touch()
    with (shared / "file").open() as file, pytest.raises(OSError, match="Bad file descriptor"):
        files.call(file, fcntl.F_OFD_SETLK, fcntl.F_WRLCK)
    descriptor = os.open(shared, os.O_RDONLY)
    with pytest.raises(OSError, match="Bad file descriptor"):
        files.call(descriptor, fcntl.F_OFD_SETLK, fcntl.F_WRLCK)
    os.close(descriptor)


def test_a_lock_is_seen_by_all_and_had_by_one(shared):
    path = shared / "lock"
    assert not files.is_locked(path)
    held = files.lock(path)
    assert files.is_locked(path) and files.lock(path) is None
    other = python("print(files.is_locked(Path(sys.argv[1])), files.lock(Path(sys.argv[1])))", path)
    assert other.communicate()[0] == "True None\n"
    assert files.is_locked(path)  # whoever looks opens and closes the file, which gives up no lock
    held.close()
    assert not files.is_locked(path)


def test_a_lock_goes_with_the_process_that_is_killed(shared):
    holder = holding(python("held = files.lock(Path(sys.argv[1])); " + HOLD, shared / "lock"))
    assert files.is_locked(shared / "lock")
    holder.kill()
    holder.wait()
    assert not files.is_locked(shared / "lock")


LOOKS = 3000  # two that take each other for a lock meet in the first hundred
TRIES = 300
LOOK = """
path, done, looks, seen = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), 0
while looks > 0 and not done.exists():
    seen += files.is_locked(path)
    looks -= 1
print(seen)
"""


def looking_at(path, looks):
    """Start three processes that look at a lock, all of them from now on."""
    processes = [holding(python(HOLD + LOOK, path, path.with_name("done"), looks)) for _ in range(3)]
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    return processes


def test_those_who_look_never_see_each_other_nor_keep_anybody_from_a_lock(shared):
    """Two monitors took each other's look for a run at work, and one of them could keep a node from its lock."""
    path = shared / "lock"
    path.touch()
    looking = looking_at(path, LOOKS)
    assert [process.communicate()[0] for process in looking] == ["0\n"] * 3
    looking, refused = looking_at(path, 10**9), 0
    for _ in range(TRIES):
        held = files.lock(path)
        refused += held is None
        if held:
            held.close()
    path.with_name("done").touch()
    for process in looking:
        process.wait()
    assert refused == 0


def test_programs_open_runs_one_after_another(shared):
    counter = shared / "counter"
    counter.write_text("0")
    count = """
from sft.run import lifecycle
for _ in range(50):
    with lifecycle.alone(Path(sys.argv[1])):
        number = int((Path(sys.argv[1]) / "counter").read_text())
        (Path(sys.argv[1]) / "counter").write_text(str(number + 1))
"""
    counting = [python(count, shared) for _ in range(3)]
    assert [process.wait(300) for process in counting] == [0, 0, 0]
    assert counter.read_text() == "150"


FIRST = """
from rich.console import Console
from sft.host.commands import setup
from sft.host.launch import word
print("held", flush=True)
sys.stdin.readline()
for number in range(100):
    folder = Path(sys.argv[1]) / str(number)
    folder.mkdir(exist_ok=True)
    os.chdir(folder)
    setup.make_env_file(Console(file=sys.stderr))
    print(word.word_of(Path()), len(Path(".env").read_text()))
"""


def test_tasks_and_nodes_that_are_the_first_at_once_have_the_same_settings_and_the_same_word(tmp_path):
    """The one that came second ended with a traceback, or read the file before anything was in it."""
    environment = {name: value for name, value in os.environ.items() if name != WORD}
    first = [holding(python(FIRST, tmp_path, env=environment)) for _ in range(3)]
    for process in first:
        process.stdin.write("\n")
        process.stdin.flush()
    one, *others = [process.communicate()[0].splitlines() for process in first]
    assert len(one) == 100 and others == [one, one]
    assert {line.split()[1] for line in one} == {str(len((ROOT / ".env.example").read_text()))}
    for folder in tmp_path.iterdir():
        assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
        assert len(list(folder.iterdir())) == 2
