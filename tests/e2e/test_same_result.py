"""What a step means: the loss curve is the same on any number of ranks, and that of plain PyTorch."""

import json
import math
from pathlib import Path

import pytest
import torch
import transformers

from sft.trainer import batching
from sft.trainer.data.rows import Rows

from .project import metrics


def plain_pytorch(run, project):
    """Train on the run's data with AdamW and nothing of the project's trainer but the order of the rows."""
    settings, prepared = run.settings(), json.loads(run.prepared.read_text())
    rows = Rows(project.path / prepared["data"] / "train")
    model = transformers.AutoModelForCausalLM.from_pretrained(project.path / prepared["model"], dtype=torch.float32)
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


def test_weights_that_persist_and_other_stages_give_the_same_losses(project, base, tmp_path):
    kept = tmp_path / "kept.json"
    kept.write_text(json.dumps({"zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 10**9}}))
    for config in (kept, "zero2"):
        run = project.train(
            f"stage-{Path(config).stem}", GLOBAL_BATCH_SIZE=8, BATCH_SIZE=2, WEIGHT_DECAY=0.1, WARMUP_RATIO=0.2,
            DS_CONFIG=config,
        )  # fmt: skip
        for seen, wanted in zip(metrics(run, "train/loss"), metrics(base, "train/loss"), strict=True):
            assert seen == pytest.approx(wanted, rel=2e-5)
