"""The trial's result, kept: the same model on the same device with the same libraries gives the same again.

Without torch and transformers, whose imports take longer than everything else before a run.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
from pathlib import Path

from sft import model_files
from sft.run import files, typed_json
from sft.run.records import Tried
from sft.settings.fields import TINY, Settings
from sft.trainer.data.hashes import file_hash, short_hash

PACKAGES = ("torch", "transformers", "peft", "liger-kernel", "flash-attn", "triton", "kernels")
# The settings that a trial depends on.
NAMES = (
    "device", "precision", "packing", "lora_rank", "lora_targets", "gradient_checkpointing", "compile",
    "trust_remote_code", "max_length", "batch_size",
)  # fmt: skip
CODE = Path(__file__).parents[1]  # the trainer's: whatever it does may change the result


def tried(settings: Settings, folder: Path) -> Tried:
    """Return what a trial of the model in a folder finds, which needs no weights there. Raises SettingsError."""
    if settings.model_name == TINY:
        return Tried(not_tried="it is tiny itself: the ranks try it")
    if "auto" in (settings.device, settings.precision):  # not decided, as there is no run
        settings = Settings.of(settings, device="cpu", precision="fp32")
    path = settings.model_path / "trials" / f"{key(settings, folder)}.json"
    with contextlib.suppress(OSError, files.Unreadable):
        found = typed_json.read(path, Tried)
        model_files.check_length(found.positions, settings)
        return found
    found = run(settings, folder)
    model_files.check_length(found.positions, settings)
    path.parent.mkdir(parents=True, exist_ok=True)
    typed_json.write(path, found)
    return found


def key(settings: Settings, folder: Path) -> str:
    """Return a hash of everything that a trial depends on."""
    config = model_files.read_json(folder / "config.json")
    code = [(path.name, file_hash(path)) for path in sorted(folder.glob("*.py"))]
    return short_hash(
        config, code, *(getattr(settings, name) for name in NAMES), *map(version, PACKAGES), device(settings),
        *(file_hash(path) for path in sorted(CODE.rglob("*.py"))),
    )  # fmt: skip


def version(package: str) -> str:
    """Return the version of a package, or "" if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def device(settings: Settings) -> str:
    """Return the name of the first GPU, "" for a run without any."""
    if settings.device != "cuda":
        return ""
    import pynvml

    try:
        pynvml.nvmlInit()
        return str(pynvml.nvmlDeviceGetName(pynvml.nvmlDeviceGetHandleByIndex(0)))
    except pynvml.NVMLError:
        return "unknown"


def run(settings: Settings, folder: Path) -> Tried:
    """Try the model. Raises SettingsError."""
    import torch
    import transformers

    from sft.trainer.model import published
    from sft.trainer.trial import apart, trial

    transformers.logging.set_verbosity_error()
    config = published.config_in(folder, settings)
    if settings.device != "cuda" or torch.cuda.is_initialized():  # a forked process could not use the GPU then
        return trial.try_model(config, settings, trial.world_of(settings))
    return apart.tried(lambda: trial.try_model(config, settings, trial.world_of(settings)))
