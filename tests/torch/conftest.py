"""What tests of the trainer share: settings without the environment, the tiny model and its tokenizer."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
import transformers

from sft.trainer.data import demo
from sft.trainer.model import tiny as maker

from ..unit.conftest import clean_environment  # noqa: F401 (a fixture)

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)  # threads of several processes that wait for each other's cores take more time than one


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model's folder, its tokenizer learnt from the demo's rows."""
    folder = tmp_path_factory.mktemp("tiny")
    demo.write(folder / "data")
    maker.make(folder / "model", (folder / "data" / "train.jsonl").read_text().splitlines()[:500], seed=0)
    return folder / "model"


@pytest.fixture(scope="session")
def tokenizer(tiny: Path) -> transformers.PreTrainedTokenizerBase:
    """The tiny model's tokenizer."""
    return transformers.AutoTokenizer.from_pretrained(tiny)
