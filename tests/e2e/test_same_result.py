"""What a step means: the loss curve is that of plain PyTorch, on any ranks, and if a run resumes on others than before.

One file, so that one process has the runs that its tests compare.
"""

import functools
import json
import math

import pytest
import torch

from sft.trainer import batching
from sft.trainer.data.rows import Rows
from sft.trainer.model import published

from .conftest import RANKS, STEPS
from .project import CURVE, metrics, small, stopped


def plain_pytorch(run, project):
    """Train on the run's data with AdamW and nothing of the project's trainer but the order of the rows."""
    settings, prepared = run.settings(), json.loads(run.prepared.read_text())
    rows = Rows(project.path / prepared["data"] / "train")
    model = published.from_pretrained(project.path / prepared["model"], dtype=torch.float32)
    matrices = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    vectors = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate)
    steps, warmup, found = 12, 3, []
    for step in range(steps):
        chosen = batching.rows_of_step(step, len(rows), 8, settings.seed)
        width = max(rows.lengths[chosen])
        ids, mask = torch.zeros(8, width, dtype=torch.long), torch.zeros(8, width, dtype=torch.long)
        labels = torch.full((8, width), -100)
        for i, index in enumerate(chosen):
            tokens, is_target = (torch.from_numpy(part.copy()) for part in rows[int(index)])
            ids[i, : len(tokens)], mask[i, : len(tokens)] = tokens.long(), 1
            labels[i, : len(tokens)] = torch.where(is_target, tokens.long(), -100)
        loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss  # transformers' own mean over targets
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        peak = (
            (step + 1) / warmup if step < warmup else (1 + math.cos(math.pi * (step - warmup) / (steps - warmup))) / 2
        )
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * peak
        optimizer.step()
        found.append([step + 1, loss.item(), float(norm)])
    return found


def test_two_nodes_agree_with_plain_pytorch(base, project):
    found = metrics(base, "step", "train/loss", "train/grad_norm")
    assert len(found) == 12
    for seen, wanted in zip(found, plain_pytorch(base, project), strict=True):
        assert seen == pytest.approx(wanted, rel=2e-5)


@pytest.mark.parametrize("ranks", [1, 4])
def test_any_number_of_ranks_gives_the_same_losses(on_ranks, base, ranks):
    names = ("step", "train/loss", "train/grad_norm", "train/lr", "train/target_tokens")
    for seen, wanted in zip(metrics(on_ranks(ranks), *names), metrics(base, *names), strict=True):
        assert seen == pytest.approx(wanted, rel=2e-5)


def test_packed_and_padded_give_the_same_losses(project):
    packed, padded = (
        project.train(
            f"packing-{packing}", GLOBAL_BATCH_SIZE=8, BATCH_SIZE=2, WEIGHT_DECAY=0.1, WARMUP_RATIO=0.2,
            PACKING=packing, MAX_TOKENS_PER_MICRO_STEP=128, MAX_STEPS=50,
        )
        for packing in (1, 0)
    )  # fmt: skip
    names = ("step", "train/loss", "train/grad_norm", "train/target_tokens")
    found = metrics(packed, *names)
    assert len(found) == 50
    for seen, wanted in zip(found, metrics(padded, *names), strict=True):
        assert seen == pytest.approx(wanted, rel=2e-5)


SAVED = 6


@pytest.fixture(scope="module")
def of_another_kind(project):
    """Return what gives a finished run over two nodes with another DS_CONFIG than zero3."""
    return functools.cache(lambda kind: project.train(kind, SAVE_STEPS=SAVED, DS_CONFIG=kind, **STEPS, **RANKS[2]))


def test_weights_that_persist_and_other_stages_give_the_same_losses(project, base, of_another_kind, tmp_path):
    kept = tmp_path / "kept.json"
    kept.write_text(json.dumps({"zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 10**9}}))
    for run in (project.train("stage-kept", DS_CONFIG=kept, **STEPS, **RANKS[2]), of_another_kind("zero2")):
        for seen, wanted in zip(metrics(run, "train/loss"), metrics(base, "train/loss"), strict=True):
            assert seen == pytest.approx(wanted, rel=2e-5)


# Resumed


@pytest.mark.parametrize(("before", "now"), [(1, 2), (2, 4), (4, 1)])
def test_resumed_on_other_ranks_the_losses_are_the_same(project, on_ranks, before, now):
    undisturbed = on_ranks(before)
    run = stopped(undisturbed, f"from-{before}-on-{now}", SAVED)
    done = project.inv("train", **small(RUN_NAME=run.name, SAVE_STEPS=4, **STEPS, **RANKS[now]))
    assert done.returncode == 0, done.stdout + "".join(path.read_text() for path in run.log_files())
    assert f"step {SAVED} of 12: resumed" in run.log_files()[0].read_text()
    seen, wanted = metrics(run, *CURVE), metrics(undisturbed, *CURVE)
    assert len(seen) == 12
    for ours, theirs in zip(seen, wanted, strict=True):
        assert ours == pytest.approx(theirs, rel=2e-5)
    assert sorted(path.name for path in run.checkpoints.glob("*step*")) == ["step-000008", "step-000012"]


OTHER_KINDS = [("zero2", 1), ("zero3_offload", 2), ("zero3_offload_all", 1)]


@pytest.mark.parametrize(("kind", "now"), OTHER_KINDS)
def test_other_kinds_of_zero_go_on_with_other_ranks(project, base, of_another_kind, kind, now):
    run = stopped(of_another_kind(kind), f"{kind}-on-{now}", SAVED)
    done = project.inv("train", **small(RUN_NAME=run.name, DS_CONFIG=kind, **STEPS, **RANKS[now]))
    assert done.returncode == 0, done.stdout + "".join(path.read_text() for path in run.log_files())
    for ours, theirs in zip(metrics(run, *CURVE), metrics(base, *CURVE), strict=True):
        assert ours == pytest.approx(theirs, rel=2e-5)


def test_other_ranks_with_another_batch_are_refused(project, on_ranks):
    run = stopped(on_ranks(2), "another-batch", SAVED)
    settings = {name: value for name, value in STEPS.items() if name != "GLOBAL_BATCH_SIZE"}
    done = project.inv("train", **small(RUN_NAME=run.name, **settings, **RANKS[1]))
    assert done.returncode == 2
    assert "GLOBAL_BATCH_SIZE=2: the unfinished run " in done.stdout
    assert " has 8; set GLOBAL_BATCH_SIZE=8 to resume, or FRESH=1" in done.stdout
