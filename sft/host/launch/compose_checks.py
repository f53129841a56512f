"""Checks of `LAUNCHER=compose`: the engine, compose files, the image, GPUs in containers, both nodes."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
from collections.abc import Iterator

from sft import hostfile
from sft.errors import SettingsError, SftError
from sft.host import folders, gpus, ownership
from sft.host.bootstrap import checkout
from sft.host.check import Check, CheckRecord
from sft.host.launch import compose, compose_files, docker_engine, image, refusals
from sft.settings.fields import Settings

HOOK = "nvidia-container-runtime-hook"  # dockerd knows the driver `nvidia` of docker/gpu.yml if it finds this program
NODES_TIMEOUT_S = 300


def checks(settings: Settings) -> Iterator[Check]:
    """Yield every check of docker, and those inside both nodes' containers if these can start."""
    failed = False
    for check in before_build(settings):
        failed = failed or check.level == "failure"
        yield check
    if failed:
        return
    try:
        ownership.hand_over(settings, folders.make_folders(settings))
    except SettingsError as error:
        for problem in error.problems:
            yield Check.from_problem("folders", problem)
        return
    if not image.is_built():
        what = f"{checkout.image()} is missing, or was built from other code"
        yield Check("image", "failure", what, "`make setup` builds it")
        return
    if settings.device == "cuda":
        yield gpus_inside(settings)
    yield from inside(settings)


def before_build(settings: Settings) -> Iterator[Check]:
    """Check what must be right before an image can be built."""
    if found := docker_engine.problem():
        yield Check("docker", "failure", *found)
        return
    yield Check("docker", "ok", docker_engine.versions())
    if users := other_users():
        yield users
    if settings.device == "cuda":
        yield toolkit()
    try:
        stack = compose.Stack(settings)
        stack.check()
        lacking = stack.without_nccl()
    except SftError as error:
        for line in str(error).splitlines():
            yield Check.from_problem("compose files", line)
    else:
        yield Check("compose files", "ok", "they agree with the settings")
        if lacking:
            yield Check("NCCL", "warning", lacking, f"set them in both services, as {compose_files.GPU} does")


def other_users() -> Check | None:
    """Check whether the engine maps a container's users to other ones; None if it does not."""
    options = docker_engine.output("docker", "info", "--format", "{{json .SecurityOptions}}").stdout
    kind = "rootless" if "name=rootless" in options else "userns-remap" if "name=userns" in options else ""
    if not kind:
        return None
    what = f"the engine is {kind}: user {ownership.owner()[0]} in a container is another user of this machine"
    remedy = "make runs/, data/ and models/ writable for that user, or set LAUNCHER=local"
    return Check("users", "warning", what, remedy)


def toolkit() -> Check:
    """Check that docker can give cards to containers: by NVIDIA's runtime, or by the hook that dockerd looks for."""
    runtimes = docker_engine.output("docker", "info", "--format", "{{json .Runtimes}}").stdout
    if "nvidia" in runtimes:
        return Check("Container Toolkit", "ok", "docker has the nvidia runtime")
    if shutil.which(HOOK):
        return Check("Container Toolkit", "ok", f"docker has no nvidia runtime, and needs none: {HOOK} is installed")
    return Check("Container Toolkit", "failure", "docker has no nvidia runtime", docker_engine.NO_GPU)


def gpus_inside(settings: Settings) -> Check:
    """Check that a container sees GPUs."""
    stack = compose.Stack(settings)
    done = stack.call("run", "--rm", "--no-deps", "-T", hostfile.MASTER, "nvidia-smi", "--list-gpus")
    seen = [line for line in done.stdout.splitlines() if line.startswith("GPU ")]
    if done.returncode or not seen:
        said = done.stderr or done.stdout
        remedy = refusals.remedy(said, docker_engine.NO_GPU)
        return Check("GPU in a container", "failure", docker_engine.last_line(said), remedy)
    return Check("GPU in a container", "ok", f"{len(seen)} of {len(gpus.visible())} visible to {hostfile.MASTER}")


def inside(settings: Settings) -> Iterator[Check]:
    """Yield the checks of both nodes in their containers, in a compose project of its own that disturbs no run."""
    stack = compose.Stack(settings)
    project = checkout.project() + checkout.CHECKING
    numbers = {"GPUS_PER_NODE": str(settings.gpus_per_node), "MASTER_PORT": str(settings.master_port)}
    environment = stack.environment(COMPOSE_PROJECT_NAME=project, **numbers)

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = stack.command(*arguments, overlay=compose_files.CHECK)
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    try:
        started = call("up", "--detach", "--no-build", "--force-recreate")
        if started.returncode:
            yield Check.from_problem("containers", str(compose.refused(started.stderr)))
            return
        ids = call("ps", "--all", "-q").stdout.split()
        with contextlib.suppress(subprocess.TimeoutExpired):
            subprocess.run(["docker", "wait", *ids], env=environment, capture_output=True, timeout=NODES_TIMEOUT_S)
        for name in hostfile.node_names(2):
            told = call("logs", "--no-color", "--no-log-prefix", name).stdout
            lines = told.replace("\x1b[2K", "").splitlines()  # compose clears lines even without a terminal
            found = [CheckRecord.from_json(json.loads(line)) for line in lines if line.startswith('{"name"')]
            yield from (check.check(where=name) for check in found)
            if not found:
                said = docker_engine.last_line("\n".join(lines))
                yield Check("container", "failure", said, "`make setup` rebuilds the image", where=name)
    finally:
        call("down", "--timeout", "0")
