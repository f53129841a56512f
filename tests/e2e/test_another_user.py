"""A run and folders of another user: whose they are is said, and who may read a run may look at it."""

import contextlib
import os
import shutil
import subprocess
import sys

import pytest

from benchmarks.scale import listens
from sft import hostfile
from sft.run import lifecycle
from sft.settings.load import DEMO_SETTINGS
from tests.settings import decided

from .project import ROOT, free_port, wait_until

NOBODY = 65534
# Root without what lets it pass every permission: as to a run of nobody's, a user like any other.
NOT_NOBODY = ("setpriv", "--bounding-set=-dac_override,-dac_read_search,-fowner,-chown")
LOOK = """
import sys
from pathlib import Path
from sft.run import unfinished
from sft.settings.load import DEMO_SETTINGS
from tests.settings import decided
from sft.errors import UserError
for name in ("", "a"):
    try:
        found, lines = unfinished.resumable(decided(runs_path=Path(sys.argv[1]), run_name=name))
        print(found, *lines)
    except UserError as error:
        print("refused:", error)
try:
    unfinished.to_resume(Path(sys.argv[1]), "")
except UserError as error:
    print(error)
"""


@pytest.fixture
def run(tmp_path):
    return lifecycle.create(decided(runs_path=tmp_path, run_name="a"), hostfile.hostfile(2, 2))


@pytest.fixture(params=[0o755, 0o700], ids=["readable", "closed"])
def of_nobody(request, run):
    """A stopped run that is the latest and another user's; whoever is not root may read it, or not even that."""
    if os.geteuid() or not shutil.which("setpriv"):
        pytest.skip("only root makes the run of another user, with setpriv; run it as root in a container")
    run.claim().close()
    run.metrics.write_text('{"step": 1}\n')
    run.update_state("stopped", step=1)
    (run.logs / "node-0.log").write_text("a line\n")
    run.path.chmod(request.param)
    for path in (run.path, *run.path.rglob("*")):
        os.chown(path, NOBODY, NOBODY)
    return run


def of_another(*command, **environment):
    """Run a command as somebody who may not write to the run."""
    return subprocess.run(
        [*NOT_NOBODY, *command], cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, check=False
    )


def test_the_run_of_another_user_is_named_with_its_owner_and_keeps_nobody_from_a_new_one(of_nobody):
    looked = of_another(sys.executable, "-c", LOOK, str(of_nobody.path.parent))
    said = looked.stdout.splitlines()
    line = f"{of_nobody.path}: belongs to nobody, and root may not use it; `sudo chown -R root {of_nobody.path}` makes"
    assert said[0].startswith(f"None not resuming {line}") and said[1].startswith(f"refused: {line}"), looked
    assert said[2].endswith("no unfinished run to resume; `make train` starts one") and said[3].startswith(line)


def test_whoever_may_only_read_a_run_sees_that_it_is_at_work(of_nobody):
    imports = "import sys; from pathlib import Path; from sft.run.directory import Run"
    look = f"{imports}; print(Run(Path(sys.argv[1])).is_running())"
    of_nobody.path.chmod(0o755)
    for held in (True, False):
        with of_nobody.lock() if held else contextlib.nullcontext():
            looked = of_another(sys.executable, "-c", look, str(of_nobody.path))
            assert looked.stdout == f"{held}\n", looked.stderr


def test_a_stop_of_another_users_run_at_work_says_whose_it_is(of_nobody):
    of_nobody.path.chmod(0o755)
    with of_nobody.lock():
        done = of_another(f"{sys.prefix}/bin/inv", "stop", RUNS_PATH=str(of_nobody.path.parent))
    assert done.returncode == 2 and "Traceback" not in done.stderr
    line = (
        f"{of_nobody.path}: belongs to nobody, and root may not use it; `sudo chown -R root {of_nobody.path}` makes it"
    )
    assert done.stderr.startswith(line), done.stderr


def test_folders_of_another_user_are_named_with_their_owner(of_nobody):
    make = """
import sys
from pathlib import Path
from sft.host.folders import make_folders
from sft.settings.load import load
folder = Path(sys.argv[1])
make_folders(load(None, runs_path=folder, data_path=folder / "data", model_path="/tmp"))
"""
    folder = of_nobody.path.parent
    os.chown(folder, NOBODY, NOBODY)
    said = of_another(sys.executable, "-c", make, str(folder)).stderr
    remedy = (
        f"it belongs to nobody: `sudo chown -R root {folder}` makes it yours; or choose a folder that you may write"
    )
    assert f"RUNS_PATH={folder}: cannot be written (Permission denied); {remedy}" in said
    assert f"DATA_PATH={folder}/data: cannot be written (Permission denied); choose a folder" in said


@pytest.mark.parametrize("words", ["stop", "monitor --once", "logs", "evaluate"])
def test_no_task_ends_with_a_traceback_at_the_run_of_another_user(of_nobody, words):
    readable = of_nobody.path.stat().st_mode & 0o777 == 0o755
    done = of_another(f"{sys.prefix}/bin/inv", *words.split(), RUNS_PATH=str(of_nobody.path.parent))
    assert "Traceback" not in done.stdout + done.stderr
    if readable and words in ("monitor --once", "logs"):  # who may read it may look
        assert done.returncode == 0, done.stderr
        return
    assert done.returncode == 2
    said = done.stderr.strip()
    assert said.count("\n") == 0 and ("belongs to nobody" in said or "is not running (stopped)" in said), said


def test_a_node_that_may_not_read_the_word_says_that_node_0_waits_and_node_0_says_who_did_not_come(of_nobody):
    runs = of_nobody.path.parent
    settings = decided(defaults=DEMO_SETTINGS, runs_path=runs, run_name="b", master_port=free_port())
    run = lifecycle.create(settings, hostfile.hostfile(2, 1))
    word = runs / f".link-word-{os.getuid()}"
    word.write_text("the word of another user")
    word.chmod(0o600)
    os.chown(word, NOBODY, NOBODY)
    program = (sys.executable, "-m", "sft.host.launch.node", "--run", str(run.path), "--node-rank")
    first = subprocess.Popen([*program, "0"], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: listens(settings.master_port + 1), first, run)
        second = of_another(*program, "1")
        said = f"RUNS_PATH={runs}: the word by which the nodes know each other cannot be read or written there"
        assert (second.returncode, second.stderr.startswith(said)) == (2, True), second.stderr
        limit = f"until RENDEZVOUS_TIMEOUT_S={settings.rendezvous_timeout_s} seconds are over"
        assert second.stderr.endswith(f"; node 0 waits for this node {limit}\n")
        wait_until(lambda: run.state().warnings, first, run)
        (warning,) = run.state().warnings
        assert warning.startswith("node 1 does not know this run's word") and warning.endswith(limit)
    finally:
        first.terminate()
        first.wait()
    assert run.state().status == "stopped" and first.returncode == 0
