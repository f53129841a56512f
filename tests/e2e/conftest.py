"""One copy of the project for all end-to-end tests: its prepared data and tiny model are made once."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest

from sft.run.directory import Run

from ..torch.conftest import tiny, tokenizer  # noqa: F401 (fixtures)
from ..unit.conftest import clean_environment  # noqa: F401 (a fixture)
from .project import Project


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The copy."""
    return Project(tmp_path_factory.mktemp("project"))


STEPS = {"GLOBAL_BATCH_SIZE": 8, "BATCH_SIZE": 2, "WEIGHT_DECAY": 0.1, "WARMUP_RATIO": 0.2}
RANKS = {1: {"NODES": 1, "GPUS_PER_NODE": 1}, 2: {"NODES": 2, "GPUS_PER_NODE": 1}, 4: {"NODES": 2, "GPUS_PER_NODE": 2}}


@pytest.fixture(scope="session")
def on_ranks(project: Project) -> Callable[[int], Run]:
    """Return what gives a finished run of the same twelve steps on 1, 2 or 4 ranks, with a checkpoint after six."""
    return functools.cache(lambda ranks: project.train(f"ranks-{ranks}", SAVE_STEPS=6, **STEPS, **RANKS[ranks]))


@pytest.fixture(scope="session")
def base(on_ranks: Callable[[int], Run]) -> Run:
    """A finished run of twelve steps over two nodes, which others are compared with."""
    return on_ranks(2)
