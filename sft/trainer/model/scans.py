"""Functions that mix the tokens of a sequence: convolutions, linear attention and state spaces.

transformers calls them by their name in a family's module. There they are replaced by versions that keep packed
sequences apart, each as if it were alone. Some also have a faster version here. Functions are found by the arguments
that they take; there is no list of families.
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
from torch.utils.checkpoint import checkpoint
from transformers.integrations import hub_kernels

from sft.run.records import Tried
from sft.trainer import packed
from sft.trainer.model.delta_rule import delta_rule
from sft.trainer.model.state_space import state_space
from sft.trainer.packed import Packed

CHUNK = 64  # tokens, at most: memory of transformers' own code grows with it
STATES = ("initial_state", "initial_states", "output_final_state", "return_final_states", "return_last_state")
SAME = 1e-3  # a faster version differs by less on random numbers in fp32, as a share
Given = dict[str, Any]  # the arguments of a function by their names


class Kind(NamedTuple):
    """Functions that take the same arguments."""

    takes: frozenset[str]  # names of arguments that tell it from others
    axis: int  # of tokens in the tensors
    package: str = ""  # transformers uses it instead of its own code if it is installed
    fast: str = ""  # what the faster version is called
    compute: Callable[[Given, Packed | None], Any] | None = None  # the faster version
    takes_borders: bool = False  # of packed sequences; otherwise it computes padded groups
    sizes: tuple[tuple[str, tuple[int, ...]], ...] = ()  # of arguments to try it on


CONVOLUTION = Kind(frozenset({"hidden_states", "weight", "bias", "activation"}), 2, "causal_conv1d")
KINDS = (
    CONVOLUTION,
    Kind(frozenset({"hidden_states", "dt", "A", "B", "C", "delta_softplus"}), 2, "mamba_ssm"),
    Kind(
        frozenset({"hidden_states", "dt", "A", "B", "C", "chunk_size"}), 1, "mamba_ssm",
        "state space in chunks", state_space, True,
        (("hidden_states", (1, 70, 4, 3)), ("dt", (1, 70, 4)), ("A", (4,)), ("B", (1, 70, 2, 5)), ("C", (1, 70, 2, 5)),
         ("D", (4,)), ("dt_bias", (4,))),
    ),
    Kind(
        frozenset({"query", "key", "value", "g", "beta", "chunk_size"}), 1, "",
        "delta rule in blocks", delta_rule, True,
        (("query", (1, 70, 4, 3)), ("key", (1, 70, 4, 3)), ("value", (1, 70, 4, 3)), ("g", (1, 70, 4)),
         ("beta", (1, 70, 4))),
    ),
)  # fmt: skip
NOT_OF_SEQUENCES = {"conv_state", "state"}  # arguments of functions that take one token


class Mixing:
    """A function that mixes the tokens of a sequence, but not those of different packed ones."""

    def __init__(self, function: Callable[..., Any], kind: Kind) -> None:
        functools.update_wrapper(self, function)
        self.function, self.kind = function, kind
        self.plain = inspect.unwrap(function)  # transformers' own code, whatever is installed
        self.signature = inspect.signature(self.plain)
        self.is_fast = False

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Compute the function."""
        given = self.signature.bind(*args, **kwargs).arguments
        extra = given.pop("kwargs", {})
        tensor: torch.Tensor = next(iter(given.values()))
        if any(given.get(name, extra.get(name)) not in (None, False) for name in STATES):  # generation
            return (self.function if tensor.is_cuda else self.plain)(*args, **kwargs)
        sequences = packed.noted()
        if sequences and (len(tensor), tensor.shape[self.kind.axis]) != (1, sequences.tokens):
            sequences = None
        if self.is_fast:
            return self.fast(given, sequences)
        if "chunk_size" in self.signature.parameters:
            given["chunk_size"] = min(CHUNK, given.get("chunk_size", CHUNK))

        def plain(given: Given) -> Any:
            return self.plain(**given, **extra)

        if sequences is None:
            return plain(given)
        if self.kind is CONVOLUTION:
            return spread(plain, given, sequences)
        return in_groups(plain, given, sequences, self.kind.axis)

    def fast(self, given: Given, sequences: Packed | None) -> Any:
        """Compute the faster version, again in backward: what it keeps is several times as large as its inputs."""
        if not torch.is_grad_enabled():
            return self.apart(given, sequences)
        return checkpoint(self.apart, given, sequences, use_reentrant=False, preserve_rng_state=False)

    def apart(self, given: Given, sequences: Packed | None) -> Any:
        """Compute the faster version for rows of a batch, or for packed sequences."""
        compute = self.kind.compute
        assert compute is not None
        if sequences is None or self.kind.takes_borders:
            return compute(given, sequences)
        return in_groups(lambda given: compute(given, None), given, sequences, self.kind.axis)

    @functools.cached_property
    def has_fast(self) -> bool:
        """Whether the faster version is the same function. Arguments of equal names may mean something else."""
        if self.kind.compute is None:
            return False
        generator = torch.Generator().manual_seed(0)
        given: Given = {
            name: torch.randn(size, generator=generator, device="cpu", dtype=torch.float32)
            for name, size in self.kind.sizes
        }
        for name in {"A", "g"} & given.keys():
            given[name] = -given[name].abs()
        given |= {"chunk_size": CHUNK} | dict.fromkeys({"dt_softplus", "use_qk_l2norm_in_kernel"}, True)
        given = {name: value for name, value in given.items() if name in self.signature.parameters}
        try:
            with torch.no_grad():
                pair = self.plain(**given), self.kind.compute(given, None)
        except Exception:  # of any kind: the code of a model family
            return False
        plain, fast = (one if isinstance(one, torch.Tensor) else one[0] for one in pair)
        return plain.shape == fast.shape and bool((plain - fast).norm() <= SAME * plain.norm())


