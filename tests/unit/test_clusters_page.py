"""Every command of docs/clusters.md is run by a test; those that no test can run are listed with the reason."""

import ast
import functools

import pytest

from tests.pages import ROOT, commands_of

SLURM, HOSTS = "tests/slurm/test_jobs.py", "tests/hosts/test_hosts.py"
BY_HAND = (HOSTS, "test_the_same_make_command_on_each_host_trains_the_same")
AS_TYPED = (SLURM, "test_the_commands_of_the_page_from_the_script_to_a_resumed_job")
# The command, and the test that runs it with these words, or with `inv` and the same ones as options.
RUN_BY = {
    "make setup": ("tests/e2e/test_signals.py", ""),
    "make train LAUNCHER=slurm NODES=2 GPUS_PER_NODE=4 SLURM_TIME=4:00:00 SLURM_PARTITION=gpu": AS_TYPED,
    "inv train --dry-run": (SLURM, "test_the_script_can_be_read_before_it_is_submitted"),
    "make train DRY_RUN=1": AS_TYPED,
    "make train FOLLOW=1": (SLURM, "test_the_job_outlives_the_controller_and_the_login"),
    "make monitor": AS_TYPED,
    "make logs": AS_TYPED,
    "make stop": AS_TYPED,
    "make resume": AS_TYPED,
    "scancel": (SLURM, "test_scancel_saves_and_leaves_nothing_behind"),
    "scancel --signal=USR1 --batch JOB": (SLURM, "test_a_warning_by_hand_saves_and_queues_again_and_make_stop_ends_it"),
    "make train HOSTS=hostA,hostB GPUS_PER_NODE=2": (
        HOSTS,
        "test_the_command_of_the_page_trains_two_ranks_on_each_host",
    ),
    "make train LAUNCHER=hosts NODES=2 NODE_RANK=0 MASTER_ADDR=hostA": BY_HAND,
    "make train LAUNCHER=hosts NODES=2 NODE_RANK=1 MASTER_ADDR=hostA": BY_HAND,
    "make -s manifest KIND=kubernetes IMAGE=registry.example/sft:1 VOLUME=sft NODES=2 GPUS_PER_NODE=8": (
        "tests/e2e/test_manifests.py",
        "test_the_commands_of_the_page_print_what_both_take",
    ),
    "make -s manifest KIND=skypilot GPU=H100 VOLUME=sft NODES=2 GPUS_PER_NODE=8": (
        "tests/e2e/test_manifests.py",
        "test_the_commands_of_the_page_print_what_both_take",
    ),
}
NOT_RUN = {
    "make manifest": "without KIND, a name in the text",
    "id -u": "a program of every system",
    "kubectl create -f job.yaml": "needs a Kubernetes cluster",
    "sky launch task.yaml": "needs a cloud",
    "sshfs hostA:/home/me/sft /home/me/sft": "needs FUSE; what is said of a folder without locks is tested",
    "rsync -a --delete sft/ hostB:/home/me/sft/": "a program of every system",
}


@functools.cache
def sources(path):
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return {node.name: ast.unparse(node) for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_every_command_of_the_page_has_its_test():
    assert set(commands_of("docs/clusters.md")) == RUN_BY.keys() | NOT_RUN.keys()


@pytest.mark.parametrize("command", RUN_BY)
def test_the_test_of_a_command_calls_it(command):
    path, name = RUN_BY[command]
    source = sources(path)[name] if name else (ROOT / path).read_text(encoding="utf-8")
    task = next(word for word in command.split() if word not in ("make", "inv", "-s"))
    calls = {f"'{task}'", f'"{task}"', f"make {task}", f"make -s {task}", f"queue.{task.removeprefix('s')}("}
    assert any(call in source for call in calls), (command, path, name)
