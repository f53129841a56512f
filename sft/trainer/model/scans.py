"""Functions that mix the tokens of a sequence: convolutions, linear attention and state spaces.

transformers calls them by their name in a family's module. There they are replaced by versions that keep packed
sequences apart, each as if it were alone, and that use fla's kernels where these are right. Functions are found by the
arguments that they take; there is no list of families.
"""

from __future__ import annotations

import functools
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any, NamedTuple

import torch

from sft.run.records import Tried
from sft.trainer import packed
from sft.trainer.attention import has_kernels
from sft.trainer.model import fla_kernels
from sft.trainer.packed import Packed

SLOW = "are computed by plain PyTorch, several times slower"
CHUNK = 64  # tokens, at most: memory of the plain code grows with it
STATES = ("initial_state", "initial_states", "output_final_state", "return_final_states", "return_last_state")


class Kind(NamedTuple):
    """Functions that take the same arguments."""

    takes: frozenset[str]  # names of arguments that tell it from others
    axis: int  # of tokens in the tensors
    kernel: str  # of fla; "": none
    package: str = ""  # transformers uses it instead of its own code if it is installed


KINDS = (
    Kind(frozenset({"query", "key", "value", "g", "beta", "chunk_size"}), 1, "delta rule"),
    Kind(frozenset({"hidden_states", "dt", "A", "B", "C", "chunk_size"}), 1, "state space", "mamba_ssm"),
    Kind(frozenset({"hidden_states", "dt", "A", "B", "C", "delta_softplus"}), 2, "", "mamba_ssm"),
    Kind(frozenset({"hidden_states", "weight", "bias", "activation"}), 2, "convolution", "causal_conv1d"),
)
NOT_OF_SEQUENCES = {"conv_state", "state"}  # arguments of functions that take one token


class Mixing:
    """A function that mixes the tokens of a sequence, but not those of different packed ones."""

    def __init__(self, function: Callable[..., Any], kind: Kind) -> None:
        functools.update_wrapper(self, function)
        self.function, self.kind = function, kind
        self.plain = inspect.unwrap(function)  # transformers' own code, whatever is installed
        self.signature = inspect.signature(self.plain)
        self.uses_kernel = False

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Compute the function."""
        given = self.signature.bind(*args, **kwargs).arguments
        extra = given.pop("kwargs", {})
        if any(given.get(name, extra.get(name)) not in (None, False) for name in STATES):
            return self.function(*args, **kwargs)
        tensor: torch.Tensor = next(iter(given.values()))
        sequences = packed.noted()
        if sequences and (len(tensor), tensor.shape[self.kind.axis]) != (1, sequences.tokens):
            sequences = None
        if self.uses_kernel and tensor.is_cuda and tensor.dtype != torch.float32:
            return fla_kernels.KERNELS[self.kind.kernel](given, sequences)
        if "chunk_size" in self.signature.parameters:
            given["chunk_size"] = min(CHUNK, given.get("chunk_size", CHUNK))
        if sequences is None:
            return self.plain(**given, **extra)
        if self.kind.kernel == "convolution":
            return self.spread(given, extra, sequences)
        return self.in_groups(given, extra, sequences)

    def spread(self, given: dict[str, Any], extra: dict[str, Any], sequences: Packed) -> Any:
        """Convolve packed sequences with zeros between them, as there are before a sequence that is alone."""
        values, reach = given["hidden_states"], given["weight"].shape[-1] - 1
        places = sequences.places_with_gaps(reach)
        whole = values.new_zeros(*values.shape[:2], sequences.tokens + reach * (len(sequences.lengths) - 1))
        given["hidden_states"] = whole.index_copy(2, places, values)
        return self.plain(**given, **extra).index_select(2, places)

    def in_groups(self, given: dict[str, Any], extra: dict[str, Any], sequences: Packed) -> Any:
        """Compute packed sequences in padded groups of similar lengths."""
        groups, axis = sequences.by_length, self.kind.axis
        results = []
        for group in range(len(groups.places)):

            def unpacked(value: Any, group: int = group) -> Any:
                if not isinstance(value, torch.Tensor) or value.dim() <= axis:
                    return value
                if (len(value), value.shape[axis]) != (1, sequences.tokens):
                    return value
                return groups.unpack(value[0].movedim(axis - 1, 0), group).movedim(1, axis)

            result = self.plain(**{name: unpacked(value) for name, value in given.items()}, **extra)
            results.append(result if isinstance(result, torch.Tensor) else result[0])
        whole = groups.pack([result.movedim(axis, 1) for result in results]).movedim(0, axis - 1)[None]
        return whole if isinstance(result, torch.Tensor) else (whole, None)


def kind_of(function: object) -> Kind | None:
    """Return what kind of mixing function this is; None if it is another."""
    if not inspect.isfunction(function):
        return None
    names = inspect.signature(inspect.unwrap(function)).parameters.keys()
    found = (kind for kind in KINDS if kind.takes <= names and names.isdisjoint(NOT_OF_SEQUENCES))
    kind = next(found, None)
    if kind and kind.package and importlib.util.find_spec(kind.package):
        return None
    return kind


def replace(model: torch.nn.Module) -> None:
    """Replace the mixing functions of a model's family, in its modules."""
    for module in modules_of(model):
        for name, value in list(vars(module).items()):
            if kind := kind_of(value):
                setattr(module, name, Mixing(value, kind))


def of(model: torch.nn.Module) -> list[Mixing]:
    """Return the mixing functions of a model's family, once replaced."""
    return [value for module in modules_of(model) for value in vars(module).values() if isinstance(value, Mixing)]


def modules_of(model: torch.nn.Module) -> list[ModuleType]:
    """Return the Python modules in which the classes of a model's parts are."""
    return [sys.modules[name] for name in sorted({type(module).__module__ for module in model.modules()})]


def could_be_fast(device: torch.device, dtype: torch.dtype) -> bool:
    """Tell whether fla's kernels run on a device and in a type: in fp32 they round more than PyTorch."""
    return device.type == "cuda" and dtype in (torch.bfloat16, torch.float16) and has_kernels()


def is_installed() -> bool:
    """Tell whether fla is."""
    return importlib.util.find_spec("fla") is not None


def names(model: torch.nn.Module) -> list[str]:
    """Return the kernels of fla that a model's family could use."""
    return sorted({function.kind.kernel for function in of(model)} - {""})


def use_kernels(model: torch.nn.Module, kernels: Iterable[str]) -> list[str]:
    """Have the mixing functions of a model's family use those kernels of fla, and no others. Return those it has."""
    found = of(model)
    for function in found:
        function.uses_kernel = function.kind.kernel in kernels
    return sorted({function.kind.kernel for function in found if function.uses_kernel})


def take_kernels(model: torch.nn.Module, tried: Tried, said: list[str]) -> list[str]:
    """Use fla's kernels that were right on a copy of the model. Return them; add to `said` what a user should know."""
    usable = names(model)
    if not usable:
        return []
    if tried.not_tried:
        said.append(f"{type(model).__name__}: no copy of it was tried with fla's {' and '.join(usable)}: without them")
        return []
    if not is_installed():
        said.append(f"{type(model).__name__}: its {' and '.join(usable)} {SLOW}; install fla-core")
        return []
    try:
        fla_kernels.load()
    except (ImportError, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        said.append(f"fla-core does not load ({reason}): {' and '.join(usable)} {SLOW}")
        return []
    return use_kernels(model, fla_kernels.KERNELS.keys() - set(tried.without_scans))
