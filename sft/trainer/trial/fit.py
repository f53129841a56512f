"""Whether a model's files hold the weights of its class. What they lack, transformers makes at random without a word.

transformers itself is asked, as it knows how names have changed: it loads the model onto the meta device, which has no
memory, from the names and shapes in the files' headers. Nothing else of the files is read.
"""

from __future__ import annotations

import collections
import contextlib
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import core_model_loading
from transformers.core_model_loading import _materialize_copy, revert_weight_conversion

from sft import model_files, stored_weights
from sft.errors import SettingsError, shown, wrong
from sft.settings.fields import Settings
from sft.trainer.causes import reason_of
from sft.trainer.model import published
from sft.trainer.model.loaded import AGAIN, from_pretrained, in_words, misfit
from sft.trainer.trial import copies

NUMBER = re.compile(r"\b\d+\b")  # of a layer or an expert, in the name of a weight

# All taken here: where transformers renamed it, looking for it while a model loads would count as one that cannot.
adjust_keys = transformers.PreTrainedModel._adjust_missing_and_unexpected_keys


def check(settings: Settings, folder: Path) -> list[str]:
    """Raise SettingsError if files lack weights of the model, or hold others than config.json says.

    Return what else is to be said: which of their weights the model does not have, and which buffers they lack.
    """
    check_generation(settings, folder)
    found = loaded_without_values(settings, folder)
    if found is None:
        check_making(settings, folder)
        if names := missing_parts(settings, folder):
            what = f"its files lack {in_words(names)}, which they have of other layers or experts"
            raise SettingsError([wrong("MODEL_NAME", settings.model_name, what, AGAIN)])
        return []  # the ranks ask for the rest when they load it: load.py
    if problem := misfit(*found) or untied(settings, folder, found[0]):
        raise SettingsError([wrong("MODEL_NAME", settings.model_name, *problem)])
    model, info = found
    if kinds := quantised(info["pickled"]):
        what = f"its weights are quantised already ({kinds})"
        raise SettingsError([wrong("MODEL_NAME", settings.model_name, what, stored_weights.ORIGINAL)])
    kind = type(model).__name__
    name, said = f"{kind} from {settings.model_name}", []
    written = model_files.read_json(folder / "config.json")
    architectures = written.get("architectures") if isinstance(written, dict) else None
    if isinstance(architectures, list) and architectures and kind not in architectures:
        said.append(f"{settings.model_name} was saved as {architectures[0]}: it is trained and written as {kind}")
    if others := stored_weights.passed_by(folder):
        what = f"holds {stored_weights.SINGLE} beside an index of {len(others)} other files ({others[0]}, …)"
        said.append(f"{settings.model_name} {what}: the former is loaded; if it is an older model, remove it")
    unexpected = sorted(info.get("unexpected_keys") or ())
    if parts := parts_of_layers(model, unexpected, folder):
        what = f"its files hold {in_words(parts)}, and its config.json makes these layers without them"
        raise SettingsError([wrong("MODEL_NAME", settings.model_name, what, AGAIN)])
    if unexpected:
        said.append(f"{name} has no place for {in_words(unexpected)}: they are not used, and not in final/")
    if missing := sorted({buffer for buffer, _ in model.named_buffers()} & set(info.get("missing_keys") or ())):
        said.append(f"{name} lacks {in_words(missing)} in its files: they keep the values that its class gives them")
    empty = stored_weights.zeros(folder, stored_weights.weight_files(folder))
    if empty := [weight for weight in empty if weight not in unexpected]:
        what = "as a download leaves that was interrupted; fetch the model again if that is not meant"
        said.append(f"{settings.model_name} has nothing but zeros in {in_words(empty)}, {what}")
    return said


def quantised(pickled: collections.Counter[torch.dtype]) -> str:
    """Return the types of pickled weights that are quantised, or "". They would be taken as they are."""
    low = {dtype for dtype in pickled if dtype.is_floating_point and dtype.itemsize == 1}
    whole = {dtype for dtype in pickled if not dtype.is_floating_point and dtype != torch.bool}
    is_most = sum(pickled[dtype] for dtype in whole) > stored_weights.MOST_WHOLE_NUMBERS * pickled.total()
    return ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in low | (whole if is_most else set())))


def check_making(settings: Settings, folder: Path) -> None:
    """Raise SettingsError if transformers cannot make the model of config.json in its own size, without weights.

    The trial makes a smaller one, in which some values are others.
    """
    config = published.config_in(folder, settings)
    if (error := copies.error_of_making(config, settings)) is None:
        return
    text = config.get_text_config()
    padding, size = getattr(text, "pad_token_id", None), getattr(text, "vocab_size", None)
    if isinstance(padding, int) and isinstance(size, int) and padding >= size:
        what = f"its config.json says pad_token_id {padding}, and it has embeddings for {size} tokens (0 to {size - 1})"
        raise SettingsError([wrong("MODEL_NAME", settings.model_name, what, "set pad_token_id to null there")])
    what = f"transformers cannot make it from its config.json ({shown(reason_of(error), 200)})"
    raise SettingsError([wrong("MODEL_NAME", settings.model_name, what, "fix that file, or use another model")])


