"""What DeepSpeed itself refuses in a file of the user's own is found before the ranks start."""

import contextlib
import json
import os

import pytest
import torch
from deepspeed.ops.op_builder.quantizer import QuantizerBuilder
from hypothesis import given
from hypothesis import strategies as st

from sft.errors import UserError
from sft.settings import deepspeed
from sft.settings.load import load
from sft.trainer import deepspeed_file, process

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
    with pytest.raises(UserError) if named else contextlib.nullcontext() as refusal:
        deepspeed_file.check(chosen, deepspeed.configuration(chosen))
    lines = str(refusal.value).splitlines() if refusal else []
    assert len(lines) == len(named)
    for line, name in zip(lines, named, strict=True):
        assert f"cannot compile what zero_quantized_{name} needs (" in line and line.isprintable()


def reads(value, monkeypatch):
    """Whether DeepSpeed's builder reads these architectures: it raises ValueError or IndexError otherwise."""
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", value)
    builder = QuantizerBuilder()
    builder.jit_mode = True
    with contextlib.suppress(ValueError, IndexError):
        builder.compute_capability_args()
        return True
    return False


@pytest.mark.parametrize("value", ["8.0", "8.0;8.6+PTX", "7.5 9.0", "9.0a", "8.0;9.0a+PTX", "Hopper", "10.0f", "90"])
def test_architectures_that_deepspeed_cannot_read_are_those_of_the_gpus(monkeypatch, value):
    """As NVIDIA's images set them: 9.0a."""
    is_read = reads(value, monkeypatch)
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", value)
    process.forget_architectures()
    assert os.environ.get("TORCH_CUDA_ARCH_LIST") == (value if is_read else None)
