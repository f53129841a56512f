"""The shape of the model that MODEL_NAME names: from its folder, the hub's cache, or built in here."""

from __future__ import annotations

from pathlib import Path

from sft import model_files
from sft.errors import SettingsError, UserError, wrong
from sft.host.plan.shapes import Shape, read
from sft.model_files import Config
from sft.settings.fields import TINY, Settings

# The config.json of models that can be planned before anything is downloaded: those of Meta are gated.
LLAMA: dict[str, object] = {"model_type": "llama", "vocab_size": 128256, "num_key_value_heads": 8} | {
    "max_position_embeddings": 131072
}
BUILT_IN: dict[str, dict[str, object]] = {
    "meta-llama/Llama-3.2-1B": LLAMA
    | {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32}
    | {"tie_word_embeddings": True},
    "meta-llama/Llama-3.2-3B": LLAMA
    | {"hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 28, "num_attention_heads": 24}
    | {"tie_word_embeddings": True},
    "meta-llama/Llama-3.1-8B": LLAMA
    | {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32}
    | {"tie_word_embeddings": False},
    # sft/trainer/model/tiny.py
    TINY: {"model_type": "llama", "vocab_size": 1024, "hidden_size": 128, "intermediate_size": 256}
    | {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True}
    | {"max_position_embeddings": 4096},
}


def find(settings: Settings) -> Shape | None:
    """Return the shape of MODEL_NAME: from its folder, the cache in MODEL_PATH, or built in; None if none has it.

    Raises SettingsError for a folder without config.json, and UserError for an unusable one.
    """
    name = settings.model_name
    folder = model_files.local_model(settings)
    if folder is not None:
        if not (folder / "config.json").is_file():
            raise SettingsError([wrong("MODEL_NAME", name, *model_files.not_a_model(folder))])
        return read(folder / "config.json")
    cached = in_cache(settings)
    if cached:
        return read(cached)
    config = built_in(name)
    return Shape.of(config, f"shape built in: the model is not in {settings.model_path} yet") if config else None


def built_in(name: str) -> Config | None:
    """Return the config.json of a model that needs no download to be planned."""
    return BUILT_IN.get(name.removesuffix("-Instruct"))


def weights_of(settings: Settings) -> int | None:
    """Return the number of MODEL_NAME's weights, or None if it cannot be known here."""
    try:
        shape = find(settings)
    except UserError:  # not a family that can be planned
        return None
    return shape.weights if shape else None


def is_known(settings: Settings) -> bool:
    """Tell whether MODEL_NAME's shape is known here. Raises SettingsError for a folder that is not a model."""
    try:
        return find(settings) is not None
    except SettingsError:
        raise
    except UserError:  # a family whose sizes have other names
        return False


def in_cache(settings: Settings) -> Path | None:
    """Return the config.json of a hub model that is in MODEL_PATH, in the layout of huggingface_hub."""
    folder = settings.model_path / f"models--{settings.model_name.replace('/', '--')}"
    reference = folder / "refs" / settings.model_revision
    revision = reference.read_text().strip() if reference.is_file() else settings.model_revision
    path = folder / "snapshots" / revision / "config.json"
    return path if path.is_file() else None


def need(settings: Settings) -> Shape:
    """Return the shape of MODEL_NAME. Raises UserError, or SettingsError if it cannot be known here."""
    shape = find(settings)
    if shape is None:
        what = f"its config.json is not in MODEL_PATH={settings.model_path}"
        remedy = "`make setup` downloads it, or give SHAPE=config.json"
        raise SettingsError([wrong("MODEL_NAME", settings.model_name, what, remedy)])
    return shape
