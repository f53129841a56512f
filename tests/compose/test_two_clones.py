"""Two clones of the project on one engine, with the names that they have by themselves."""

import os
import subprocess

import pytest

from tests.e2e.project import small

from .stack import Stack, own_name, unprivileged_python

SETTINGS = small(GPUS_PER_NODE=1, MAX_STEPS=2, SAVE_STEPS=1)


class Clone(Stack):
    """A stack whose containers and image have the names that the project gives them."""

    def __init__(self):
        super().__init__()
        os.unlink(self.path / ".venv")  # that of the tests: `make clean` would remove the link
        self.own = own_name(self.path)

    def environment(self, **settings):
        found = super().environment(**settings)
        return {name: value for name, value in found.items() if name not in ("COMPOSE_PROJECT_NAME", "SFT_IMAGE")}

    def has(self):
        """Everything that docker has under this clone's name."""
        kinds = {"ps": "{{.Names}}", "network ls": "{{.Name}}", "images": "{{.Repository}}"}
        found = {kind: self.docker(*kind.split(), *(["--all"] if kind == "ps" else []), "--format", shown)
                 for kind, shown in kinds.items()}  # fmt: skip
        return {kind: [name for name in names.split() if name.startswith(self.own)] for kind, names in found.items()}

    def clean(self, **more):
        command = ["make", "clean", f"PYTHON={unprivileged_python()}"]
        return subprocess.run(
            command, cwd=self.path, env=self.environment(**more), stdin=subprocess.DEVNULL, capture_output=True,
            text=True, check=False, **self.user,
        )  # fmt: skip

    def remove(self):
        self.clean(YES=1)
        super().remove()


@pytest.fixture
def clones():
    both = [Clone(), Clone()]
    yield both
    for clone in both:
        clone.remove()


def test_they_share_nothing_and_clean_removes_that_of_its_own_folder_alone(clones):
    one, other = clones
    for clone in clones:
        done = clone.inv("train", **SETTINGS | {"RUN_NAME": "here"})
        assert done.returncode == 0, done.stdout
        assert f"COMPOSE_PROJECT_NAME={clone.own}" in (clone.path / ".env").read_text()
        # By hand the same containers are found, by what `.env` has.
        assert len(clone.docker("compose", "ps", "--all", "-q").split()) == 2
    everything = [clone.has() for clone in clones]
    for clone, found in zip(clones, everything, strict=True):
        assert sorted(found["ps"]) == [f"{clone.own}-llm-master-1", f"{clone.own}-llm-worker-1"]
        assert found["network ls"] == [f"{clone.own}_nodes"] and found["images"] == [clone.own]
    asked = one.clean()
    assert asked.returncode == 2 and "make clean YES=1" in asked.stderr and one.has() == everything[0]
    for what in (f"container {one.own}-llm-master-1", f"network {one.own}_nodes", f"image {one.own}:latest"):
        assert what in asked.stdout
    assert other.own not in asked.stdout
    done = one.clean(YES=1)
    assert done.returncode == 0 and "removed; runs/" in done.stdout, done.stderr
    assert not any(one.has().values()) and other.has() == everything[1]
    assert (one.path / "runs" / "here" / "final").is_dir()


def test_a_folder_that_is_copied_gets_a_name_of_its_own(clones):
    one, other = clones
    assert one.inv("setup", **SETTINGS).returncode == 0
    env_file = (one.path / ".env").read_text()
    assert one.own in env_file
    other.write(".env", env_file)
    done = other.inv("setup", **SETTINGS)
    assert done.returncode == 0 and f"COMPOSE_PROJECT_NAME={other.own}" in done.stdout
    assert one.own not in (other.path / ".env").read_text()
    other.docker("compose", "create")
    assert one.has()["ps"] == [] and len(other.has()["ps"]) == 2
