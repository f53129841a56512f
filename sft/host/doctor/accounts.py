"""Checks of the accounts: the keys of W&B and the hub, and whether the model may be downloaded."""

from __future__ import annotations

import re

from sft import model_files
from sft.host.check import Check
from sft.host.plan import shapes
from sft.settings.fields import TINY, Settings

HUB_TIMEOUT_S = 5
GATED = ("meta-llama/", "google/gemma")  # how the names of the best-known gated models begin
ASK_FOR_ACCESS = "ask for access on the model's page, and set HUGGINGFACE_API_KEY to a token of that account"


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


def hub_token(settings: Settings) -> Check:
    """Check the form of the hub token, and whether the model needs one."""
    token = settings.huggingface_api_key.get_secret_value()
    if not token and settings.model_name.startswith(GATED) and not (is_local(settings) or shapes.in_cache(settings)):
        return Check("hub token", "warning", f"none, and {settings.model_name} is a gated model", ASK_FOR_ACCESS)
    if not token:
        return Check("hub token", "ok", "none: enough for open models and local ones")
    if not re.fullmatch(r"hf_[A-Za-z0-9]{20,}", token):
        return Check(
            "hub token", "failure", "HUGGINGFACE_API_KEY is not a hub token", "copy it whole; it begins with hf_"
        )
    return Check("hub token", "ok", "well formed")


def hub_access(settings: Settings) -> Check:
    """Check that the model may be downloaded, now rather than ten minutes into a run.

    The hub's own library asks for a file, so endpoint and proxies are those of a download.
    """
    from huggingface_hub import errors, get_hf_file_metadata, hf_hub_url

    name, revision = settings.model_name, settings.model_revision
    if is_local(settings):
        return Check("model", "ok", f"{name} needs no hub")
    try:
        url = hf_hub_url(name, "config.json", revision=revision)
        get_hf_file_metadata(url, settings.huggingface_api_key.get_secret_value() or None, timeout=HUB_TIMEOUT_S)
    except errors.GatedRepoError:
        return Check("model", "failure", f"{name} is gated for you", ASK_FOR_ACCESS)
    except errors.RepositoryNotFoundError:
        return Check("model", "failure", f"{name} is not on the hub, or private", "check MODEL_NAME")
    except errors.RevisionNotFoundError:
        return Check("model", "failure", f"{name} has no revision {revision}", "check MODEL_REVISION")
    except errors.EntryNotFoundError:
        return Check("model", "failure", f"{name} has no config.json", "take a model in Hugging Face layout")
    except Exception as error:  # the hub's library passes on the exceptions of its HTTP library
        if shapes.in_cache(settings):
            return Check("model", "ok", f"{name} is in {settings.model_path}; the hub cannot be reached")
        remedy = "check the network, or set MODEL_NAME and DATASET to local folders"
        return Check("model", "warning", f"the hub cannot be reached ({type(error).__name__})", remedy)
    return Check("model", "ok", f"{name} may be downloaded")


def is_local(settings: Settings) -> bool:
    """Tell whether the model is a folder, or made by the project."""
    return settings.model_name == TINY or model_files.local_model(settings) is not None
