"""The check of the account of Weights & Biases."""

from __future__ import annotations

import re

from sft.host.check import Check
from sft.settings.fields import Settings


def wandb_key(settings: Settings) -> Check:
    """Check the form of the W&B key; only W&B knows whether it is valid."""
    key = settings.wandb_api_key.get_secret_value()
    if settings.wandb_mode not in ("auto", "online"):
        return Check("W&B", "ok", f"WANDB_MODE={settings.wandb_mode}: nothing is sent")
    if not key and settings.wandb_mode == "online":
        return Check("W&B", "ok", "WANDB_MODE=online without a key: the one from `wandb login` is used")
    if not key:
        return Check("W&B", "ok", "no key: runs are logged offline, `wandb sync` uploads them later")
    if not re.fullmatch(r"[0-9a-f]{40}|[\w-]{41,}", key):
        return Check("W&B", "failure", f"WANDB_API_KEY has {len(key)} characters", "copy the whole key, 40 or more")
    return Check("W&B", "ok", "the key is well formed")
