"""A run over two hosts without a scheduler: the same as on one, refused where it cannot be, and never left hanging."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import statistics
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import yaml

from sft import ROOT
from sft.host.launch.manifest import render
from sft.host.plan import planner
from sft.host.plan.conditions import Options
from sft.host.plan.timing import Timing, step_timing
from sft.run.directory import Run
from sft.settings.load import load
from tests.e2e.project import CURVE, Project, metrics, small, unending, wait_until
from tests.pages import commands_of, words_of

from .conftest import on
from .network import Host, Network

HOSTS = {"HOSTS": "hostA,hostB"}
SECRET = "not-a-real-key-0123456789abcdef0123456789"


@pytest.fixture(scope="session")
def at_home(project: Project) -> Run:
    """The same run on one machine."""
    return project.train("at-home", LAUNCHER="local")


def same(run: Run, other: Run) -> None:
    assert metrics(run, *CURVE) == metrics(other, *CURVE)
    ours, theirs = (one.final / "model.safetensors" for one in (run, other))
    assert ours.read_bytes() == theirs.read_bytes()


def started(project: Project, name: str, **settings: object) -> tuple[Run, subprocess.Popen[str]]:
    """Return a run without an end, and its task."""
    return Run(project.path / "runs" / name), project.start("train", **small(RUN_NAME=name, **HOSTS, **settings))


def goes_on(run: Run, process: subprocess.Popen[str], steps: int = 2) -> None:
    """Wait until a run has done some more steps."""
    step = run.state().step
    wait_until(lambda: run.state().status == "training" and run.state().step >= step + steps, process, run)


def output(process: subprocess.Popen[str]) -> str:
    said, _ = process.communicate(timeout=200)
    return said


@contextlib.contextmanager
def shown(network: Network, host: Host, content: Path, over: Path) -> Iterator[None]:
    """Have one host see another file or folder in place of a shared one."""
    network.mount(host, content, over)
    try:
        yield
    finally:
        network.unmount(host, over)


# The same result


def test_two_hosts_train_what_one_machine_trains_and_no_command_line_has_a_key(project, at_home):
    run, process = started(project, "abroad", WANDB_API_KEY=SECRET)
    lines: set[str] = set()
    while process.poll() is None:
        lines |= {" ".join(line) for line in command_lines()}
        time.sleep(0.2)
    assert process.returncode == 0, output(process)
    assert any("ssh -T" in line for line in lines) and not any(SECRET in line for line in lines)
    assert [node.host for node in run.nodes()] == ["hostA", "hostB"]
    assert run.hostfile.read_text() == "hostA slots=1\nhostB slots=1\n"
    assert not [path for path in run.path.parent.iterdir() if path.name.startswith(".shared")]
    same(run, at_home)
    project.wait_for_no_process()


def command_lines() -> Iterator[list[str]]:
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            yield process.cmdline()


def test_hosts_with_ipv6_alone_and_a_clock_two_minutes_ahead_train_the_same(
    project, network, second, at_home, tmp_path
):
    # No namespace has a wall clock of its own, so the host's Python programs get another one.
    (tmp_path / "sitecustomize.py").write_text("import time\nreal = time.time\ntime.time = lambda: real() + 120\n")
    network.start_sshd(second, f"SetEnv PYTHONPATH={tmp_path}")
    clock = "python3 -c 'import time; print(time.time())'"
    try:
        assert abs(float(network.hosts[0].run("ssh", "hostB", clock)) - time.time() - 120) < 20
        network.drop_ipv4()
        run = project.train("skewed", HOSTS="hostB-v6,hostA-v6", MAX_HOURS=0.03)
    finally:
        network.give_ipv4()
        network.start_sshd(second)
    assert [node.host for node in run.nodes()] == ["hostB", "hostA"]
    same(run, at_home)


def test_the_command_of_the_page_trains_two_ranks_on_each_host(project, first):
    program, *words = words_of("docs/clusters.md", "make train HOSTS=")
    settings = {name: value for name, value in small(RUN_NAME="page", MAX_STEPS=2).items() if name != "GPUS_PER_NODE"}
    said = output(on(first, project, program).start(*words, **settings))
    run = Run(project.path / "runs" / "page")
    assert run.state().status == "finished", said
    assert [node.ranks for node in run.nodes()] == [[0, 1], [2, 3]]


def test_the_same_make_command_on_each_host_trains_the_same(project, first, second, at_home):
    port = project.environment()["MASTER_PORT"]
    settings = {name: value for name, value in small(RUN_NAME="by-hand", MASTER_PORT=port).items() if name != "NODES"}
    typed = [command for command in commands_of("docs/clusters.md") if command.startswith("make train LAUNCHER=hosts")]
    nodes = [
        on(host, project, "make").start(*command.split()[1:], **settings)
        for command, host in zip(typed, (first, second), strict=True)
    ]
    said = [output(node) for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], said
    assert "node 1 of 2: waiting for the first node, hostA" in said[1]
    same(Run(project.path / "runs" / "by-hand"), at_home)


def test_the_pods_of_the_kubernetes_manifest_train(project, first, second):
    settings = load(None, **{name.lower(): value for name, value in small(RUN_NAME="pods", MAX_STEPS=2).items()})
    trainer = yaml.safe_load(render.rendered(settings, "kubernetes", "sft", "sft", ""))["spec"]["trainer"]
    shell, *words = (word.replace("/app", str(project.path)) for word in trainer["command"])
    given = {one["name"]: one["value"] for one in trainer["env"]}
    given |= {"PATH": f"{Path(project.invoke[-1]).parent}:{os.environ['PATH']}", "PET_MASTER_ADDR": "hostA"}
    given |= {"PET_NNODES": trainer["numNodes"], "MASTER_PORT": project.environment()["MASTER_PORT"]}
    pods = [
        on(host, project, shell).start(*words, PET_NODE_RANK=rank, **given) for rank, host in enumerate((first, second))
    ]
    said = [output(pod) for pod in pods]
    assert [pod.returncode for pod in pods] == [0, 0], said
    assert Run(project.path / "runs" / "pods").state().status == "finished"


def test_other_settings_on_one_of_the_hosts_are_said_on_both(project, second):
    port = project.environment()["MASTER_PORT"]
    schedulers = {"PET_NODE_RANK": 1, "PET_MASTER_ADDR": "hostA", "PET_NNODES": 2}  # as Kubeflow's Trainer says it
    other = on(second, project).start("train", **small(MASTER_PORT=port, MAX_LENGTH=64, **schedulers))
    done = project.inv("train", **small(RUN_NAME="unlike", MASTER_PORT=port, NODE_RANK=0, MASTER_ADDR="hostA"))
    line = "MAX_LENGTH=64: so on hostB, and 128 on hostA"
    assert done.returncode == 2 and line in done.stdout, done.stdout
    assert line in output(other) and other.returncode == 2
    assert not (project.path / "runs" / "unlike").exists()


def test_an_interface_that_one_of_the_hosts_lacks_is_said_on_both(project, second):
    port = project.environment()["MASTER_PORT"]
    more = {"MASTER_PORT": port, "MASTER_ADDR": "hostA", "LAUNCHER": "hosts"}
    other = on(second, project).start("train", **small(NODE_RANK=1, GLOO_SOCKET_IFNAME="bond9", **more))
    done = project.inv("train", **small(RUN_NAME="lacks", NODE_RANK=0, **more))
    line = "GLOO_SOCKET_IFNAME=bond9: no interface 'bond9' with an address on hostB"
    assert done.returncode == 2 and line in done.stdout, done.stdout
    assert line in output(other) and other.returncode == 2


def test_an_interface_that_one_of_the_named_hosts_lacks_is_said_before_a_run_is_opened(project, network, second):
    network.start_sshd(second, "SetEnv GLOO_SOCKET_IFNAME=bond9")
    try:
        done = project.inv("train", **small(RUN_NAME="lacking", **HOSTS))
    finally:
        network.start_sshd(second)
    assert done.returncode == 2, done.stdout
    assert "HOSTS=hostB: GLOO_SOCKET_IFNAME=bond9: no interface 'bond9' with an address on hostB" in done.stdout
    assert not (project.path / "runs" / "lacking").exists()


def test_a_user_with_another_id_on_one_of_the_hosts_is_told_so_on_both(project, second):
    """The other user may read everything, as where a folder is open to all, and write where all may."""
    for name in ("runs", "data", "models"):
        (project.path / name).mkdir(exist_ok=True)
        (project.path / name).chmod(0o777)
    port = project.environment()["MASTER_PORT"]
    more = {"MASTER_PORT": port, "MASTER_ADDR": "hostA", "LAUNCHER": "hosts", "RENDEZVOUS_TIMEOUT_S": 30}
    there = on(second, project)
    may_read = ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
    there.invoke[-1:-1] = ["setpriv", "--reuid=1234", "--clear-groups", *may_read]
    other = there.start("train", **small(RUN_NAME="ids", NODE_RANK=1, HOME="/tmp", **more))
    done = project.inv("train", **small(RUN_NAME="ids", NODE_RANK=0, **more))
    line = "node 1 does not know this run's word, which only user id 0 may read; start every node with that user id"
    assert done.returncode == 2 and line in done.stdout, done.stdout
    assert line in output(other) and other.returncode == 2


# The network


def test_the_hosts_are_checked_and_their_link_is_measured(project, network):
    with network.limited(gbit=1):
        done = project.inv("test-env", "--json", **small(**HOSTS))
    checks = {(check["where"], check["name"]): check for check in json.loads(done.stdout)["checks"]}
    assert {("hostA", "host"), ("hostB", "host"), ("", "hosts"), ("", "folders"), ("", "ports")} <= checks.keys()
    assert all(checks[place]["level"] == "ok" for place in checks if place[1] in ("host", "hosts", "folders", "ports"))
    measured = checks["", "all-reduce"]["values"]
    assert (measured["ranks"], measured["nodes"]) == (2, 2)
    assert 0.3 * 0.125 < measured["all_reduce_gb_s"] < 0.125, "1 Gbit/s is 0.125 GB/s"


def test_a_step_over_a_slow_network_takes_what_the_plan_says(project, network, at_home):
    gbit = 0.02  # for the tiny model what 60 Gbit/s would be for a billion weights: the network decides
    with network.limited(gbit):
        run, process = started(project, "slow", MAX_STEPS=8)
        sent: dict[int, int] = {}
        while process.poll() is None:
            sent.setdefault(run.state().step, network.sent_bytes())
            time.sleep(0.05)
    assert run.state().status == "finished", output(process)
    planned = step_planned(at_home, gbit)
    assert (sent[7] - sent[2]) / 5 == pytest.approx(planned.wire_bytes, rel=0.25)
    times = [line.time for line in run.read_metrics()]
    steps_s = [after - before for before, after in itertools.pairwise(times)]
    assert statistics.median(steps_s) == pytest.approx(planned.step_s, rel=0.25)


def step_planned(run: Run, gbit: float) -> Timing:
    """Return what the plan says of a run's step over a network; for a card, as there is no plan for a CPU."""
    given = small(LAUNCHER="hosts", PRECISION="fp32", DEVICE="auto", **HOSTS)
    settings = load(None, **{name.lower(): value for name, value in given.items()})
    options = Options.of("4090", shape=str(run.final / "config.json"), hosts="2", link=str(gbit), gpus="2")
    plan = planner.plan_with(settings, options)
    # On a CPU ZeRO-3 keeps no weights whole.
    return step_timing(replace(plan.job, persistent=False), plan.work, plan.conditions.rows)


