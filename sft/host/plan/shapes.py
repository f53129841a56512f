"""The shape of a model, from its `config.json`: all that the plan needs to know, without torch or transformers.

Families of models give the same few sizes different names. Weights and activations follow from the sizes, for decoders
of attention and a (gated) feed-forward network; in a mixture of experts every expert's weights count.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from sft import model_files
from sft.errors import SettingsError, UserError, wrong
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
UNGATED = {"gpt2", "gpt_neo", "gpt_neox", "gptj", "opt", "bloom", "falcon", "phi", "starcoder2"}  # two matrices, not 3
CHANGE_LOGITS = ("final_logit_softcapping", "logits_scaling", "logit_scale", "lm_head_multiplier")


@dataclass(frozen=True)
class Shape:
    """A decoder's sizes. `source` says where they come from."""

    source: str
    layers: int
    hidden: int
    intermediate: int
    queries: int  # elements of all query heads of a token
    keys: int  # elements of all key heads of a token, as many as of all value heads
    vocabulary: int
    tied: bool
    gated: bool = True
    experts: int = 1
    experts_per_token: int = 1
    head_norms: int = 0  # elements of norms on query and key heads (Qwen3)
    biases: int = 0  # elements of a layer's biases
    norms: int = 2  # of a layer
    positions: int = 0  # learnt position embeddings
    whole_logits: bool = False  # scaled or capped after the head, so the loss has no chunks (sft/trainer/loss.py)

    @property
    def attention_weights(self) -> int:
        """Weights of a layer's four attention matrices."""
        return 2 * self.hidden * (self.queries + self.keys)

    @property
    def feed_forward_weights(self) -> int:
        """Weights of one feed-forward network's matrices."""
        return (3 if self.gated else 2) * self.hidden * self.intermediate

    @property
    def layer_weights(self) -> int:
        router = self.experts * self.hidden if self.experts > 1 else 0
        small = self.norms * self.hidden + self.head_norms + self.biases + router
        return self.attention_weights + self.experts * self.feed_forward_weights + small

    @property
    def head_weights(self) -> int:
        """Weights of the output head, and as many of the embedding."""
        return self.vocabulary * self.hidden

    @property
    def weights(self) -> int:
        """All weights; a head that is the embedding counts once."""
        ends = self.head_weights * (1 if self.tied else 2) + self.positions * self.hidden
        return self.layers * self.layer_weights + ends + self.norms // 2 * self.hidden

    @property
    def matrix_weights(self) -> int:
        """Weights of all layers that one token is multiplied with."""
        return self.layers * (self.attention_weights + self.experts_per_token * self.feed_forward_weights)

    @property
    def linear_weights(self) -> int:
        """Weights of all layers that can be quantised: those of linear modules, which stacked experts are not."""
        return self.layers * (self.attention_weights + self.feed_forward_weights * (self.experts == 1))

    def lora_weights(self, rank: int) -> int:
        """Weights of adapters of this rank on every matrix of the layers."""
        pairs = (self.hidden + self.queries) * 2 + (self.hidden + self.keys) * 2
        feed_forward = (3 if self.gated else 2) * (self.hidden + self.intermediate) * self.experts
        return rank * self.layers * (pairs + feed_forward)

    @classmethod
    def of(cls, config: Config, source: str) -> Shape:
        """Return the shape that a config.json describes. Raises UserError if it lacks a size."""
        config = model_files.language_part(config)

        def size(*names: str, default: int = 0) -> int:
            for name in names:
                if isinstance(value := config.get(name), int):
                    return value
            if not default:
                raise UserError(f"{source}: has no {names[0]}; give the config.json of a causal language model")
            return default

        family = str(config.get("model_type", ""))
        hidden, heads = size("hidden_size", "n_embd", "d_model"), size("num_attention_heads", "n_head")
        head_size = size("head_dim", default=hidden // heads)
        queries, keys = heads * head_size, size("num_key_value_heads", default=heads) * head_size
        intermediate = size("moe_intermediate_size", "intermediate_size", "n_inner", "ffn_dim", default=4 * hidden)
        biases = 0
        if family == "qwen2" or config.get("attention_bias"):
            biases = queries + 2 * keys + (hidden if config.get("attention_bias") else 0)
        norms = 2
        if family in ("gpt2", "opt"):  # biases everywhere, in the norms too
            biases, norms = queries + 2 * keys + 2 * hidden + intermediate, 4
        return cls(
            source=source,
            layers=size("num_hidden_layers", "n_layer"),
            hidden=hidden,
            intermediate=intermediate,
            queries=queries,
            keys=keys,
            vocabulary=size("vocab_size"),
            tied=bool(config.get("tie_word_embeddings", family in ("gpt2", "opt", "gemma", "gemma2"))),
            gated=family not in UNGATED,
            experts=size("num_local_experts", "num_experts", default=1),
            experts_per_token=size("num_experts_per_tok", default=1),
            head_norms=2 * head_size if family.startswith("qwen3") else 0,
            biases=biases,
            norms=norms,
            positions=size("n_positions") if family == "gpt2" else 0,
            whole_logits=any(config.get(name) not in (None, 1, 1.0) for name in CHANGE_LOGITS),
        )


def read(path: Path) -> Shape:
    """Return the shape in a config.json. Raises UserError if it holds none."""
    try:
        config = json.loads(path.read_text())
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; give the config.json of a model") from None
    except ValueError:
        raise UserError(f"{path}: is not valid JSON; give the config.json of a model") from None
    if not isinstance(config, dict):
        raise UserError(f"{path}: does not hold a JSON object; give the config.json of a model")
    return Shape.of(config, str(path))


def name_of(path: Path) -> str:
    """Return a model's name by the path of its config.json: in the hub's cache, else the folder's, else the file's."""
    for folder in path.absolute().parents:
        if folder.name.startswith("models--"):
            return folder.name.removeprefix("models--").replace("--", "/")
    return path.absolute().parent.name if path.name == "config.json" else path.stem


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
        remedy = "`make setup` downloads it, or give --shape config.json"
        raise SettingsError([wrong("MODEL_NAME", settings.model_name, what, remedy)])
    return shape
