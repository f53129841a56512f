"""What a user reads if docker does not build or start containers."""

import pytest

from sft.errors import SettingsError
from sft.host.launch import compose, image, refusals

BUILD = """\
#7 [2/3] RUN python3 -m pip install torch
#7 0.521 Looking in indexes
#7 3.100 ERROR: No matching distribution found for torch==2.13.0
#7 ERROR: process "/bin/sh -c python3 -m pip install torch" did not complete successfully: exit code: 1
------
failed to solve: process "/bin/sh -c python3 -m pip install torch" did not complete successfully: exit code: 1
"""


def test_a_failed_build_is_told_by_the_last_line_of_the_program_that_failed():
    assert refusals.of_build(BUILD) == "ERROR: No matching distribution found for torch==2.13.0"
    line = "failed to solve: ubuntu:24.04: failed to do request: dial tcp: lookup: no such host"
    assert refusals.of_build(f"#2 [internal] load metadata\n{line}\n") == line


@pytest.mark.parametrize(
    ("said", "remedy"),
    [
        ('could not select device driver "nvidia" with capabilities: [[gpu]]', "Container Toolkit"),
        ("nvidia-container-cli: requirement error: unsatisfied condition: cuda>=13.0, please update", "BASE_IMAGE"),
        ("nvidia-container-cli: device error: 3: unknown device: unknown", "device_ids in docker/gpu.yml"),
        ("nvidia-container-cli: initialization error: nvml error: driver not loaded", "`nvidia-smi` must work"),
        ("nvml error: driver/library version mismatch", "restart it"),
        ("load library failed: libnvidia-ml.so.1: cannot open shared object file", "`nvidia-smi` must work"),
        ("could not find an available, non-overlapping IPv4 address pool among the defaults", "docker network prune"),
        ("all predefined address pools have been fully subnetted", "docker network prune"),
        ("write /var/lib/docker/tmp/x: no space left on device", "docker system df"),
        ("error setting rlimits for ready process", "remove `ulimits`"),
        ("invalid mount config for type bind: bind source path does not exist: /data/x", "docker of snap"),
        ("anything else", "see `docker compose up`"),
    ],
)
def test_each_refusal_has_its_remedy(said, remedy):
    line = str(compose.refused(f"Container x  Creating\nError response from daemon: {said}\n"))
    assert line.startswith(f"docker compose up: Error response from daemon: {said}; ") and remedy in line


@pytest.mark.parametrize(
    ("variables", "lines"),
    [
        ({"FLASH_ATTN": "yes", "QLORA": "2"}, ["FLASH_ATTN=yes: is not 1 or 0", "QLORA=2: is not 1 or 0"]),
        ({"FLASH_ATTN": "1"}, ["FLASH_ATTN=1: flash-attn needs a GPU, and torch is built for the CPU"]),
    ],
)
def test_a_build_that_can_only_fail_is_not_begun(monkeypatch, variables, lines):
    monkeypatch.setattr(image, "torch_backend", lambda: "cpu")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as caught:
        image.check_arguments()
    assert [line.split(";")[0] for line in caught.value.problems] == lines