# Refused


def test_hosts_that_are_not_reached_are_a_line_each(project):
    hosts = "hostA,nosuch,hostB:1,nobody@hostB"
    done = project.inv("train", **small(RUN_NAME="wrong", HOSTS=hosts, NODES=4))
    for line in (
        "HOSTS=nosuch: ssh: Could not resolve hostname nosuch",
        "HOSTS=hostB:1: ssh: connect to host hostb port 1: Connection refused; start sshd there",
        "HOSTS=nobody@hostB: nobody@hostb: Permission denied",
        "; `ssh-copy-id nobody@hostB` lets this user in",
    ):
        assert line in done.stdout, done.stdout
    assert done.returncode == 2 and done.stdout.count("HOSTS=") == 3, done.stdout
    assert not (project.path / "runs" / "wrong").exists()


def test_a_machine_that_is_named_twice_is_refused(project):
    done = project.inv("train", **small(RUN_NAME="wrong", HOSTS="hostA,10.77.0.1"))
    assert done.returncode == 2 and "HOSTS=10.77.0.1: is the same machine as hostA" in done.stdout, done.stdout


def test_other_code_versions_and_variables_are_a_line_each(project, network, second, tmp_path):
    changed = tmp_path / "steps.py"
    changed.write_text((project.path / "sft" / "steps.py").read_text() + "# other\n")
    metadata = next(Path(ROOT, ".venv").glob("lib/*/site-packages/torch-*.dist-info/METADATA"))
    older = tmp_path / "METADATA"
    older.write_text(metadata.read_text().replace("\nVersion: ", "\nVersion: 0.", 1))
    network.start_sshd(second, "SetEnv NCCL_ALGO=Ring")
    try:
        with (
            shown(network, second, changed, project.path / "sft" / "steps.py"),
            shown(network, second, older, metadata),
        ):
            done = project.inv("train", **small(RUN_NAME="wrong", **HOSTS))
    finally:
        network.start_sshd(second)
    lines = [line for line in done.stdout.splitlines() if line.startswith("HOSTS=hostB: ")]
    assert done.returncode == 2 and len(lines) == 3, done.stdout
    assert "has other code than hostA: sft/steps.py; bring" in lines[0]
    assert "has torch 0." in lines[1] and "make setup" in lines[1]
    assert "has NCCL_ALGO=Ring, hostA has it not set" in lines[2]
    assert not (project.path / "runs" / "wrong").exists()


