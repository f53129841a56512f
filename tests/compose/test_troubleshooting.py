"""The lines of docs/troubleshooting.md about containers, each provoked on the real engine; and its commands, run."""

import os
import re
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

import pytest
import yaml

from sft.host.launch import docker_engine
from tests.e2e.project import ROOT, small

from .stack import NODES, UID

PAGE = (ROOT / "docs" / "troubleshooting.md").read_text()
SECTIONS = ("Containers", "The GPU is not seen", "Communication")
SETTINGS = small(GPUS_PER_NODE=1)
NO_ENGINE = "unix:///tmp/no-engine-answers-here.sock"
# Not run here, because they need root, a GPU or a person.
NOT_RUN = ("sudo", "nvidia-smi", "docker compose run --rm --no-deps llm-master nvidia-smi", "docker builder prune")
root = pytest.mark.skipif(os.geteuid() != 0, reason="changes users and mounts: run the tests as root")


def overlay(stack, **service):
    """A compose file of the user's with the same lines for both nodes; the settings that have it used."""
    path = stack.path / "docker" / "mine.yml"
    path.write_text(yaml.safe_dump({"services": dict.fromkeys(NODES, service)}))
    return SETTINGS | {"COMPOSE_FILE": "docker-compose.yml:docker/mine.yml"}


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
    return stack.inv("test-env", **overlay(stack, shm_size="64m")).stdout


def another_user_id(stack):
    (stack.path / "runs").chmod(0o755)
    environment = stack.environment(**SETTINGS, SFT_UID=4321, SFT_GID=4321)
    command = ["docker", "compose", "up"]
    return subprocess.run(
        command, cwd=stack.path, env=environment, capture_output=True, text=True, check=False, timeout=200
    ).stdout


def memory_limit(stack):
    settings = overlay(stack, mem_limit="330m", memswap_limit="330m") | {"MAX_STEPS": 0, "MAX_EPOCHS": 1000}
    return stack.inv("train", **settings | {"RUN_NAME": "memory"}).stdout


def full_disk(stack, folder):
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size=3m,uid={UID},mode=755", "none", folder], check=True)
    try:
        more = {"RUNS_PATH": folder, "RUN_NAME": "full", "PLAN": "warn", "SAVE_STEPS": 2}
        return stack.inv("train", **SETTINGS | more).stdout
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


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
    "could not be written (No space left on device)": full_disk,
    "MASTER_PORT=37171: is in use": port_taken,
}
# By other files of this folder: two runs of a checkout, and a node that is killed or whose network is cut.
ELSEWHERE = {"containers of this project are already running", "lost node", "was killed by signal 9"}


def section(title):
    return PAGE.partition(f"## {title}\n")[2].partition("\n## ")[0]


def rows(title):
    return [re.findall(r"`(.+?)`", row) for row in re.findall(r"^\| (`.+?`.*?) \| ", section(title), re.MULTILINE)]


def test_every_line_about_containers_is_provoked():
    told = {message for messages in rows("Containers") for message in messages}
    assert told <= set(PROVOKED) | ELSEWHERE and set(PROVOKED) <= {
        m for row in re.findall(r"`(.+?)`", PAGE) for m in [row]
    }


@root
@pytest.mark.parametrize("line", PROVOKED)
def test_the_user_reads_the_line(stack, line, monkeypatch):
    provoke = PROVOKED[line]
    assert stack.inv("setup", **SETTINGS).returncode == 0
    names = provoke.__code__.co_varnames[: provoke.__code__.co_argcount]
    folder = Path(tempfile.mkdtemp(prefix="sft-full-"))
    folder.chmod(0o755)
    given = {"stack": stack, "monkeypatch": monkeypatch, "folder": str(folder)}
    try:
        said = provoke(*(given[name] for name in names))
    finally:
        shutil.rmtree(folder)
        stack.docker("compose", "down", "--timeout", "0")
    pattern = ".*".join(re.escape(part) for part in re.sub("=37171", "=…", line).split("…"))
    print(said[-3000:])
    assert re.search(pattern, said, re.DOTALL), said
    assert "Traceback" not in said


def commands(title):
    blocks = re.findall(r"^```console\n(.*?)^```", section(title), re.MULTILINE | re.DOTALL)
    return [line[2:].partition("  #")[0].strip() for block in blocks for line in block.splitlines()]


def test_the_commands_are_right(stack):
    """Each as it is written, in a folder in which a run has ended."""
    done = stack.inv("train", **SETTINGS | {"RUN_NAME": "commands", "MAX_STEPS": 1, "SAVE_STEPS": 1})
    assert done.returncode == 0, done.stdout
    environment, number = stack.environment(**SETTINGS), 0
    for title in SECTIONS:
        for command in commands(title):
            if command.startswith(NOT_RUN):
                continue
            number += 1
            words = " ".join([*stack.invoke, *command.split()[1:]]) if command.startswith("make ") else command
            shell = ["bash", "-c", words]
            ran = subprocess.run(
                shell, cwd=stack.path, env=environment, capture_output=True, text=True, check=False, **stack.user
            )
            assert ran.returncode == 0, (command, ran.stdout, ran.stderr)
            print(command, ran.stdout, sep="\n")
    assert number > 8
    assert "->" not in stack.docker("compose", "ps", "--all", "--format", "{{.Ports}}")
