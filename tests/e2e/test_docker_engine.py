"""Whether docker can be used, and which launcher follows from it, by what a program named docker answers."""

import os
import shutil
import subprocess

import pytest

from sft import hostfile
from sft.errors import SettingsError
from sft.host.gpus import Gpu
from sft.host.launch import compose_checks, docker_engine
from sft.host.launch.compose import Containers
from sft.host.launch.launcher import choose
from sft.run import lifecycle
from sft.settings.load import load
from tests.settings import decided

CARD = Gpu(0, "NVIDIA GeForce RTX 4090", 0, 0.0, 24.0, 40, 50.0, "580.1")


ENGINE, COMPOSE = "echo 24.0.5", "echo v2.20.1"


NO_ENGINE = "echo 'Cannot connect to the Docker daemon at unix:///var/run/docker.sock.' >&2; exit 1"


FORBIDDEN = "echo 'permission denied while trying to connect to the Docker daemon socket' >&2; exit 1"


@pytest.fixture
def docker(tmp_path, monkeypatch):
    """Return what puts a program named docker on the path, which answers as given when its versions are asked for."""

    def answers(engine=ENGINE, compose=COMPOSE, endpoint="unix:///var/run/docker.sock"):
        program = tmp_path / "docker"
        answered = f"version) {engine};; compose) {compose};; context) echo {endpoint};;"
        program.write_text(f"#!/bin/sh\ncase $1 in {answered} esac\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/bin")

    return answers


@pytest.mark.parametrize(
    ("engine", "asked_compose", "what", "remedy"),
    [
        (FORBIDDEN, COMPOSE, "you may not use docker", "usermod -aG docker"),
        (NO_ENGINE, COMPOSE, "the docker engine does not answer", "systemctl start docker"),
        ("echo 19.03.15", COMPOSE, "Docker Engine 19.03.15 is too old", "20.10 or newer"),
        ("echo 20.9.1", COMPOSE, "Docker Engine 20.9.1 is too old", "20.10 or newer"),
        (ENGINE, "exit 1", "Docker Compose 2 is missing", "docker-compose-plugin"),
        (ENGINE, "echo 1.29.2", "Docker Compose 2 is missing", "docker-compose-plugin"),
        (ENGINE, "echo nothing", "Docker Compose 2 is missing", "docker-compose-plugin"),
    ],
)
def test_what_keeps_docker_from_being_used_is_named_with_the_remedy(docker, engine, asked_compose, what, remedy):
    docker(engine, asked_compose)
    found = docker_engine.problem()
    assert found is not None and found[0] == what and remedy in found[1]


@pytest.mark.parametrize(("engine", "asked_compose"), [("echo 20.10.0", "echo 2.0"), (ENGINE, COMPOSE)])
def test_docker_of_any_version_that_is_new_enough_can_be_used(docker, engine, asked_compose):
    docker(engine, asked_compose)
    assert docker_engine.problem() is None


def test_an_engine_of_another_machine_is_named(docker):
    docker(endpoint="ssh://me@hostB")
    what, remedy = docker_engine.problem()
    assert what.startswith("the docker engine is on another machine, ssh://me@hostB") and "DOCKER_HOST" in remedy
    docker(NO_ENGINE, endpoint="tcp://10.0.0.9:2375")
    what, remedy = docker_engine.problem()
    assert what == "the docker engine does not answer at tcp://10.0.0.9:2375" and "docker context use default" in remedy


@pytest.mark.skipif(not shutil.which("docker"), reason="docker is not installed")
def test_docker_says_where_its_engine_is(monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", "ssh://me@hostB")
    assert docker_engine.endpoint() == "ssh://me@hostB"


def test_docker_that_does_not_answer_is_not_waited_for(docker, monkeypatch):
    docker(engine="exec sleep 60")
    monkeypatch.setattr(docker_engine, "ANSWER_TIMEOUT_S", 0.2)
    assert docker_engine.problem() == ("the docker engine does not answer", "start it: sudo systemctl start docker")


def test_no_docker_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    found = docker_engine.problem()
    assert found is not None and found[0] == "docker is not installed"


def chosen(has_gpu=True, **settings):
    launcher, why = choose(load(None, **settings), has_gpu)
    return launcher.name, why


def test_auto_takes_containers_where_docker_and_a_gpu_are(docker):
    docker()
    assert chosen() == ("compose", "docker works and a GPU is here")
    assert chosen(has_gpu=False) == ("local", "no GPU")
    assert chosen(has_gpu=False, device="cpu") == ("local", "DEVICE=cpu")
    assert chosen(nodes=1) == ("local", "NODES=1")
    assert chosen(launcher="local") == ("local", "LAUNCHER=local")
    docker(engine=NO_ENGINE)
    assert chosen() == ("local", "the docker engine does not answer")


def test_containers_asked_for_without_docker_is_an_error(docker):
    docker(engine=NO_ENGINE)
    with pytest.raises(SettingsError, match="LAUNCHER=compose: the docker engine does not answer; start it: sudo"):
        chosen(launcher="compose")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ('["name=seccomp,profile=builtin","name=rootless"]', "the engine is rootless: user "),
        ('["name=seccomp,profile=builtin","name=userns"]', "the engine is userns-remap: user "),
        ('["name=seccomp,profile=builtin","name=cgroupns"]', None),
    ],
)
def test_an_engine_with_other_users_is_named(tmp_path, monkeypatch, options, said):
    program = tmp_path / "docker"
    program.write_text(f"#!/bin/sh\necho '{options}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    found = compose_checks.other_users()
    assert (found and found.found.startswith(said)) if said else found is None


@pytest.fixture
def run(tmp_path):
    return lifecycle.create(decided(runs_path=tmp_path, run_name="a"), hostfile.hostfile(2, 1))


def containers(run, *said):
    """Return containers whose `docker wait` has ended, with what it has printed."""
    waits = [subprocess.Popen(["sh", "-c", word], stdout=subprocess.PIPE, text=True) for word in said]
    for wait in waits:
        wait.wait()
    return Containers(None, run, waits)


def test_containers_that_outlive_the_engine_are_at_work_until_the_run_directory_says_otherwise(run):
    found = containers(run, "exit 1", "exit 1")
    with run.lock():
        assert found.codes() == [None, None] and run.failure() is None
        run.update_state("finished")
    assert found.codes() == [0, 0] and run.failure() is None


def test_containers_that_are_gone_with_the_engine_are_the_reason(run):
    assert containers(run, "exit 1", "echo 137").codes() == [0, -9]
    assert run.failure().reason.startswith("node 0: docker no longer knows its container; the engine was stopped")
