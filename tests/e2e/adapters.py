"""What the tests of LoRA and QLoRA share."""

from __future__ import annotations

import json
from pathlib import Path

import peft
import pytest
import torch
import transformers

from sft.run.directory import Run
from sft.trainer import batching
from sft.trainer.data.rows import Rows

from .conftest import RANKS
from .project import CURVE, Project, metrics, small, stopped

STEPS, SAVED = 8, 4
SETTINGS = {
    "LORA_RANK": 4, "LORA_ALPHA": 8, "GLOBAL_BATCH_SIZE": 8, "BATCH_SIZE": 2, "WARMUP_RATIO": 0, "MAX_STEPS": STEPS,
    "LR_SCHEDULER": "constant", "LEARNING_RATE": 1e-2,
}  # fmt: skip


def base_of(run: Run, project: Project) -> tuple[Path, Rows]:
    """Return the folder of a run's base model, and its rows."""
    prepared = json.loads(run.prepared.read_text())
    return project.path / prepared["model"], Rows(project.path / prepared["data"] / "train")


def plain_losses(model: transformers.PreTrainedModel, rows: Rows, seed: int) -> list[list[float]]:
    """Return [step, loss] of a plain loop over peft's adapter on a model, as the SETTINGS have it."""
    torch.manual_seed(seed)
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    adapted = peft.get_peft_model(model, config).train()
    parameters = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-2, weight_decay=0.0)
    found = []
    for step in range(STEPS):
        chosen = batching.rows_of_step(step, len(rows), 8, seed)
        loss_sum, targets = 0.0, rows.target_tokens(chosen)
        for ids, is_target in rows.take(chosen):
            tokens = torch.from_numpy(ids.copy()).long()[None]
            labels = torch.where(torch.from_numpy(is_target.copy()), tokens, -100)
            loss = adapted(input_ids=tokens, labels=labels).loss * int(is_target[1:].sum()) / targets
            loss.backward()
            loss_sum += loss.item()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        found.append([step + 1, loss_sum])
    return found


def goes_on(undisturbed: Run, project: Project, ranks: int) -> None:
    """Stop a run of two ranks after its checkpoint, and hold what goes on from it to the undisturbed run."""
    frozen = {name.upper(): getattr(undisturbed.settings(), name) for name in ("lora_base_bits", "ds_config")}
    run = stopped(undisturbed, f"{undisturbed.name}-on-{ranks}", SAVED)
    checkpoint = run.checkpoints / f"step-{SAVED:06d}"
    base, _ = base_of(run, project)
    assert sum(path.stat().st_size for path in checkpoint.iterdir()) < (base / "model.safetensors").stat().st_size / 2
    done = project.inv("train", **small(RUN_NAME=run.name, **SETTINGS, **frozen, **RANKS[ranks]))
    assert done.returncode == 0, done.stdout + "".join(path.read_text() for path in run.log_files())
    assert f"step {SAVED} of {STEPS}: resumed" in run.log_files()[0].read_text()
    seen, wanted = metrics(run, *CURVE), metrics(undisturbed, *CURVE)
    assert len(seen) == STEPS and (ranks == 1 or seen == wanted)
    for ours, theirs in zip(seen, wanted, strict=True):
        assert ours == pytest.approx(theirs, rel=2e-5)
