"""What DeepSpeed itself refuses in a file of the user's own is found before the ranks start."""

import json
from contextlib import nullcontext

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sft.errors import UserError
from sft.settings import deepspeed
from sft.settings.load import load
from sft.trainer import deepspeed_file

from ..unit.strategies import KEYS, NAMED, VALUES


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@given(content=st.dictionaries(KEYS, VALUES, max_size=4))
def run_deepspeed_itself(folder, content):
    (folder / "mine.json").write_text(json.dumps({"zero_optimization": {"stage": 2}} | content))
    try:
        chosen = load(None, ds_config="mine.json", precision="fp32")
        deepspeed_file.check(chosen, deepspeed.configuration(chosen))
    except UserError as error:
        assert all(NAMED.match(line) and line.isprintable() for line in str(error).split("\n"))


def test_what_deepspeed_refuses_is_found_before_the_ranks_start(folder):
    run_deepspeed_itself(folder)
    (folder / "mine.json").write_text('{"zero_optimization": {"stage": 2, "reduce_bucket_size": "many"}}')
    with pytest.raises(UserError, match=r"DS_CONFIG=mine.json: DeepSpeed refuses it \(ValidationError: "):
        chosen = load(None, ds_config="mine.json")
        deepspeed_file.check(chosen, deepspeed.configuration(chosen))


@pytest.mark.skipif(torch.cuda.is_available(), reason="tests/e2e/test_gpu.py compiles it where there is a GPU")
@pytest.mark.parametrize(
    ("zero", "named"),
    [
        ({"zero_quantized_weights": True, "zero_quantized_gradients": True}, ["weights", "gradients"]),
        ({"zero_quantized_weights": False}, []),
    ],
)
def test_what_deepspeed_cannot_compile_here_is_found_before_the_ranks_start(folder, zero, named):
    (folder / "mine.json").write_text(json.dumps({"zero_optimization": {"stage": 3} | zero}))
    chosen = load(None, ds_config="mine.json", precision="fp32")
    with pytest.raises(UserError) if named else nullcontext() as refusal:
        deepspeed_file.check(chosen, deepspeed.configuration(chosen))
    lines = str(refusal.value).splitlines() if refusal else []
    assert len(lines) == len(named)
    for line, name in zip(lines, named, strict=True):
        assert f"cannot compile what zero_quantized_{name} needs (" in line and line.isprintable()
