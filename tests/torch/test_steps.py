"""The arithmetic of a run, and how a step's rows are cut."""

import heapq

import numpy as np
import pytest
import torch

from sft.run.records import Split
from sft.settings.load import load
from sft.settings.stages import resolve
from sft.steps import Steps
from sft.trainer import batching
from sft.trainer.data import row_writer
from sft.trainer.data.rows import Rows, TokenisedRow
from tests.settings import decided


def test_gsm8k_on_four_gpus():
    settings = resolve(load(None, max_epochs=1), "cuda", "local")
    steps = Steps.of(settings, 7473)
    assert (steps.global_batch_size, steps.per_epoch, steps.total) == (16, 468, 468)
    assert steps.describe(settings) == [
        "4 sequences x 4 GPUs = 16 per step",
        "7,473 rows / 16 = 468 steps an epoch, x 1 epoch = 468 steps",
    ]


def test_a_global_batch_size_says_how_many_rows_a_padded_micro_step_has():
    packed = decided(global_batch_size=7)
    assert Steps.of(packed, 57).describe(packed)[0] == "7 sequences per step over 4 processes"
    padded = decided(global_batch_size=7, packing=False)
    assert (
        Steps.of(padded, 57).describe(padded)[0] == "7 sequences per step over 4 processes, 4 at once on each at most"
    )


def test_max_steps_limits():
    settings = decided(max_steps=10, gradient_accumulation_steps=2)
    steps = Steps.of(settings, 7473)
    assert steps.total == 10
    assert steps.describe(settings)[0] == "4 sequences x 4 processes x 2 micro-steps = 32 per step"
    assert steps.describe(settings)[1] == "7,473 rows / 32 = 234 steps an epoch, 10 steps: MAX_STEPS"


@pytest.mark.parametrize(("schedule", "middle"), [("constant", 1.0), ("linear", 0.5), ("cosine", 0.5)])
def test_schedules(schedule, middle):
    settings = load(None, lr_scheduler=schedule, learning_rate=1.0, warmup_ratio=0.1, max_steps=110)
    steps = Steps.of(settings, 10_000)
    rates = [steps.learning_rate(settings, step) for step in range(steps.total)]
    assert steps.warmup == 11
    assert rates[:3] == pytest.approx([1 / 11, 2 / 11, 3 / 11]) and rates[10:12] == [1.0, 1.0]
    assert (rates[60] + rates[61]) / 2 == pytest.approx(middle, abs=0.01)
    assert min(rates) > 0 and max(rates) == 1.0


def test_an_epoch_takes_every_row_once_in_an_order_of_its_own():
    epochs = [[batching.rows_of_step(epoch * 4 + i, 10, 3, seed=1) for i in range(4)] for epoch in range(2)]
    for epoch in epochs:
        assert [len(rows) for rows in epoch] == [3, 3, 3, 1]
        assert sorted(np.concatenate(epoch)) == list(range(10))
    assert not np.array_equal(np.concatenate(epochs[0]), np.concatenate(epochs[1]))


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
@pytest.mark.parametrize("number", [1, 5, 16, 64])
@pytest.mark.parametrize("packing", [True, False])
def test_micro_steps_hold_every_row_once_on_any_number_of_ranks(world_size, number, packing):
    lengths = np.random.default_rng(0).integers(3, 50, 100)
    chosen = batching.rows_of_step(0, 100, number, seed=2)
    settings = load(None, nodes=1, gpus_per_node=world_size, batch_size=2, max_tokens_per_micro_step=60, max_length=50)
    cut = batching.micro_steps(chosen, lengths, settings, packing)
    assert all(len(per_rank) == world_size for per_rank in cut)
    shares = [rows for per_rank in cut for rows in per_rank]
    assert sorted(np.concatenate(shares)) == sorted(chosen)
    if packing:
        assert max(int(lengths[rows].sum()) for rows in shares) <= 60
    else:
        assert max(len(rows) for rows in shares) <= 2


def test_padded_micro_steps_have_rows_of_similar_lengths():
    lengths = np.random.default_rng(0).gamma(4, 45, 7473).astype(np.int64) + 2  # about as long as GSM8K's rows
    positions, tokens = 0, 0
    for step in range(20):
        chosen = batching.rows_of_step(step, len(lengths), 64, seed=1)
        cut = batching.padded_micro_steps(chosen, lengths, world_size=4, batch_size=4)
        assert [len(share) for per_rank in cut for share in per_rank] == [4] * 16
        positions += sum(batching.tokens(share, lengths, packing=False) for per_rank in cut for share in per_rank)
        tokens += int(lengths[chosen].sum())
    assert positions < 1.1 * tokens  # 1.5 in the order of the rows