def spread(plain: Callable[[Given], Any], given: Given, sequences: Packed) -> Any:
    """Convolve packed sequences with zeros between them, as there are before a sequence that is alone."""
    values, reach = given["hidden_states"], given["weight"].shape[-1] - 1
    places = sequences.places_with_gaps(reach)
    whole = values.new_zeros(*values.shape[:2], sequences.tokens + reach * (len(sequences.lengths) - 1))
    return plain(given | {"hidden_states": whole.index_copy(2, places, values)}).index_select(2, places)


def in_groups(plain: Callable[[Given], Any], given: Given, sequences: Packed, axis: int) -> Any:
    """Compute packed sequences in padded groups of similar lengths."""
    groups = sequences.by_length
    results = []
    for group in range(len(groups.places)):

        def unpacked(value: Any, group: int = group) -> Any:
            if not isinstance(value, torch.Tensor) or value.dim() <= axis:
                return value
            if (len(value), value.shape[axis]) != (1, sequences.tokens):
                return value
            return groups.unpack(value[0].movedim(axis - 1, 0), group).movedim(1, axis)

        result = plain({name: unpacked(value) for name, value in given.items()})
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
            elif is_chosen(value):
                setattr(module, name, on_gpus(value))


def is_chosen(function: object) -> bool:
    """Tell whether transformers calls a function of a package instead of this one of its own, if it is installed."""
    if not inspect.isfunction(function) or function.__code__.co_filename != hub_kernels.__file__:
        return False
    return inspect.unwrap(function) is not function


def on_gpus(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function of transformers, but on a CPU its own code: it would call a kernel of an installed package."""
    plain = inspect.unwrap(function)

    @functools.wraps(plain)
    def chosen(*args: Any, **kwargs: Any) -> Any:
        tensor = next(value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor))
        return (function if tensor.is_cuda else plain)(*args, **kwargs)

    return chosen


def of(model: torch.nn.Module) -> list[Mixing]:
    """Return the mixing functions of a model's family, once replaced."""
    return [value for module in modules_of(model) for value in vars(module).values() if isinstance(value, Mixing)]


def modules_of(model: torch.nn.Module) -> list[ModuleType]:
    """Return the Python modules in which the classes of a model's parts are."""
    return [sys.modules[name] for name in sorted({type(module).__module__ for module in model.modules()})]


def names(model: torch.nn.Module) -> list[str]:
    """Return the faster versions that there are for a model's family."""
    return sorted({function.kind.fast for function in of(model) if function.has_fast})


def use(model: torch.nn.Module, chosen: Iterable[str]) -> list[str]:
    """Have a model's family use these faster versions, and no others. Return those that it has."""
    for function in of(model):
        function.is_fast = function.kind.fast in chosen and function.has_fast
    return sorted({function.kind.fast for function in of(model) if function.is_fast})


def take(model: torch.nn.Module, tried: Tried) -> list[str]:
    """Use the faster versions that were right on a copy of the model. Return them."""
    return use(model, [] if tried.not_tried else [name for name in names(model) if name not in tried.without_scans])
