"""What a model folder may contain: weights that cannot run programs, and code only if it is trusted."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sft.errors import SettingsError, wrong
from sft.settings.fields import TINY, Settings
from sft.settings.variables import expanded, is_there

Config = Mapping[str, object]  # the content of config.json

PICKLED = (".bin", ".pt", ".pth", ".ckpt")
INDEX = "model.safetensors.index.json"  # says which weights are in which file
POINTER = b"version https://git-lfs"  # the beginning of a file that git-lfs has not fetched
HEADER_LENGTH_BYTES = 8  # a safetensors file begins with its header's length
LONGEST_HEADER = 100_000_000  # bytes; safetensors itself refuses a longer one
POSITIONS = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_target_positions")
# Endings of architectures: decoders, also those that are a part of an encoder with a decoder, and others.
DECODERS = ("ForCausalLM", "LMHeadModel")
NOT_DECODERS = (
    "ForMaskedLM", "ForPreTraining", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering",
    "ForMultipleChoice", "ForNextSentencePrediction",
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
    name = settings.model_name
    if any(folder.glob("*.safetensors")):
        if problem := broken_weights(folder):
            raise SettingsError([wrong("MODEL_NAME", name, problem, "fetch the model again")])
        return
    pickled = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLED)
    if not pickled:
        remedy = "fetch its safetensors files, or set ALLOW_PICKLE=1 if it has pickled ones that you trust"
        raise SettingsError([wrong("MODEL_NAME", name, "has no weights in safetensors", remedy)])
    if not settings.allow_pickle:
        what = f"its weights are pickled ({pickled[0]}), which can run any program when they are loaded"
        remedy = "take a model with safetensors, or set ALLOW_PICKLE=1 if you trust its source"
        raise SettingsError([wrong("MODEL_NAME", name, what, remedy)])


def check_without_weights(folder: Path, settings: Settings) -> None:
    """Raise SettingsError for a folder without what tokenising needs: a valid configuration and a tokenizer."""
    name = settings.model_name
    if not (folder / "config.json").is_file():
        raise SettingsError([wrong("MODEL_NAME", name, *not_a_model(folder))])
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
        remedy = "use the model with its original weights (LORA_BASE_BITS=4 quantises them as they are loaded)"
        problems.append(wrong("MODEL_NAME", settings.model_name, what, remedy))
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
        return ""
    bits = "4 bits" if found.get("load_in_4bit") else "8 bits" if found.get("load_in_8bit") else ""
    method = ", ".join(filter(None, (str(found.get("quant_method") or ""), bits)))
    return f"its weights are quantised already ({method})"


def not_a_model(folder: Path) -> tuple[str, str]:
    """Return why a path without config.json is not a model, and what was probably meant."""
    if folder.is_file():
        return "is a file", "give the folder that holds the model"
    for run in (folder, *folder.parents):
        if (run / "settings.json").is_file() and (run / "checkpoints").is_dir():
            if (run / "final" / "config.json").is_file():
                return "holds no config.json; it belongs to a run", f"use its model: MODEL_NAME={run / 'final'}"
            return "holds no config.json; it belongs to a run without a final model", "finish that run first"
    if (folder / "adapter_config.json").is_file():
        return "is an adapter without its base model", "merge it into the base model, and give that folder"
    return "holds no config.json", "give a folder in Hugging Face layout"


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
    """Return the most tokens that a model can read, or None if its config.json does not say."""
    config = language_part(config)
    found = next((value for key in POSITIONS if isinstance(value := config.get(key), int)), None)
    padding = config.get("pad_token_id")
    if found and isinstance(padding, int) and config.get("model_type") in BEHIND_PADDING:
        return found - padding - 1
    return found


def check_length(most: int | None, settings: Settings) -> None:
    """Raise SettingsError if MAX_LENGTH is more than the `most` tokens that the model reads."""
    if most and 0 < most < settings.max_length:
        what = f"{settings.model_name} reads {most} tokens at most"
        raise SettingsError([wrong("MAX_LENGTH", settings.max_length, what, f"use {most} or less")])


def weight_files(folder: Path) -> list[str]:
    """Return the names of the safetensors files that a model is loaded from; an empty list if it has none."""
    if (folder / "model.safetensors").is_file():  # loaded even if there is an index too
        return ["model.safetensors"]
    if isinstance(index := read_json(folder / INDEX), dict) and isinstance(index.get("weight_map"), dict):
        return sorted({str(name) for name in index["weight_map"].values()})
    return []


def broken_weights(folder: Path) -> str:
    """Return what is wrong with a model's safetensors files: missing, not fetched or incomplete; "" if nothing is."""
    for name in weight_files(folder) or sorted(path.name for path in folder.glob("*.safetensors")):
        if not (folder / name).is_file():
            return f"{name} is missing, which {INDEX} names"
        if problem := broken_file(folder / name):
            return f"{name} {problem}"
    return ""


def broken_file(path: Path) -> str:
    """Return what is wrong with a safetensors file by its header and size, or ""."""
    with path.open("rb") as file:
        if file.read(len(POINTER)) == POINTER:
            return "is a git-lfs pointer and not the file (`git lfs pull`)"
    try:
        sizes, start = header(path)
        whole = start + max((size.end for size in sizes.values()), default=0)
    except BadHeader:
        return "is not a complete safetensors file"
    size = path.stat().st_size
    return "" if size == whole else f"has {size:,} bytes of {whole:,}"


class BadHeader(Exception):
    """A file does not begin with the header of a safetensors file."""


@dataclass(frozen=True)
class StoredTensor:
    """What a safetensors file's header says of a tensor: its shape, and where it ends, in bytes behind the header."""

    shape: tuple[int, ...]
    end: int


def header(path: Path) -> tuple[dict[str, StoredTensor], int]:
    """Return a safetensors file's tensors by name, and the bytes before the first one. Raises BadHeader, OSError."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(HEADER_LENGTH_BYTES), "little")
        if size < HEADER_LENGTH_BYTES + length or length > LONGEST_HEADER:
            raise BadHeader
        try:
            content = json.loads(file.read(length))
            tensors = {
                name: StoredTensor(tuple(entry["shape"]), int(entry["data_offsets"][1]))
                for name, entry in content.items()
                if name != "__metadata__"
            }
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            raise BadHeader from None
    return tensors, HEADER_LENGTH_BYTES + length


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