def test_packed_shares_are_few_and_nearly_equal():
    lengths = np.random.default_rng(0).gamma(4, 45, 7473).astype(np.int64) + 2  # about as long as GSM8K's rows
    for step in range(5):
        chosen = batching.rows_of_step(step, len(lengths), 256, seed=0)
        cut = batching.packed_micro_steps(chosen, lengths, world_size=4, max_tokens=8192)
        tokens = [[int(lengths[rows].sum()) for rows in per_rank] for per_rank in cut]
        assert len(cut) == -(-int(lengths[chosen].sum()) // (4 * 8192))
        assert max(map(max, tokens)) < 1.02 * min(map(min, tokens))


def test_a_row_longer_than_the_budget_is_alone():
    lengths = np.array([100, 10, 10, 10])
    cut = batching.packed_micro_steps(np.arange(4), lengths, world_size=1, max_tokens=32)
    assert sorted(sorted(rows.tolist()) for per_rank in cut for rows in per_rank) == [[0], [1, 2, 3]]


def by_trying_every_number(lengths, world_size, max_tokens):
    """Return the tokens of all shares of the fewest micro-steps whose lightest share can always take the next row."""
    limit = max(max_tokens, int(lengths.max()))
    number = -(-int(lengths.sum()) // (world_size * limit))
    while True:
        shares = [0] * (number * world_size)
        for size in sorted(lengths.tolist(), reverse=True):
            heapq.heapreplace(shares, shares[0] + size)
        if max(shares) <= limit:
            return sorted(shares, reverse=True)
        number += 1


KINDS = {
    "all-above-half": lambda random, n: random.integers(600, 1025, n),
    "two-fit": lambda random, n: random.integers(340, 560, n),
    "long-and-short": lambda random, n: np.where(np.arange(n) % 2, random.integers(5, 100, n), 900),
    "any": lambda random, n: random.integers(1, 1100, n),
    "like-gsm8k": lambda random, n: random.gamma(4, 45, n).astype(np.int64) + 2,
}


@pytest.mark.parametrize("kind", KINDS)
def test_packing_takes_no_more_micro_steps_than_trying_every_number_and_works_as_evenly(kind):
    random = np.random.default_rng(0)
    slower = []
    for _ in range(150):
        world_size, budget = random.choice([1, 2, 4]), int(random.choice([600, 1100, 4096]))
        lengths = KINDS[kind](random, random.integers(1, 200)).astype(np.int64)
        everything = random.permutation(len(lengths))
        cut = batching.packed_micro_steps(everything, lengths, world_size, budget)
        shares = [share for per_rank in cut for share in per_rank]
        assert sorted(np.concatenate(shares)) == sorted(everything)
        assert all(len(per_rank) == world_size for per_rank in cut)
        tokens = [int(lengths[share].sum()) for share in shares]
        before = by_trying_every_number(lengths, world_size, budget)
        assert max(tokens) <= max(budget, max(lengths))
        assert len(tokens) <= len(before)
        assert batching.fewest_shares(lengths, max(budget, max(lengths))) <= sum(1 for total in tokens if total)
        # The heaviest share of each micro-step is what its other ranks wait for.
        slower.append(sum(sorted(tokens, reverse=True)[::world_size]) / sum(before[::world_size]))
    assert np.mean(slower) < 1.01


def test_packing_many_long_rows_places_each_row_a_few_times_at_most(monkeypatch):
    placed = []
    for name in ("even_shares", "full_shares"):
        own = getattr(batching, name)
        monkeypatch.setattr(
            batching, name, lambda sizes, *rest, own=own: placed.append(len(sizes)) or own(sizes, *rest)
        )
    random = np.random.default_rng(0)
    for kind, make in KINDS.items():
        placed.clear()
        lengths = make(random, 5_000).astype(np.int64)
        batching.packed_micro_steps(np.arange(len(lengths)), lengths, 1, 1100)
        assert len(placed) <= 4, kind


@pytest.fixture
def rows(tmp_path):
    written = [
        TokenisedRow([1, 5, 6, 7], [False, False, True, True], "a", "b", answer_start=2),
        TokenisedRow([1, 8], [False, True], "c", "d"),
        TokenisedRow([1, 2, 3, 4, 5, 6], [False, True, True, False, True, True], "e", "f", answer_start=4),
    ]
    counts = row_writer.write(tmp_path / "train", iter(written))
    assert counts == Split(rows=3, tokens=12, target_tokens=7, longest=6, cut_rows=0)
    return Rows(tmp_path / "train")


def test_rows_come_back_as_written(rows):
    assert len(rows) == 3 and rows.lengths.tolist() == [4, 2, 6]
    assert rows[0][0].tolist() == [1, 5, 6, 7] and rows[2][1].tolist() == [False, True, True, False, True, True]
    assert [text.reference for text in rows.texts()] == ["b", "d", "f"]
    assert rows.asked().tolist() == [0, 2]  # the second one is another answer of the third one's row
    assert rows.prompt_ids(0) == [1, 5] and rows.prompt_ids(2) == [1, 2, 3, 4]
    assert rows.target_tokens(np.array([0, 1])) == 3
    for chosen in (np.array([0]), np.array([2, 1]), np.arange(3)):
        assert rows.target_tokens(chosen) == len(batching.collate(rows.take(chosen), True, torch.device("cpu")).targets)


def test_padded_rows(rows):
    batch = batching.collate(rows.take([0, 1]), False, torch.device("cpu"))
    assert batch.input_ids.tolist() == [[1, 5, 6, 7], [1, 8, 8, 8]]
    assert batch.attention_mask.tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert batch.packed is None
    assert (batch.predicting.tolist(), batch.targets.tolist()) == ([1, 2, 4], [6, 7, 8])


def test_packed_rows(rows):
    batch = batching.collate(rows.take([0, 1]), True, torch.device("cpu"))
    assert batch.input_ids.tolist() == [[1, 5, 6, 7, 1, 8]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 0, 1]]
    assert (batch.packed.starts.tolist(), batch.packed.lengths) == ([0, 4, 6], [4, 2])
    assert batch.attention_mask is None
    assert (batch.predicting.tolist(), batch.targets.tolist()) == ([1, 2, 4], [6, 7, 8])


@pytest.mark.parametrize("packing", [True, False])
def test_a_rank_without_rows_takes_part_without_targets(rows, packing):
    batch = batching.collate(rows.take([]), packing, torch.device("cpu"))
    assert batch.input_ids.shape == (1, 2) and len(batch.predicting) == len(batch.targets) == 0
