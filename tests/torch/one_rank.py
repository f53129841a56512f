"""A group of one rank, and random rows, for programs that check DeepSpeed's engine to the bit."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from sft.trainer import distributed
from sft.trainer.data import row_writer
from sft.trainer.data import rows as data
from sft.trainer.distributed import World
from tests.e2e.project import free_port


@contextmanager
def one_rank() -> Iterator[World]:
    """Yield the world of this process as the only rank, on the CPU."""
    os.environ |= {"MASTER_PORT": str(free_port()), "MASTER_ADDR": "127.0.0.1"}
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    yield distributed.start("cpu", 60)
    distributed.end()


def random_rows(folder: Path, least: int, most: int, number: int) -> data.Rows:
    """Write rows of `least` to `most` - 1 random tokens, all of them targets, and return them."""
    draw = np.random.default_rng(0).integers
    tokens = [draw(3, 300, size).tolist() for size in draw(least, most, number)]
    row_writer.write(folder, [data.TokenisedRow(ids, [True] * len(ids), "", "") for ids in tokens])
    return data.Rows(folder)
