"""The lines of docs/troubleshooting.md about containers, each provoked on the real engine; and its commands, run."""

import inspect
import os
import re
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

import pytest
import yaml

from sft.host.launch import compose_checks, docker_engine
from sft.settings.load import load
from tests.e2e.project import ROOT, TIMEOUT_S, small

from .stack import UID

PAGE = (ROOT / "docs" / "troubleshooting.md").read_text()
SECTIONS = ("The GPU is not seen", "Containers", "Out of memory", "Communication")
SETTINGS = small(GPUS_PER_NODE=1)
NO_ENGINE = "unix:///tmp/no-engine-answers-here.sock"
# Not run here: they need a GPU, or would remove what other projects have built.
NOT_RUN = ("nvidia-smi", "docker compose run --rm --no-deps llm-master nvidia-smi", "docker builder prune")
root = pytest.mark.skipif(os.geteuid() != 0, reason="changes users and mounts: run the tests as root")


# Each returns what the user reads.


def engine_stopped(stack):
    return stack.inv("train", **SETTINGS, DOCKER_HOST=NO_ENGINE).stdout


def user_without_docker(stack, monkeypatch):
    monkeypatch.setattr(stack, "user", {"user": UID, "group": UID, "extra_groups": []})
    return stack.inv("train", **SETTINGS).stdout


def no_nvidia_runtime(stack):
    if "nvidia" in docker_engine.output("docker", "info", "--format", "{{json .Runtimes}}").stdout:
        pytest.skip("docker has the nvidia runtime")
    files = ["-f", "docker-compose.yml", "-f", "docker/gpu.yml"]
    command = ["docker", "compose", *files, "run", "--rm", "--no-deps", "-T", "llm-master", "nvidia-smi"]
    return subprocess.run(
        command, cwd=stack.path, env=stack.environment(), capture_output=True, text=True, check=False
    ).stderr


def image_missing(stack):
    return stack.inv("test-env", **SETTINGS, SFT_IMAGE="sft-test-none").stdout


def base_image_missing(stack):
    return stack.inv("train", **SETTINGS, SFT_IMAGE="sft-test-none", BASE_IMAGE="localhost:1/none").stdout


def folder_missing(stack):
    return subprocess.run(
        ["docker", "compose", "create"], cwd=stack.path, env=stack.environment(RUNS_PATH="/none/runs"),
        capture_output=True, text=True, check=False,
    ).stderr  # fmt: skip


def small_shm(stack):
    return stack.inv("test-env", **SETTINGS, **stack.overlay(shm_size="64m")).stdout


def another_user_id(stack):
    environment = stack.environment(**SETTINGS, SFT_UID=4321, SFT_GID=4321)
    return subprocess.run(
        ["docker", "compose", "up"], cwd=stack.path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, check=False, timeout=TIMEOUT_S,
    ).stdout  # fmt: skip


def memory_limit(stack):
    settings = SETTINGS | stack.overlay(mem_limit="330m", memswap_limit="330m") | {"MAX_STEPS": 0, "MAX_EPOCHS": 1000}
    return stack.inv("train", **settings | {"RUN_NAME": "memory"}).stdout


def full_disk(stack, folder):
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size=3m,uid={UID},mode=755", "none", folder], check=True)
    try:
        more = {"RUNS_PATH": folder, "RUN_NAME": "full", "PLAN": "warn", "SAVE_STEPS": 2}
        return stack.inv("train", **SETTINGS | more).stdout
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def no_card_in_a_container(stack, monkeypatch):
    for name, value in stack.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(stack.path)
    return compose_checks.gpus_inside(load(None, device="cuda")).text


def another_network(stack):
    path = stack.path / "docker" / "mine.yml"
    path.write_text(yaml.safe_dump({"services": {"llm-worker": {"environment": {"MASTER_ADDR": "192.0.2.1"}}}}))
    return stack.inv("test-env", **SETTINGS | {"COMPOSE_FILE": "docker-compose.yml:docker/mine.yml"}).stdout


def port_taken(stack):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        return stack.inv("train", **SETTINGS | {"LAUNCHER": "local", "MASTER_PORT": taken.getsockname()[1]}).stdout