def test_folders_that_are_not_shared_are_a_line_each(project, network, second, tmp_path):
    for name in ("runs", "data"):
        (project.path / name).mkdir(exist_ok=True)
        (tmp_path / name).mkdir()
    with (
        shown(network, second, tmp_path / "runs", project.path / "runs"),
        shown(network, second, tmp_path / "data", project.path / "data"),
    ):
        done = project.inv("train", **small(RUN_NAME="wrong", **HOSTS))
    for name in ("RUNS_PATH", "DATA_PATH"):
        (line,) = (line for line in done.stdout.splitlines() if line.startswith(f"{name}="))
        assert "on hostB it is another folder; share it over NFS" in line
    assert done.returncode == 2 and "MODEL_PATH" not in done.stdout
    assert not (project.path / "runs" / "wrong").exists()


def test_a_project_that_is_not_there_is_said(project, network, second, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    with shown(network, second, empty, project.path):
        done = project.inv("train", **small(RUN_NAME="wrong", **HOSTS))
    assert done.returncode == 2 and f"{project.path.resolve()}" in done.stdout, done.stdout
    assert "HOSTS=hostB: the project does not start there" in done.stdout or "is not there" in done.stdout


# Harm


def test_a_cut_of_ten_seconds_is_survived_and_one_for_good_ends_the_run_everywhere(project, network, second):
    run, process = started(project, "cut", SAVE_STEPS=10, **unending())
    goes_on(run, process)
    network.cut()
    time.sleep(10)
    network.join()
    goes_on(run, process, steps=20)
    assert "step" in project.inv("logs", "--name", "cut").stdout
    assert "training" in project.inv("monitor", "--once", "--name", "cut").stdout
    done = project.inv("stop", "--name", "cut")
    assert done.returncode == 0 and "saved as step-" in done.stdout, done.stdout
    assert process.wait(60) == 0 and run.state().status == "stopped"
    step = run.saved_step()
    process = project.start("resume", "--name", "cut")
    goes_on(run, process)
    network.cut()
    try:
        said = output(process)
        project.wait_for_no_process()
    finally:
        network.join()
    assert process.returncode == 1 and run.state().status == "failed", said
    assert "lost node" in str(run.state().error) and run.saved_step() >= step
    assert sum("lost node" in line for line in said.splitlines()) == 1, said


def test_a_lost_host_a_lost_connection_and_ctrl_c(project, network, first, second):
    run, process = started(project, "harmed", RESTARTS=1, SAVE_STEPS=10, **unending())
    goes_on(run, process, steps=12)
    for one in on_host(second):  # as if it had been switched off: nobody is left to say so
        with contextlib.suppress(psutil.Error):
            one.kill()
    wait_until(lambda: run.state().attempt == 2, process, run)
    goes_on(run, process)
    assert "lost node 1" in run.state().earlier_errors[0]
    connection = next(one for one in project.processes() if one.name() == "ssh")
    connection.kill()  # the node saves and stops when nobody is left who could stop it
    said = output(process)
    assert run.state().status == "stopped" and run.saved_step() == run.state().step, said
    assert "the end of what started node 1" in str(run.stop_reason()) or "node 1" in str(run.stop_reason())
    project.wait_for_no_process()
    process = project.start("resume", "--name", "harmed")
    goes_on(run, process)
    process.send_signal(signal.SIGINT)
    said = output(process)
    assert run.state().status == "stopped" and run.saved_step() == run.state().step, said
    project.wait_for_no_process()


@pytest.mark.parametrize("broken", [1, 0])
def test_hosts_that_do_not_end_at_the_same_time_meet_in_the_next_attempt(project, first, second, broken):
    name = f"again-{broken}"
    more = {"MASTER_PORT": project.environment()["MASTER_PORT"], "MASTER_ADDR": "hostA", "LAUNCHER": "hosts"}
    settings = small(RUN_NAME=name, RESTARTS=1, **more, **unending())
    nodes = [on(host, project).start("train", **settings, NODE_RANK=rank) for rank, host in enumerate((first, second))]
    run = Run(project.path / "runs" / name)
    goes_on(run, nodes[0])
    ranks = [rank_of(first), rank_of(second)]
    ranks[1 - broken].suspend()  # as one that waits for the other rank in a collective of NCCL
    ranks[broken].kill()
    wait_until(lambda: run.state().attempt == 2, nodes[0], run)
    goes_on(run, nodes[0])
    assert project.inv("stop", "--name", name).returncode == 0
    said = [output(node) for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], said
    assert "is there already" not in said[1] and run.state().status == "stopped", said


def rank_of(host: Host) -> psutil.Process:
    """Return the only rank of a host."""
    (rank,) = (one for one in on_host(host) if any(word.startswith("--local_rank=") for word in one.cmdline()))
    return rank


def on_host(host: Host) -> Iterator[psutil.Process]:
    """Yield what runs on a host for the project: the processes in its network, but for sshd itself."""
    space = os.readlink(f"/proc/{host.pid}/ns/net")
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if os.readlink(f"/proc/{process.pid}/ns/net") == space and "python" in process.name():
                yield process
