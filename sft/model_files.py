"""What a model folder may contain: weights that cannot run programs, and code only if it is trusted."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path

from sft import stored_weights
from sft.errors import SettingsError, wrong
from sft.settings.fields import TINY, Settings
from sft.settings.variables import expanded, is_there

Config = Mapping[str, object]  # the content of config.json

POSITIONS = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_target_positions")
# Endings of architectures: decoders, also those that are a part of an encoder with a decoder, and others.
DECODERS = ("ForCausalLM", "LMHeadModel")
NOT_DECODERS = (
    "ForMaskedLM", "ForPreTraining", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering",
    "ForMultipleChoice", "ForNextSentencePrediction", "RewardModel",
)  # fmt: skip
ENCODERS = (  # families that are decoders only if their config.json says is_decoder
    "bert", "roberta", "electra", "camembert", "xlm-roberta", "xlm-roberta-xl", "roberta-prelayernorm", "ernie",
    "megatron-bert", "rembert", "roformer", "data2vec-text", "big_bird", "bert-generation", "roc_bert", "xmod",
)  # fmt: skip
BEHIND_PADDING = (  # families that number the positions from the padding token on
    "roberta", "camembert", "xlm-roberta", "xlm-roberta-xl", "roberta-prelayernorm", "data2vec-text", "xmod",
)  # fmt: skip
# Names of the files of a tokenizer: of transformers, sentencepiece, tiktoken and Mistral.
TOKENIZER_FILES = ("tokenizer*", "vocab*", "merges*", "*.model", "*.tiktoken", "tekken.json")


def local_model(settings: Settings) -> Path | None:
    """Return the folder that MODEL_NAME names, or None for a hub model or one that the project makes."""
    path = expanded(settings.model_name)
    return path if settings.model_name != TINY and is_there(path) else None


def check_local(settings: Settings) -> None:
    """Check a local model before anything starts. Raises SettingsError."""
    folder = local_model(settings)
    if folder is not None:
        check_folder(folder, settings)


def check_folder(folder: Path, settings: Settings) -> None:
    """Raise SettingsError for a folder that is not a model, or whose weights are pickled if that is not allowed.

    Loading a pickled file can run any program that its author put into it.
    """
    check_without_weights(folder, settings)
    problem = stored_weights.problem(folder, settings.allow_pickle)
    if problem:
        raise SettingsError([wrong("MODEL_NAME", settings.model_name, *problem)])


def check_without_weights(folder: Path, settings: Settings) -> None:
    """Raise SettingsError for a folder without what tokenising needs: a valid configuration and a tokenizer."""
    name = settings.model_name
    if not (folder / "config.json").is_file():
        raise SettingsError([wrong("MODEL_NAME", name, *not_a_model(folder))])
    patterns = (*TOKENIZER_FILES, "*.json", "*.jinja")
    small = (path for pattern in patterns for path in sorted(folder.glob(pattern)) if path.is_file())
    if unfetched := next((path.name for path in small if stored_weights.is_pointer(path)), ""):
        what = f"{unfetched} {stored_weights.UNFETCHED}"
        raise SettingsError([wrong("MODEL_NAME", name, what, stored_weights.AGAIN)])
    config = read_json(folder / "config.json")
    if not isinstance(config, dict):
        raise SettingsError(
            [wrong("MODEL_NAME", name, "its config.json is not a JSON object", "fix or fetch it again")]
        )
    if not any(path for pattern in TOKENIZER_FILES for path in folder.glob(pattern)):
        remedy = "copy its tokenizer's files into the folder (tokenizer.json and tokenizer_config.json)"
        raise SettingsError([wrong("MODEL_NAME", name, "holds no tokenizer", remedy)])
    check_config(config, settings)


def check_config(config: Config, settings: Settings) -> None:
    """Raise SettingsError for a model that cannot be trained, as far as its config.json says so."""
    problems = []
    if what := not_a_decoder(config):
        problems.append(wrong("MODEL_NAME", settings.model_name, what, "use a causal language model"))
    if what := quantisation(config):
        problems.append(wrong("MODEL_NAME", settings.model_name, what, stored_weights.ORIGINAL))
    if problems:
        raise SettingsError(problems)
    check_length(positions(config), settings)


def not_a_decoder(config: Config) -> str:
    """Return why a model does not predict the next token, or ""."""
    names = config.get("architectures")
    made_for = str(names[0]) if isinstance(names, list) and names else ""
    if config.get("is_encoder_decoder") and not made_for.endswith(DECODERS):
        return f"is an encoder with a decoder ({made_for or config.get('model_type')})"
    if made_for.endswith(NOT_DECODERS):
        return f"was not made to write text ({made_for})"
    if config.get("is_decoder") is False and config.get("model_type") in ENCODERS:
        return f"is an encoder ({made_for or config.get('model_type')}): it sees the tokens that it has to predict"
    return ""


def quantisation(config: Config) -> str:
    """Return how a model's weights are quantised already, or ""."""
    found = config.get("quantization_config") or language_part(config).get("quantization_config")
    if not isinstance(found, dict):
        found = config.get("quantization")  # of MLX
        return "its weights are quantised already (mlx)" if isinstance(found, dict) and "bits" in found else ""
    bits = "4 bits" if found.get("load_in_4bit") else "8 bits" if found.get("load_in_8bit") else ""
    method = ", ".join(filter(None, (str(found.get("quant_method") or ""), bits)))
    return f"its weights are quantised already ({method})"


