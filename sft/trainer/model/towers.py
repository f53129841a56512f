"""The parts of a multimodal model that text does not pass: its towers for pictures and sound, and their projectors.

They are frozen and kept as they are. The structure of the model decides which weights these are, not their names.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import logging
import sys
from collections.abc import Iterator
from typing import Any, NoReturn

import torch
import transformers
from torch._subclasses.fake_tensor import FakeTensorMode

from sft.trainer.model import liger

TOKENS = 8  # of the text that a copy without values reads


def is_multimodal(config: transformers.PreTrainedConfig) -> bool:
    """Tell whether a model may have parts for something other than text."""
    return any(isinstance(part, transformers.PreTrainedConfig) for part in vars(config).values())


def unused(model: Any) -> list[str]:
    """Return the names of the parameters that text does not pass; none of a model for text alone."""
    if not is_multimodal(model.config):
        return []
    found = without_gradient(model)
    return outside_decoder(model) if found is None else found


def without_gradient(model: Any) -> list[str] | None:
    """Return the parameters on which a text's logits do not depend; None if that cannot be computed.

    A copy without values reads a text forward and backward. It cannot decide anything by values, such as which expert
    of a list a token goes to. Torch has two kinds of such tensors, and some families can do with only one of them, or
    with only one type of numbers.
    """
    logging.disable(logging.ERROR)  # torch logs what these tensors cannot do, with its stack
    try:
        for dtype, kind in itertools.product((torch.float32, torch.bfloat16), ("fake", "meta")):
            mode = torch.device("meta") if kind == "meta" else FakeTensorMode(allow_non_fake_inputs=True)
            # Exceptions of any kind: the code of a model family.
            with contextlib.suppress(Exception), liger.undone(), no_triton(), mode:
                shape = type(model)._from_config(copy.deepcopy(model.config), dtype=dtype).train()
                shape.tie_weights()
                shape(input_ids=torch.zeros(1, TOKENS, dtype=torch.long), use_cache=False).logits.sum().backward()
                if any(parameter.grad is not None for parameter in shape.get_input_embeddings().parameters()):
                    unused = {name for name, parameter in shape.named_parameters() if parameter.grad is None}
                    return [name for name, _ in model.named_parameters() if name in unused]
    finally:
        logging.disable(logging.NOTSET)
    return None


@contextlib.contextmanager
def no_triton() -> Iterator[None]:
    """Have Triton's kernels raise an error: tensors without values are at the address 0 for them.

    A kernel that writes there ends the process's use of the GPU.
    """
    if "triton" not in sys.modules:
        yield
        return
    from triton.runtime.jit import JITFunction

    run = JITFunction.run

    def refused(*_: object, **options: object) -> NoReturn:
        raise RuntimeError("a kernel was started on tensors without values")

    JITFunction.run = refused
    try:
        yield
    finally:
        JITFunction.run = run


def outside_decoder(model: Any) -> list[str]:
    """Return the parameters outside of the language model as transformers finds it, and of models of other kinds."""
    parts = (model.get_decoder(), model.get_input_embeddings(), model.get_output_embeddings())
    text = {id(parameter) for module in parts if module is not None for parameter in module.parameters()}
    language = model.config.get_text_config()
    others = {id(part) for part in vars(model.config).values() if isinstance(part, transformers.PreTrainedConfig)}
    for module in model.modules():
        if id(getattr(module, "config", None)) in others - {id(language)}:
            text -= {id(parameter) for parameter in module.parameters()}
    return [name for name, parameter in model.named_parameters() if id(parameter) not in text]


def freeze(model: Any) -> list[str]:
    """Freeze what text does not pass. Return the names of these parameters."""
    names = unused(model)
    parameters = dict(model.named_parameters())
    for name in names:
        parameters[name].requires_grad_(False)
    return names


def in_words(model: Any, names: list[str]) -> str:
    """Return the names of the largest modules all of whose parameters are among `names`."""
    frozen, found = set(names), list[str]()
    for path, module in model.named_modules():
        inside = [f"{path}.{name}" for name, _ in module.named_parameters()]
        if path and inside and frozen.issuperset(inside) and not any(path.startswith(f"{one}.") for one in found):
            found.append(path)
    return ", ".join(path.removeprefix("model.") for path in found)
