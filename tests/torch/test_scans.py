"""The state space and the delta rule are transformers' own, forward and backward, for packed sequences too."""

import inspect

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from transformers.models.kimi_linear import modeling_kimi_linear
from transformers.models.mamba2 import modeling_mamba2
from transformers.models.qwen3_5 import modeling_qwen3_5

from sft.trainer import packed
from sft.trainer.loss import TargetLoss
from sft.trainer.model import scans
from sft.trainer.model.delta_rule import CHUNK, Chunks, Inverse
from sft.trainer.packed import Packed

from .small_models import model_of

LENGTHS = [70, 1, 64, 130, 5]
TOKENS = sum(LENGTHS)
DELTA_RULE = modeling_qwen3_5.torch_chunk_gated_delta_rule
STATE_SPACE = modeling_mamba2.mamba2_chunk_scan
STATIC = {"dt_softplus": True, "dt_limit": (0.0, 2.0), "chunk_size": 256, "use_qk_l2norm_in_kernel": True}


@pytest.fixture(autouse=True)
def nothing_noted():
    yield
    packed.note(None)


def arguments(plain):
    """Random arguments for packed sequences, with half as many groups as heads."""
    torch.manual_seed(0)
    random = torch.randn
    if "query" in inspect.signature(plain).parameters:
        sizes = {"query": (2, 8), "key": (2, 8), "value": (4, 6)}
        found = {name: random(1, TOKENS, *size) for name, size in sizes.items()}
        found["key"] += 1  # keys that are alike: large numbers in the inverse
        return found | {"g": -0.1 * F.softplus(random(1, TOKENS, 4)), "beta": random(1, TOKENS, 4).sigmoid()}
    found = {"hidden_states": random(1, TOKENS, 4, 6), "dt": random(1, TOKENS, 4), "A": -4 * torch.rand(4)}
    return found | {name: random(1, TOKENS, 2, 8) for name in "BC"} | {"D": random(4), "dt_bias": random(4)}


def results(function, given, weights):
    """The output and the gradient of every tensor."""
    tensors = {name: value.clone().requires_grad_() for name, value in given.items()}
    taken = {name: value for name, value in STATIC.items() if name in inspect.signature(function).parameters}
    output = function(**tensors, **taken)
    output = output[0] if isinstance(output, tuple) else output
    (output * weights).sum().backward()
    return [output.detach(), *(value.grad for value in tensors.values())]


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("function", [DELTA_RULE, STATE_SPACE], ids=["delta rule", "state space"])
def test_packed_sequences_have_the_results_and_gradients_of_each_alone(function, fast):
    plain = inspect.unwrap(function)
    mixing = scans.Mixing(plain, scans.kind_of(plain))
    mixing.is_fast = fast and mixing.has_fast
    assert mixing.is_fast is fast
    given = arguments(plain)
    heads, size = (4, 6)
    weights = torch.randn(1, TOKENS, heads, size)
    starts = np.concatenate(([0], np.cumsum(LENGTHS))).astype(np.int32)
    packed.note(Packed(torch.from_numpy(starts), LENGTHS))
    found = results(mixing, given, weights)
    packed.note(None)
    alone = []
    for start, length in zip(starts, LENGTHS, strict=False):
        one = {name: value[:, start : start + length] if value.dim() > 1 else value for name, value in given.items()}
        alone.append(results(plain, one, weights[:, start : start + length]))
    for i, part in enumerate(found):
        parts = [result[i] for result in alone]
        expected = torch.cat(parts, 1) if part.dim() > 1 else sum(parts)
        assert (part - expected).norm() <= 5e-5 * expected.norm()


@pytest.mark.parametrize("function", [DELTA_RULE, STATE_SPACE], ids=["delta rule", "state space"])
def test_rows_of_a_batch_have_the_results_and_gradients_of_transformers_own(function):
    plain = inspect.unwrap(function)
    mixing = scans.Mixing(plain, scans.kind_of(plain))
    mixing.is_fast = mixing.has_fast
    half = TOKENS // 2
    given = {
        name: value[:, : 2 * half].reshape(2, half, *value.shape[2:]) if value.dim() > 1 else value
        for name, value in arguments(plain).items()
    }
    weights = torch.randn(2, half, 4, 6)
    for part, expected in zip(results(mixing, given, weights), results(plain, given, weights), strict=True):
        assert (part - expected).norm() <= 5e-5 * expected.norm()


def test_sequences_are_cut_into_chunks_that_lie_side_by_side():
    chunks = Chunks.of([3, 2 * CHUNK + 1, CHUNK], torch.device("cpu"))
    assert chunks.sizes == [3, 1, 1]
    first, second, third, *later = chunks.places.unflatten(0, (-1, CHUNK)).tolist()
    assert first == list(range(3, 3 + CHUNK)) and second == list(range(2 * CHUNK + 4, 3 * CHUNK + 4))
    assert third == [0, 1] + [2] * (CHUNK - 2)
    assert later == [list(range(3 + CHUNK, 3 + 2 * CHUNK)), [3 + 2 * CHUNK] * CHUNK]
    assert chunks.is_token[:, 0, :, 0].sum(1).tolist() == [CHUNK, CHUNK, 3, CHUNK, 1]
    assert torch.equal(chunks.places[chunks.back], torch.arange(3 * CHUNK + 4))


def test_the_inverse_is_exact_where_powers_of_the_matrix_are_huge():
    lower = torch.full((2, CHUNK, CHUNK), 0.9, dtype=torch.float64).tril(-1).requires_grad_()
    torch.testing.assert_close(
        Inverse.apply(lower) @ (lower + torch.eye(CHUNK)), torch.eye(CHUNK).double()[None].expand(2, -1, -1)
    )
    weights = torch.randn(2, CHUNK, CHUNK, dtype=torch.float64)
    own = torch.autograd.grad((torch.linalg.inv(lower.tril(-1) + torch.eye(CHUNK)) * weights).sum(), lower)
    torch.testing.assert_close(torch.autograd.grad((Inverse.apply(lower) * weights).sum(), lower), own)


def test_a_function_with_the_same_arguments_that_computes_something_else_has_no_faster_version():
    kimi = inspect.unwrap(modeling_kimi_linear.chunk_kimi_delta_attention)  # a decay for each channel
    kind = scans.kind_of(kimi)
    assert kind is not None and kind.fast and not scans.Mixing(kimi, kind).has_fast


def test_generation_keeps_the_states_of_transformers_own_functions():
    config = transformers.Mamba2Config(
        vocab_size=64, hidden_size=32, num_hidden_layers=2, num_heads=8, head_dim=8, state_size=8, n_groups=1
    )
    model = model_of(config).eval()
    ids = torch.arange(1, 12)[None]
    before = model.generate(ids, max_new_tokens=5, do_sample=False)
    TargetLoss(model)
    scans.use(model, scans.names(model))
    packed.note(Packed(torch.tensor([0, 4, 11], dtype=torch.int32), [4, 7]))  # of an earlier micro-batch, as long
    try:
        after = model.generate(ids, max_new_tokens=5, do_sample=False)
    finally:
        scans.use(model, [])
    assert torch.equal(before, after)
