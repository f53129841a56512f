"""Tiny models of a configuration to try things on, and whether a failure is the model's or only the copy's."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import transformers

from sft.settings.fields import Settings
from sft.trainer import unpacked_layers
from sft.trainer.causes import is_not_the_models
from sft.trainer.distributed import World
from sft.trainer.loss import TargetLoss
from sft.trainer.model import implementation, published, tiny_copy
from sft.trainer.model.load import DTYPES
from sft.trainer.trial import passes
from sft.trainer.trial.passes import Result

Config = transformers.PreTrainedConfig
ROUTER_LOSS = "output_router_logits"
MOST_WEIGHTS = 2e8  # of a copy: more would take seconds to make
EMBEDDING_SCALE = 5.0  # embeddings are larger than they are made, so that what a token sees matters
UNEVEN = 0.1  # is added at random to weights that are all equal in a new model: biases of 0 would not be missed


@dataclass(frozen=True, eq=False)
class Copies:
    """Makes the same tiny model as often as it is needed."""

    config: Config
    how: str  # what was done to the model's configuration
    is_whole: bool  # nothing was made smaller: a failure is the model's own
    settings: Settings
    world: World
    dtype: torch.dtype

    def model(self, seed: int = 0) -> transformers.PreTrainedModel:
        """Make the model, with random weights. Raises whatever its family raises."""
        torch.manual_seed(seed)
        model: Any = from_config(self.config, self.settings, self.dtype)
        model.to(self.world.device)
        model.config.use_cache = False
        model.name_or_path = self.settings.model_name  # for what is said of it
        # The router's loss depends on which rows share a micro-batch: ways are compared without it.
        set_router_loss(model, False)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if weight.dim() > 1 and "embed" in name:
                    weight.mul_(EMBEDDING_SCALE)
                make_uneven(weight)
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        made: transformers.PreTrainedModel = model.train()
        return made

    def loss(self, seed: int = 0, attention: str | None = None) -> TargetLoss:
        """Return the model that was made first, with the loss of whole logits and its own attention or another one."""
        model, own = self.first(seed)
        unpacked_layers.undo(model, own)  # a trial of packing may have left it packed
        loss = TargetLoss(model).train()
        loss.head_loss = None
        if attention:
            implementation.use_attention(model, attention)
        return loss

    @functools.cache  # noqa: B019  # lives as long as the trial
    def first(self, seed: int) -> tuple[transformers.PreTrainedModel, str]:
        """Make the model of a seed once, for everything that changes nothing in it. Return its own attention, too."""
        model = self.model(seed)
        return model, str(model.config._attn_implementation)

    @property
    def vocabulary(self) -> int:
        """Tokens that the copy has embeddings for."""
        return int(getattr(self.config.get_text_config(), "vocab_size", 0) or tiny_copy.VOCABULARY)

    def alone(self, loss: TargetLoss, seed: int = 0) -> Result:
        """Return the result of some rows, one at a time."""
        return passes.run(loss, passes.rows_of(self.vocabulary, seed), False, self.world.device, alone=True)


def set_router_loss(model: Any, asked: bool) -> None:
    """Have a model ask for its router's auxiliary loss or not, if its family has such a setting."""
    text = model.config.get_text_config()
    if hasattr(text, ROUTER_LOSS):
        setattr(text, ROUTER_LOSS, asked)


def make_uneven(weight: torch.Tensor) -> None:
    """Add something random to a weight whose values are all equal: a bias of zeros or a norm of ones."""
    if weight.numel() and bool((weight == weight.flatten()[0]).all()):
        weight.add_(UNEVEN * torch.randn_like(weight))


def candidates(config: Config, longest: int) -> Iterator[tuple[str, Callable[[], Config]]]:
    """Yield ways to make a configuration small, the most faithful one first."""
    if tiny_copy.is_small(config):
        yield "its own sizes", functools.partial(tiny_copy.as_it_is, config)
    yield "widths and heads divided by one number, fewer layers", functools.partial(tiny_copy.divided, config, longest)
    yield "small sizes", functools.partial(tiny_copy.shrunk, config)
    yield (
        "widths and heads divided by one number, more layers",
        functools.partial(tiny_copy.divided, config, longest, tiny_copy.MOST_LAYERS),
    )


def first_that_runs(config: Config, settings: Settings, world: World) -> tuple[Copies | None, Exception | None]:
    """Return a copy that runs on text alone; without one, a failing one if one can be made, and its error.

    Raises what says nothing of the model, such as OutOfMemoryError.
    """
    failed: Copies | None = None
    reason: Exception | None = None
    for how, make in candidates(config, settings.max_length):
        try:
            small = make()
            found = Copies(small, how, how == "its own sizes", settings, world, DTYPES[settings.precision])
            if weights_of(small, settings) > MOST_WEIGHTS:
                continue
            loss = found.loss()
        except Exception as error:  # of any kind: sizes that do not fit each other
            if is_not_the_models(error):
                raise
            reason = reason or error
            continue
        try:
            found.alone(loss)
        except Exception as error:
            if is_not_the_models(error):
                raise
            failed, reason = failed or found, error if failed is None else reason
            continue
        return found, None
    return failed, reason


def from_config(config: Config, settings: Settings, dtype: torch.dtype) -> transformers.PreTrainedModel:
    """Make a model with random weights."""
    model: transformers.PreTrainedModel = published.from_config(
        copy.deepcopy(config), settings.trust_remote_code, dtype=dtype
    )
    return model


def weights_of(config: Config, settings: Settings) -> int:
    """Return how many weights a model has. It is made without any."""
    with torch.device("meta"):
        return sum(weight.numel() for weight in from_config(config, settings, torch.float32).parameters())


def error_of_making(config: Config, settings: Settings) -> Exception | None:
    """Return the error of making a model in its own size, without weights, as loading it would; None if it is made."""
    try:
        weights_of(config, settings)
    except Exception as error:  # of any kind: the code of a model family
        return None if isinstance(error, NotImplementedError) or is_about_meta(error) else error
    return None


def fails_in_its_own_size(config: Config, error: Exception, settings: Settings) -> bool:
    """Tell whether a model fails in its own size as its copy does. It has no weights there, and computes nothing."""
    try:
        with torch.device("meta"):
            loss = TargetLoss(from_config(config, settings, DTYPES[settings.precision]).train())
            loss.head_loss = None
            passes.run(loss, passes.rows_of(tiny_copy.VOCABULARY, 0), False, torch.device("meta"), alone=True)
    except NotImplementedError:  # what cannot be done without weights
        return False
    except Exception as own:
        return type(own) is type(error) and not is_about_meta(own)
    return False


def is_about_meta(error: Exception) -> bool:
    """Tell whether an error only says that something needs real weights."""
    return any(word in str(error).lower() for word in ("meta", "faketensor", "data-dependent"))
