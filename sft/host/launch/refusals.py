"""What docker says if it does not build or start containers, and what helps."""

from __future__ import annotations

import re

from sft.host.launch.docker_engine import NO_GPU, last_line

DRIVER = "`nvidia-smi` must work on this machine; after a change of the driver, restart it"
NETWORK = "check the network, or set BASE_IMAGE to an image that is on this machine"
UNSEEN = (
    "`make setup` makes the folders and .env; if they are there, this engine does not see them: docker of snap sees "
    "home folders alone, and an engine behind DOCKER_HOST those of its own machine"
)
# A part of the message (of the engine, of compose or of NVIDIA's toolkit), and the remedy. The first that fits counts.
REMEDIES = (
    ("could not select device driver", NO_GPU),
    ("unsatisfied condition:", "BASE_IMAGE asks for a newer driver: leave it out, or install that driver"),
    ("unknown device", "device_ids in docker/gpu.yml names a GPU that is not here: `nvidia-smi -L` lists them"),
    ("driver not loaded", DRIVER),
    ("driver/library version mismatch", DRIVER),
    ("libnvidia-ml.so", DRIVER),
    ("bind source path does not exist", UNSEEN),
    ("address pool", "docker has no network left: `docker network prune` removes those that nothing uses"),
    ("no space left on device", "free space where docker keeps images: `docker system df` says what takes it"),
    ("error setting rlimits", "this engine may not raise limits: remove `ulimits` from docker/gpu.yml"),
    ("pull access denied", "there is no such image: check BASE_IMAGE"),
    ("dial tcp", NETWORK),
    ("i/o timeout", NETWORK),
    ("Temporary failure in name resolution", NETWORK),
    ("toomanyrequests", "the registry refuses so many requests: log in to it with `docker login`, or try again later"),
)


def remedy(text: str, otherwise: str) -> str:
    """Return what helps against a message of docker's."""
    return next((found for part, found in REMEDIES if part.lower() in text.lower()), otherwise)


def of_build(text: str) -> str:
    """Return why a build failed, from its plain output: the last line of the program that failed, or of docker."""
    last = last_line(text)
    said = re.findall(r"^#\d+ \d+\.\d+ +(\S.*)$", text, re.MULTILINE)
    return said[-1].strip() if said and "exit code" in last else last