def parts_of_layers(model: Any, unexpected: list[str], folder: Path) -> list[str]:
    """Return the weights that a layer of the model has in the files alone, such as a bias: it would compute otherwise.

    Zeros change nothing.
    """
    layers = {
        name
        for name, module in model.named_modules()
        if isinstance(getattr(module, "weight", None), torch.nn.Parameter) and not list(module.children())
    }
    found = [name for name in unexpected if name.rpartition(".")[0] in layers]
    empty = stored_weights.zeros(folder, stored_weights.weight_files(folder), dimensions=1) if found else []
    return [name for name in found if name not in empty]


def check_generation(settings: Settings, folder: Path) -> None:
    """Raise SettingsError for a generation_config.json that cannot be loaded: transformers ignores it, or fails."""
    name = transformers.utils.GENERATION_CONFIG_NAME
    try:
        if (folder / name).is_file():
            transformers.GenerationConfig.from_pretrained(folder)
    except Exception as error:  # of any kind: it checks its values
        what = f"its {name} cannot be loaded ({shown(reason_of(error), 200)})"
        raise SettingsError([wrong("MODEL_NAME", settings.model_name, what, "fix or remove that file")]) from None


def loaded_without_values(
    settings: Settings, folder: Path, but: Collection[torch.Size] = ()
) -> tuple[Any, dict[str, Any]] | None:
    """Return a model without values, and what transformers says of its loading; None if it does not load so.

    Weights of the shapes in `but` get their values. The bytes of pickled weights are under "pickled", by their types.
    """
    transformers.logging.set_verbosity_error()
    try:
        with nothing_read(but) as pickled, all_noted() as found, torch.device("meta"):
            model, info = from_pretrained(
                folder, dtype=torch.float32, device_map="meta",
                use_safetensors=None if settings.allow_pickle else True, trust_remote_code=settings.trust_remote_code,
            )  # fmt: skip
    except Exception:  # of any kind: families compute with their weights when they are loaded
        return None
    spare = {name for name in found if name.endswith(".weight")}  # not masks and frequencies
    return model, info | {"unexpected_keys": spare | set(info.get("unexpected_keys") or ()), "pickled": pickled}


def missing_parts(settings: Settings, folder: Path) -> list[str]:
    """Return the weights that saving would write, and that the files lack while they have others of their kind.

    transformers makes one weight of the matrices of all experts: where one of them is missing, it fails.
    """
    stored = {
        name
        for path in stored_weights.weight_files(folder)
        if path.endswith(".safetensors")
        for name in stored_weights.header(folder / path)[0]
    }
    try:
        config = published.config_in(folder, settings)
        with torch.device("meta"):
            model = published.from_config(config, settings.trust_remote_code)
        weights = {name: weight for name, weight in model.named_parameters() if name not in model.all_tied_weights_keys}
        written = revert_weight_conversion(model, weights)
    except Exception:  # of any kind: the code of a model family
        return []
    kinds = {NUMBER.sub("N", name) for name in stored}
    return sorted(name for name in written.keys() - stored if NUMBER.sub("N", name) in kinds)


@contextlib.contextmanager
def nothing_read(but: Collection[torch.Size]) -> Iterator[collections.Counter[torch.dtype]]:
    """Have transformers take a tensor's shape from its file, and not its values, unless the shape is in `but`.

    Yield the bytes of pickled tensors by their types. (Headers say them of others: stored_weights.py.)
    """
    pickled = collections.Counter[torch.dtype]()

    def without_values(tensor: Any, device: object = None, dtype: torch.dtype | None = None) -> torch.Tensor:
        shape = tensor.shape if isinstance(tensor, torch.Tensor) else torch.Size(tensor.get_shape())
        if shape in but:
            return _materialize_copy(tensor, "cpu", None)
        if isinstance(tensor, torch.Tensor):
            pickled[tensor.dtype] += tensor.nbytes
            return tensor.to("meta", dtype)
        return torch.empty(tensor.get_shape(), dtype=dtype or torch.float32, device="meta")

    core_model_loading._materialize_copy = without_values
    try:
        yield pickled
    finally:
        core_model_loading._materialize_copy = _materialize_copy


@contextlib.contextmanager
def all_noted() -> Iterator[set[str]]:
    """Yield a set that gets all names in a model's files that the model has no place for.

    transformers is silent about those that a family's patterns name: layers that predict several tokens at once (MTP).
    """
    kind: Any = transformers.PreTrainedModel
    found = set[str]()

    def noted(model: Any, info: Any) -> None:
        found.update(info.unexpected_keys)
        adjust_keys(model, info)

    kind._adjust_missing_and_unexpected_keys = noted
    try:
        yield found
    finally:
        kind._adjust_missing_and_unexpected_keys = adjust_keys


def untied(settings: Settings, folder: Path, model: Any) -> tuple[str, str] | None:
    """Return what to say of weights that config.json ties and that differ in the files, or None.

    transformers does not tie them, but under ZeRO-3 it does not see their values, and drops one. Merging an adapter
    with a head of its own into a tied model leaves such files.
    """
    tied = [[model.get_parameter_or_buffer(name) for name in pair] for pair in model.all_tied_weights_keys.items()]
    stored = {weight.shape for weight, other in tied if weight is not other}  # both, otherwise it is tied to the other
    found = loaded_without_values(settings, folder, stored) if stored else None
    if found is None or not (apart := sorted(model.all_tied_weights_keys.keys() - found[0].all_tied_weights_keys)):
        return None
    name, other = apart[0], model.all_tied_weights_keys[apart[0]]
    what = f"its config.json ties {name} to {other} (tie_word_embeddings), and its files hold two different ones"
    return what, "set tie_word_embeddings to false in it if both were trained, or remove the former from the files"