# The line as the page has it, and what provokes it.
PROVOKED = {
    "LAUNCHER=compose: the docker engine does not answer": engine_stopped,
    "LAUNCHER=compose: you may not use docker": user_without_docker,
    'could not select device driver "nvidia"': no_nvidia_runtime,
    "image: … is missing, or was built from other code": image_missing,
    "docker compose build: failed: …": base_image_missing,
    "bind source path does not exist: …": folder_missing,
    "/dev/shm: …": small_shm,
    ".env: cannot be read by user …": another_user_id,
    "main memory ran out; use fewer ranks": memory_limit,
    "could not be written (No space left on device…)": full_disk,
    "GPU in a container: …": no_card_in_a_container,
    "did not meet": another_network,
    "MASTER_PORT=37171: is in use": port_taken,
}
# By other tests.
ELSEWHERE = {
    "DEVICE=auto: no NVIDIA GPU is visible here": "tests/unit/test_checks.py",
    "driver …: is too old for …": "tests/unit/test_torch_build.py",
    "containers of this project are already running": "tests/compose/test_checks.py",
    "another run is about to start the containers of this project": "tests/compose/test_checks.py",
    "warning: out of memory …": "tests/e2e/test_out_of_memory.py",
    "failed: out of memory …": "tests/e2e/test_out_of_memory.py",
    "rank … was killed by signal 9": "tests/compose/test_failure.py",
    "lost node": "tests/compose/test_failure.py",
    "NET/Socket: slower than shared memory": "tests/unit/test_launchers.py",  # NCCL's own words: it needs two GPUs
    "… without which NCCL fails on cards with NVLink": "tests/unit/test_launchers.py",
}


def section(title):
    return PAGE.partition(f"## {title}\n")[2].partition("\n## ")[0]


def lines(title):
    """What the first column of a section's table quotes."""
    first = re.findall(r"^\| (`[^|]+`[^|]*?) \| ", section(title), re.MULTILINE)
    return {message for row in first for message in re.findall(r"`(.+?)`", row)}


def test_every_line_is_provoked_here_or_in_another_test():
    assert set().union(*map(lines, SECTIONS)) == set(PROVOKED) | set(ELSEWHERE)
    assert [path for path in ELSEWHERE.values() if not (ROOT / path).is_file()] == []


@pytest.fixture(scope="module")
def ready(stack):
    """The stack with an image, the folders, and data and model."""
    done = stack.inv("setup", **SETTINGS)
    assert done.returncode == 0, done.stdout
    return stack


@root
@pytest.mark.parametrize("line", PROVOKED)
def test_the_user_reads_the_line(ready, line, monkeypatch):
    folder = Path(tempfile.mkdtemp(prefix="sft-full-"))
    folder.chmod(0o755)
    given = {"stack": ready, "monkeypatch": monkeypatch, "folder": str(folder)}
    try:
        said = PROVOKED[line](*(given[name] for name in inspect.signature(PROVOKED[line]).parameters))
    finally:
        shutil.rmtree(folder)
        ready.docker("compose", "down", "--timeout", "0")
    parts = re.sub("=[0-9]+", "=…", line).split("…")
    assert re.search(".*".join(map(re.escape, parts)), said, re.DOTALL), said
    assert "Traceback" not in said


def commands(title):
    blocks = re.findall(r"^```console\n(.*?)^```", section(title), re.MULTILINE | re.DOTALL)
    return [line[2:].partition("  #")[0].strip() for block in blocks for line in block.splitlines()]


def test_the_commands_are_right(ready):
    """Each as it is written, in a folder in which a run has ended."""
    done = ready.inv("train", **SETTINGS | {"RUN_NAME": "commands", "MAX_STEPS": 1, "SAVE_STEPS": 1})
    assert done.returncode == 0, done.stdout
    environment = ready.environment(**SETTINGS)
    every = dict.fromkeys(command for title in SECTIONS for command in commands(title))
    run = [command for command in every if not command.startswith(NOT_RUN)]
    assert len(run) > 8
    for command in run:
        words = " ".join([*ready.invoke, *command.split()[1:]]) if command.startswith("make ") else command
        shell = ["bash", "-c", words]
        ran = subprocess.run(
            shell, cwd=ready.path, env=environment, capture_output=True, text=True, check=False, **ready.user
        )
        assert ran.returncode == 0, (command, ran.stdout, ran.stderr)
        print(command, ran.stdout, sep="\n")
    assert "->" not in ready.docker("compose", "ps", "--all", "--format", "{{.Ports}}")
