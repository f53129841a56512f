"""Out of memory: which errors mean it, how much smaller the budget gets, for how long, and what is tried before."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sft import hostfile
from sft.errors import RunFailed
from sft.run import budget, lifecycle
from sft.run.budget import ROWS, TOKENS
from sft.run.records import Cut
from sft.settings import rules
from sft.steps import Steps
from sft.trainer import batching, causes, dry_run, oom
from sft.trainer.data import row_writer
from sft.trainer.data import rows as data
from sft.trainer.distributed import World
from tests.settings import decided

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("setting", "size", "longest", "now"),
    [
        (TOKENS, 8192, 561, 6144),
        (TOKENS, 6144, 561, 4608),
        (TOKENS, 1110, 561, 768),
        (TOKENS, 700, 561, 561),
        (TOKENS, 561, 561, None),
        (TOKENS, 500, 561, None),
        (ROWS, 4, 561, 3),
        (ROWS, 2, 561, 1),
        (ROWS, 1, 561, None),
    ],
)
def test_a_budget_gets_three_quarters_and_never_less_than_the_longest_row(setting, size, longest, now):
    assert budget.smaller(setting, size, longest) == now


@given(st.sampled_from((TOKENS, ROWS)), st.integers(1, 10**6), st.integers(1, 10**5))
def test_cuts_come_to_an_end(setting, size, longest):
    cuts = 0
    while (now := budget.smaller(setting, size, longest)) is not None:
        assert now < size and (setting == ROWS or now >= longest)
        size, cuts = now, cuts + 1
    assert cuts < 60


def run_of(folder, **settings):
    return lifecycle.create(decided(runs_path=folder, **settings), hostfile.hostfile(2, 2))


def test_a_cut_holds_for_the_ranks_until_the_user_asks_for_another_budget(tmp_path):
    run = run_of(tmp_path)
    settings = run.settings()
    assert dict(budget.effective(run, settings)) == dict(settings)
    for now in (6144, 4608):
        found = Cut(
            setting=TOKENS, configured=8192, failed_size=8192, limit=now, step="step 17", phase="backward", rank=2
        )
        budget.write(run, [*budget.cuts(run), found])
    (first, _) = map(budget.in_words, budget.cuts(run))
    assert first == "out of memory in step 17 (backward, rank 2) at 8,192 tokens a micro-step"
    assert budget.effective(run, settings).max_tokens_per_micro_step == 4608
    assert budget.effective(run, settings.model_copy(update={TOKENS: 2048})).max_tokens_per_micro_step == 2048
    for same in (None, 8192):  # auto, and what did not fit
        (line,) = budget.revise(run, settings.model_copy(update={TOKENS: same}))
        assert line.endswith("before: continuing with 4,608; set MAX_TOKENS_PER_MICRO_STEP to change it")
        assert budget.effective(run, settings).max_tokens_per_micro_step == 4608
    assert budget.revise(run, settings.model_copy(update={TOKENS: 7000})) == []
    assert dict(budget.effective(run, settings)) == dict(settings) and budget.cuts(run) == []


def test_padded_micro_steps_get_fewer_rows_and_the_global_batch_stays(tmp_path):
    run = run_of(tmp_path, packing=False, gradient_accumulation_steps=2)
    settings = run.settings()
    budget.write(run, [Cut(setting=ROWS, configured=4, failed_size=4, limit=3, step="step 1", phase="forward", rank=0)])
    effective = budget.effective(run, settings)
    assert effective.batch_size == 3 and effective.sequences_per_step == settings.sequences_per_step == 32
    assert not rules.contradictions(effective) and not rules.differences(effective, settings)
    chosen, lengths = np.arange(32), np.full(32, 10)
    assert max(len(share) for step in batching.micro_steps(chosen, lengths, effective, False) for share in step) <= 3


def wrapped(error):
    try:
        try:
            raise error
        except BaseException as inner:
            raise RuntimeError("the compiled graph failed") from inner
    except RuntimeError as outer:
        return outer


def words(text):
    return RuntimeError(text)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        words("CUDA error: out of memory"),
        words("CUDA driver error: out of memory"),
        words("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        words(
            "NCCL error: unhandled cuda error (run with NCCL_DEBUG=INFO)\nLast error:\nCuda failure 2 'out of memory'"
        ),
    ],
    ids=["torch", "cuda", "driver", "cublas", "nccl"],
)
def test_errors_that_mean_the_memory_of_a_gpu(error):
    for found in (error, wrapped(error)):
        assert causes.is_of_gpu(found) and not causes.is_of_host(found)
        with pytest.raises(oom.OutOfMemory), oom.part("backward"):
            raise found


@pytest.mark.parametrize(
    "error",
    [
        words("[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
        MemoryError(),
        OSError(12, "Cannot allocate memory"),
    ],
    ids=["torch", "python", "system"],
)
def test_errors_that_mean_the_memory_of_the_machine_have_a_line_of_their_own(error, tmp_path):
    assert causes.is_of_host(error) and not causes.is_of_gpu(error)
    assert oom.reason(error, run_of(tmp_path)).startswith("out of memory of the machine; ")


def test_what_helps_outside_of_a_step_depends_on_what_was_done(tmp_path):
    run, error = run_of(tmp_path, lora_rank=4), torch.OutOfMemoryError("CUDA out of memory.")
    wanted = "out of memory of a GPU; use GRADIENT_CHECKPOINTING=1, DS_CONFIG=zero3_offload, more GPUs or a smaller "
    assert oom.reason(error, run).startswith(wanted)
    run.update_state("evaluating")
    assert oom.reason(error, run).startswith("out of memory of a GPU; use EVAL_BATCH_SIZE=1, ")


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({}, "DS_CONFIG=zero3_offload, OPTIMIZER_BITS=16, LORA_RANK=16, more GPUs"),
        ({"ds_config": "zero3_offload"}, "OPTIMIZER_BITS=16 DS_CONFIG=zero3, LORA_RANK=16, more GPUs"),
        ({"optimizer_bits": 16}, "DS_CONFIG=zero3_offload OPTIMIZER_BITS=32, LORA_RANK=16, more GPUs"),
        ({"lora_rank": 4}, "DS_CONFIG=zero3_offload, more GPUs"),
        ({"precision": "fp32"}, "DS_CONFIG=zero3_offload, LORA_RANK=16, more GPUs"),
    ],
)
def test_what_needs_less_memory_goes_with_the_other_settings(settings, wanted):
    given = {"precision": "bf16", "gradient_checkpointing": True} | settings
    assert oom.remedies(decided(**given)).startswith(wanted)


@pytest.mark.parametrize(
    "text", ["Connection reset by peer", "NCCL communicator was aborted", "CUDA error: misaligned"]
)
def test_other_errors_are_no_want_of_memory(text, tmp_path):
    assert oom.reason(words(text), run_of(tmp_path)) == ""
    with pytest.raises(RuntimeError, match=text), oom.part("forward"):
        raise words(text)


def rows_of(folder, lengths):
    row_writer.write(folder, [data.TokenisedRow([5] * n, [True] * n, "", "") for n in lengths])
    return data.Rows(folder)


class Saves:
    """What a Limit wants of a Saver: that a save in flight ends first."""

    finished = 0

    def finish(self):
        self.finished += 1


def limit_of(run, rows, packing=True):
    settings = budget.effective(run, run.settings())
    alone = World(0, 0, 1, torch.device("cpu"))
    return oom.Guard(run, settings, rows, Steps.of(settings, len(rows)), packing, Saves(), alone)


def run_out(limit, step, phase, shares):
    micro_steps = [[np.asarray(share)] for share in shares]
    with pytest.raises(RunFailed) as caught, limit.guard(step, micro_steps), oom.part(phase):
        raise torch.OutOfMemoryError("CUDA out of memory.")
    return str(caught.value)


@pytest.mark.parametrize(("packing", "size", "now"), [(True, 900, 512), (False, 3, 2)])
def test_a_step_that_does_not_fit_cuts_the_budget_below_its_largest_micro_step(tmp_path, packing, size, now):
    run, rows = run_of(tmp_path, packing=packing), rows_of(tmp_path / "rows", [300] * 8)
    limit = limit_of(run, rows, packing)
    said = run_out(limit, "step 3", "forward", [[0, 1], [2, 3, 4]])
    unit = "tokens" if packing else "rows"
    assert (
        said == f"out of memory in step 3 (forward, rank 0) at {size} {unit} a micro-step; the next attempt uses {now}"
    )
    assert [(cut.failed_size, cut.limit, cut.phase) for cut in budget.cuts(run)] == [(size, now, "forward")]
    assert limit.saver.finished == 1
    run_out(limit_of(run, rows, packing), "step 5", "backward", [[0, 1]])
    assert [cut.step for cut in budget.cuts(run)] == ["step 3", "step 5"]


def test_an_optimizer_without_room_is_not_cut_twice_in_the_same_step(tmp_path):
    run, rows = run_of(tmp_path), rows_of(tmp_path / "rows", [300] * 8)
    run_out(limit_of(run, rows), "step 1", "optimizer", [[0, 1, 2, 3]])
    said = run_out(limit_of(run, rows), "step 1", "optimizer", [[0, 1, 2]])
    assert "and smaller ones have not helped; use GRADIENT_CHECKPOINTING=1, DS_CONFIG=zero3_offload, " in said
    assert len(budget.cuts(run)) == 1


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("first", [0, 7])
@pytest.mark.parametrize("tokens", [150, 4000])
def test_the_largest_micro_step_of_the_coming_steps_is_tried(tmp_path, packing, first, tokens):
    lengths = np.random.default_rng(0).integers(3, 120, 100)
    rows = rows_of(tmp_path / "rows", lengths)
    settings = decided(global_batch_size=16, max_steps=10, max_tokens_per_micro_step=tokens, max_length=120)
    steps = Steps.of(settings, len(rows))
    coming = [
        batching.micro_steps(batching.rows_of_step(step, 100, 16, settings.seed), lengths, settings, packing)
        for step in range(first, steps.total)
    ]
    wanted = max(batching.tokens(share, lengths, packing) for cut in coming for step in cut for share in step)
    found = dry_run.largest_micro_steps(rows, steps, first, settings, packing)
    assert {batching.tokens(share, lengths, packing) for step in found for share in step} == {wanted}
    assert all(len(per_rank) == settings.world_size for per_rank in found) and 1 <= len(found) <= 2


def test_of_very_many_steps_one_of_the_largest_is_found(tmp_path, monkeypatch):
    lengths = np.random.default_rng(1).integers(3, 600, 5000)
    rows = rows_of(tmp_path / "rows", lengths)
    settings = decided(global_batch_size=8, max_epochs=2)
    steps = Steps.of(settings, len(rows))
    found = dry_run.largest_micro_steps(rows, steps, 0, settings, True)
    monkeypatch.setattr(dry_run, "STEPS_SPLIT", steps.total)
    exact = dry_run.largest_micro_steps(rows, steps, 0, settings, True)
    tokens = [int(lengths[per_rank[0][0]].sum()) for per_rank in (found, exact)]
    assert 0.97 * tokens[1] <= tokens[0] <= tokens[1]


def said_by(module, tiny):
    """Return the JSON that a program of the tests prints of a model."""
    program = [sys.executable, "-m", f"tests.torch.{module}", str(tiny)]
    done = subprocess.run(
        program, cwd=ROOT, env=os.environ | {"DS_ACCELERATOR": "cpu"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.strip().splitlines()[-1])


def test_a_dry_run_leaves_no_trace_in_any_stage(tiny):
    found = said_by("dry_run_bits", tiny)
    assert len(found) == 7 and [name for name, same in found.items() if not same] == []


def test_layers_that_are_compiled_wrongly_are_trained_as_they_are_or_refused(tiny):
    found = said_by("compiled_ways", tiny)
    words = {"right": "", "values": "compute something else", "gradients": "the gradient of 19 weights"}
    words |= {"fails": "compiled layers cannot be computed (RuntimeError: no such kernel); set COMPILE=0"}
    for case, (said, norm) in found.items():
        word = words[case.split()[0]]
        assert word in "".join(said) and bool(said) == bool(word), (case, said)
        assert norm == (None if "fails" in case else pytest.approx(found["right 2"][1], rel=1e-4))
    assert len(found) == 8
