"""AdamW with weights and moments in 16 bits: what rounding to the nearest value would lose is there on average."""

import copy

import pytest
import torch

from sft.trainer import optimizer
from sft.trainer.optimizer import Bf16AdamW, round_stochastically

SEED = 42


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def rounded(values, seed=0):
    out = torch.empty(values.shape, dtype=torch.bfloat16)
    round_stochastically(values, out, generator(seed))
    return out


@pytest.mark.parametrize("value", [1.0 + 1e-3, -0.02 - 1e-6, 3e-9, 1e-40, 1.999])
def test_the_mean_of_many_roundings_is_the_value(value):
    number = 200_000
    found = rounded(torch.full((number,), value))
    below, above = sorted({*found.tolist()}, key=abs)
    assert abs(below) < abs(value) < abs(above)
    lower, upper = torch.tensor([below, above], dtype=torch.bfloat16).view(torch.int16).tolist()
    assert upper - lower == 1  # neighbours
    deviation = abs(above - below) / 2 / number**0.5  # of the mean, at most
    assert abs(found.double().mean().item() - value) < 4 * deviation


def test_what_16_bits_hold_stays_and_what_is_not_finite_too():
    values = torch.randn(1000).bfloat16().float()
    values[:4] = torch.tensor([0.0, -0.0, float("inf"), float("-inf")])
    assert torch.equal(rounded(values).float(), values)
    # NaNs of all kinds: a sum would carry out of the one whose bits are all set.
    bits = torch.tensor([0x7FFFFFFF, -1, 0x7FC00000, 0x7F800001], dtype=torch.int32)
    assert rounded(bits.view(torch.float32)).isnan().all()


def trained(make, weights, steps, dtype=torch.bfloat16):
    """Return weights after steps along a gradient of 1, and the optimizer's states."""
    parameter = torch.nn.Parameter(weights.to(dtype, copy=True))
    found = make([{"params": [parameter], "weight_decay": 0.0}])
    for _ in range(steps):
        parameter.grad = torch.ones_like(parameter)
        found.step()
    return parameter.detach().float(), found.state[parameter]


def test_small_updates_add_up_where_plain_bf16_stands_still():
    weights = torch.full((20_000,), 0.02).bfloat16().float()
    exact, of_exact = trained(lambda groups: torch.optim.AdamW(groups, lr=1e-6), weights, 50, torch.float32)
    plain, _ = trained(lambda groups: torch.optim.AdamW(groups, lr=1e-6), weights, 50)
    ours, of_ours = trained(lambda groups: Bf16AdamW(groups, 1e-6, SEED, 0), weights, 50)
    assert torch.equal(plain, weights)
    moved = (weights - exact).double().mean()
    assert moved > 3e-5
    assert (weights - ours).double().mean().item() == pytest.approx(moved.item(), rel=0.1)
    for name in ("exp_avg", "exp_avg_sq"):
        wanted = of_exact[name].double().mean().item()
        assert of_ours[name].dtype == torch.bfloat16
        assert of_ours[name].double().mean().item() == pytest.approx(wanted, rel=0.01)


def test_a_second_moment_follows_gradients_that_shrink():
    """Rounded to the nearest value it would stay: a step changes it by 0.1 %, half a unit is 0.2 %."""

    def square(make, dtype):
        parameter = torch.nn.Parameter(torch.zeros(5000, dtype=dtype))
        found = make([{"params": [parameter], "weight_decay": 0.0}])
        for step in range(300):
            parameter.grad = torch.full_like(parameter, 1.0 if step < 100 else 0.01)
            found.step()
        return found.state[parameter]["exp_avg_sq"].double().mean().item()

    exact = square(torch.optim.AdamW, torch.float32)
    assert square(lambda groups: Bf16AdamW(groups, 1e-3, SEED, 0), torch.bfloat16) == pytest.approx(exact, rel=0.01)
    assert square(torch.optim.AdamW, torch.bfloat16) != pytest.approx(exact, rel=0.1)


def test_a_resumed_optimizer_goes_on_to_the_bit(monkeypatch):
    monkeypatch.setattr(optimizer, "OPTIMIZER_PIECE", 300)  # several pieces, the last of them short
    torch.manual_seed(0)
    parts = [torch.nn.Parameter(torch.randn(size).bfloat16()) for size in (1000, 7)]
    gradients = [[torch.randn(len(part)).bfloat16() for part in parts] for _ in range(6)]

    def step(one, tensors, number):
        for tensor, gradient in zip(tensors, gradients[number], strict=True):
            tensor.grad = gradient.clone()
        one.step()

    undisturbed = Bf16AdamW([{"params": parts}], 1e-3, SEED, 1)
    for number in range(3):
        step(undisturbed, parts, number)
    again = [torch.nn.Parameter(part.detach().clone()) for part in parts]
    resumed = Bf16AdamW([{"params": again}], 1e-3, SEED, 1)
    resumed.load_state_dict(copy.deepcopy(undisturbed.state_dict()))
    for number in range(3, 6):
        step(undisturbed, parts, number)
        step(resumed, again, number)
    assert all(torch.equal(one, other) for one, other in zip(parts, again, strict=True))


def test_every_seed_step_rank_and_tensor_has_random_bits_of_its_own():
    seeds = {
        optimizer.seed_of(seed, step, rank, place)
        for seed in (0, 42)
        for step in range(50)
        for rank in range(4)
        for place in range(4)
    }
    assert len(seeds) == 2 * 50 * 4 * 4 and min(seeds) >= 0
