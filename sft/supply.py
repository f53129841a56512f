"""What a model folder may bring along: weights that are data and not programs, and no code unless it is trusted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sft.errors import SettingsError, wrong
from sft.settings import TINY, Settings, is_there
from sft.variables import expanded

PICKLED = (".bin", ".pt", ".pth", ".ckpt")


def local_model(settings: Settings) -> Path | None:
    """Return the folder that MODEL_NAME names, or None for a model of the hub or one that is made here."""
    path = expanded(settings.model_name)
    return path if settings.model_name != TINY and is_there(path) else None


def check_local(settings: Settings) -> None:
    """Look at a local model before anything starts. Raises SettingsError."""
    folder = local_model(settings)
    if folder is not None:
        check_folder(folder, settings)


def check_folder(folder: Path, settings: Settings) -> None:
    """Raise SettingsError for a folder that is no model, or whose weights are pickled where that is not allowed.

    Loading a pickled file can run any program that its author has put into it.
    """
    name = settings.model_name
    if not (folder / "config.json").is_file():
        remedy = "give a folder in Hugging Face layout"
        raise SettingsError([wrong("MODEL_NAME", name, "holds no config.json", remedy)])
    if not isinstance(read_json(folder / "config.json"), dict):
        raise SettingsError([wrong("MODEL_NAME", name, "its config.json is no JSON object", "mend or fetch it again")])
    if any(folder.glob("*.safetensors")):
        return
    pickled = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLED)
    if not pickled:
        remedy = "fetch its safetensors files, or ALLOW_PICKLE=1 where it has pickled ones that you trust"
        raise SettingsError([wrong("MODEL_NAME", name, "has no weights in safetensors", remedy)])
    if not settings.allow_pickle:
        what = f"its weights are pickled ({pickled[0]}), which can run any program when they are loaded"
        remedy = "take a model with safetensors, or set ALLOW_PICKLE=1 where you trust its source"
        raise SettingsError([wrong("MODEL_NAME", name, what, remedy)])


def brings_code(folder: Path) -> bool:
    """Tell whether a model or its tokenizer names Python code of its own."""
    found = (read_json(folder / name) for name in ("config.json", "tokenizer_config.json"))
    return any(isinstance(content, dict) and "auto_map" in content for content in found)


def read_json(path: Path) -> Any:
    """Return a JSON file's content, or None where there is none that can be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
