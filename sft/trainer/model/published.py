"""The class of transformers that a checkpoint was published as, and is trained, evaluated and exported as.

A multimodal checkpoint has towers beside its language model. For some of them transformers' AutoModelForCausalLM loads
the language model alone, and for others nothing. Whoever uses the tuned model expects the class that they know.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import transformers

from sft import model_files
from sft.errors import SettingsError, shown, wrong
from sft.settings.fields import Settings
from sft.trainer.model import implementation

PICTURE_TOKEN = re.compile("(image|video|audio)_token_(id|index)")
# The automatic classes whose models write text, in the order in which they are asked.
AUTOMATIC = ("AutoModelForCausalLM", "AutoModelForImageTextToText", "AutoModelForMultimodalLM")


def class_of(config: transformers.PreTrainedConfig, trusted: bool = False) -> Any:
    """Return the class for a configuration: the one that it names itself, if transformers has it.

    It is a model's class, or an automatic one where transformers has to choose, as between its own code and that of the
    model, if that is `trusted`. Raises LookupError if there is none.
    """
    automatic = [getattr(transformers, name) for name in AUTOMATIC if hasattr(transformers, name)]
    for one in automatic:
        if one.__name__ in getattr(config, "auto_map", {}) and (trusted or mapped(one, config)):
            return one
    writers = {found.__name__: found for one in automatic if (found := mapped(one, config))}
    named = (getattr(config, "architectures", None) or [""])[0]
    if named in writers:
        kind = writers[named]
    elif named in names_of_writers(automatic) and of_config(found := getattr(transformers, named), config):
        kind = found  # the language model of a larger one, published alone
    else:
        kind = next((one for one in writers.values() if of_config(one, config)), next(iter(writers.values()), None))
    if kind is None:
        raise LookupError(f"transformers {transformers.__version__} has no {named or 'class'} that writes text for it")
    return kind if of_config(kind, config) else next((one for one in automatic if mapped(one, config)), automatic[0])


def mapped(automatic: Any, config: transformers.PreTrainedConfig) -> Any:
    """Return the class that an automatic class has for a configuration, or None."""
    mapping = automatic._model_mapping
    if type(config) not in mapping:
        return None
    found = mapping[type(config)]
    return found[0] if isinstance(found, tuple) else found


def names_of_writers(automatic: list[Any]) -> set[str]:
    """Return the names of all classes that the automatic classes know."""
    found = (name for one in automatic for name in one._model_mapping._model_mapping.values())
    return {name for names in found for name in ([names] if isinstance(names, str) else names)}


def of_config(kind: Any, config: transformers.PreTrainedConfig) -> bool:
    """Tell whether a model's class takes the whole of a configuration, and not only its part about text."""
    return isinstance(config, getattr(kind, "config_class", None) or ())


def from_pretrained(path: Path, config: transformers.PreTrainedConfig | None = None, **options: Any) -> Any:
    """Load the model in `path` as it was published, with its own configuration or `config`.

    `options` are those of transformers' from_pretrained.
    """
    trusted = bool(options.get("trust_remote_code"))
    if config is None:
        config = own_config(path, trusted)
    return class_of(config, trusted).from_pretrained(path, config=implementation.undecided(config), **options)


def from_config(config: transformers.PreTrainedConfig, trusted: bool = False, **options: Any) -> Any:
    """Return a model with random weights. `trusted`: run code of the model's own; `options`: of transformers."""
    kind = class_of(config, trusted)
    if kind.__name__ in AUTOMATIC:
        return kind.from_config(config, trust_remote_code=trusted, **options)
    return kind._from_config(config, **options)


def positions(config: transformers.PreTrainedConfig) -> int | None:
    """Return the most tokens that a model reads, if its configuration says so under any name."""
    most = model_files.positions(config.to_dict())
    try:
        most = getattr(config.get_text_config(), "max_position_embeddings", None) if most is None else most
    except ValueError:  # more than one part is about text
        return None
    return most if isinstance(most, int) and most > 0 else None


def tokens_of_pictures(config: transformers.PreTrainedConfig, tokenizer: Any) -> frozenset[int]:
    """Return the tokens that stand for pictures, films or sound: the model puts what it sees in their place."""
    named = [value for name, value in config.to_dict().items() if PICTURE_TOKEN.fullmatch(name)]
    return frozenset(token for token in named if token in tokenizer.added_tokens_decoder)


def own_config(folder: Path, trusted: bool) -> transformers.PreTrainedConfig:
    """Return the configuration in a model's folder, of a model whose outputs have names, whatever the file says.

    `trusted`: run code of the model's own. Raises errors of any kind: each kind of model checks its own values.
    """
    return transformers.AutoConfig.from_pretrained(folder, trust_remote_code=trusted, return_dict=True)


def config_in(folder: Path, settings: Settings) -> transformers.PreTrainedConfig:
    """Return the configuration in MODEL_NAME's folder. Raises SettingsError, also if no class writes text for it."""
    if unknown := unknown_type(folder):
        raise SettingsError([wrong("MODEL_NAME", settings.model_name, *unknown)])
    try:
        config = own_config(folder, settings.trust_remote_code)
    except Exception as error:  # of any kind: each kind of model checks its own values
        reason = shown(" ".join(str(error).split()) or type(error).__name__, 200)
        what = f"its config.json cannot be loaded ({reason})"
        raise SettingsError([wrong("MODEL_NAME", settings.model_name, what, "check the folder")]) from None
    check(config, settings)
    return config


def unknown_type(folder: Path) -> tuple[str, str] | None:
    """Return what to say of a model whose type transformers does not know; None if it does, or the model has code."""
    content = model_files.read_json(folder / "config.json")
    kind = content.get("model_type") if isinstance(content, dict) else None
    if not isinstance(kind, str) or model_files.has_code(folder) or kind in transformers.CONFIG_MAPPING:
        return None
    what = f"is a {shown(kind, 50)}, which transformers {transformers.__version__} does not know"
    return what, "update transformers if that is a new family, or use another model"


def check(config: transformers.PreTrainedConfig, settings: Settings) -> None:
    """Raise SettingsError if transformers has no class for MODEL_NAME's configuration that writes text."""
    try:
        class_of(config, settings.trust_remote_code)
    except LookupError as error:
        what = f"is a {config.model_type}: {error}"
        raise SettingsError([wrong("MODEL_NAME", settings.model_name, what, "use a causal language model")]) from None