def not_a_model(folder: Path) -> tuple[str, str]:
    """Return why a path without config.json is not a model, and what was probably meant."""
    if folder.is_file():
        return next(
            ((f"is {what}", HUGGING_FACE) for pattern, what in OTHER_FORMATS if fnmatch(folder.name, pattern)),
            ("is a file", "give the folder that holds the model"),
        )
    for run in (folder, *folder.parents):
        if (run / "settings.json").is_file() and (run / "checkpoints").is_dir():
            if (run / "final" / "config.json").is_file():
                return "holds no config.json; it belongs to a run", f"use its model: MODEL_NAME={run / 'final'}"
            return "holds no config.json; it belongs to a run without a final model", "finish that run first"
    if (folder / stored_weights.ADAPTER).is_file():
        return stored_weights.ALONE
    return next((meant for look in LOOKS if (meant := look(folder))), ("holds no config.json", HUGGING_FACE))


def unfinished(folder: Path) -> tuple[str, str] | None:
    """Return what to say of a folder whose download has not ended, or of an empty one."""
    if not any(folder.iterdir()):
        return "is an empty folder", "fetch the model into it"
    if (folder / "config.json").is_symlink():
        return "its config.json is a link to a file that is not there", "fetch the model again"
    if partial := next(folder.rglob("*.incomplete"), None):
        return f"its download has not ended ({partial.name})", "fetch the model again"
    return None


def deeper(folder: Path) -> tuple[str, str] | None:
    """Return what to say of a folder above a model's: one of the hub's cache, or one with a single model in it."""
    inner = [path.parent for path in folder.glob("snapshots/*/config.json")] or [
        path.parent for path in folder.glob("*/config.json")
    ]
    if not inner or (len(inner) > 1 and inner[0].parent == folder):
        return None
    newest = max(inner, key=lambda path: path.stat().st_mtime)
    return f"holds no config.json, but {newest.relative_to(folder)} does", f"use MODEL_NAME={newest}"


def other_format(folder: Path) -> tuple[str, str] | None:
    """Return what to say of models in other formats."""
    for pattern, what in OTHER_FORMATS:
        if found := next(folder.glob(pattern), None):
            return f"holds {what} ({found.name}) and no config.json", HUGGING_FACE
    return None


HUGGING_FACE = "give a folder in Hugging Face layout"
OTHER_FORMATS = (
    ("*.gguf", "a model for llama.cpp"),
    ("model_index.json", "a pipeline of diffusers"),
    ("params.json", "a model in its maker's own format"),
)
LOOKS = (unfinished, deeper, other_format)


def language_part(config: Config) -> Config:
    """Return what a config.json says of the language model; a multimodal model has a part for it."""
    text = config.get("text_config")
    return {**config, **text} if isinstance(text, dict) else config


def stops(folder: Path) -> set[int]:
    """Return the tokens at which a model in a folder stops generating by itself: those of its EOS settings."""
    found: set[int] = set()
    for name in ("generation_config.json", "config.json"):
        content = read_json(folder / name) if (folder / name).is_file() else {}
        ends = content.get("eos_token_id") if isinstance(content, dict) else None
        found |= {end for end in (ends if isinstance(ends, list) else [ends]) if type(end) is int}
        if found:  # config.json counts only where the other file says nothing
            break
    return found


def positions(config: Config) -> int | None:
    """Return the most tokens that a model can read, or None if its config.json does not say.

    With yarn that is a multiple of the positions of its pretraining, whatever the other numbers say.
    """
    config = language_part(config)
    found = next((value for key in POSITIONS if isinstance(value := config.get(key), int)), None)
    padding = config.get("pad_token_id")
    if found and isinstance(padding, int) and config.get("model_type") in BEHIND_PADDING:
        return found - padding - 1
    rope = rope_of(config)
    original, factor = rope.get("original_max_position_embeddings"), rope.get("factor")
    if found and rope_type(rope) == "yarn" and isinstance(original, int) and isinstance(factor, int | float):
        return max(found, int(original * factor))
    return found


def rope_of(config: Config) -> Config:
    """Return what a config.json says of rotary embeddings; in files of before transformers 5 only of their scaling."""
    rope = config.get("rope_parameters") or config.get("rope_scaling")
    return rope if isinstance(rope, dict) else {}


def rope_type(rope: Config) -> object:
    """Return the name of a way to scale rotary embeddings."""
    return rope.get("rope_type", rope.get("type"))


def short_positions(config: Config) -> int | None:
    """Return up to how many tokens a model has its usual rotary frequencies; None if they are always the same.

    Beyond that (longrope, as in Phi 3 for 128k) the longest row gives other ones to all rows of its micro-batch.
    """
    config = language_part(config)
    rope = rope_of(config)
    if rope_type(rope) not in ("longrope", "su"):
        return None
    found = rope.get("original_max_position_embeddings", config.get("original_max_position_embeddings"))
    return found if isinstance(found, int) else None


def check_length(most: int | None, settings: Settings) -> None:
    """Raise SettingsError if MAX_LENGTH is more than the `most` tokens that the model reads."""
    if most and 0 < most < settings.max_length:
        what = f"{settings.model_name} reads {most} tokens at most"
        raise SettingsError([wrong("MAX_LENGTH", settings.max_length, what, f"use {most} or less")])


def check_bitsandbytes(settings: Settings) -> None:
    """Raise SettingsError if LORA_BASE_BITS needs bitsandbytes, and it is not installed."""
    if settings.lora_base_bits == 4 and importlib.util.find_spec("bitsandbytes") is None:
        remedy = "`.venv/bin/pip install -e '.[qlora]'` installs it, in containers QLORA=1 in .env does"
        raise SettingsError([wrong("LORA_BASE_BITS", 4, "bitsandbytes is not installed", remedy)])


def has_code(folder: Path) -> bool:
    """Tell whether a model or its tokenizer comes with Python code."""
    found = (read_json(folder / name) for name in ("config.json", "tokenizer_config.json"))
    return any(isinstance(content, dict) and "auto_map" in content for content in found)


def read_json(path: Path) -> object:
    """Return a JSON file's content, or None if it cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
