"""Print whether the model in argv[1] is compiled, with a compiler that is right and with wrong ones.

A program of its own: DeepSpeed chooses its accelerator once a process.
"""

from __future__ import annotations

import functools
import itertools
import json
import math
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sft.errors import SettingsError
from sft.settings import deepspeed
from sft.settings.stages import Effective
from sft.trainer import compiled, dry_run, fast_paths
from sft.trainer.engine import end_engine, start_engine
from tests.settings import decided
from tests.torch.one_rank import one_rank, random_rows

Graph = Callable[..., Sequence[Any]]
compile_ = torch.compile


class Doubled(torch.autograd.Function):
    """The same values, and gradients twice as large."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor) -> torch.Tensor:
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        return 2 * gradients[0]


class Failing(torch.autograd.Function):
    """The same values, and no gradients."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor) -> torch.Tensor:
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("no such kernel")


def changing(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Graph, object], Graph]:
    """Return a compiler whose graphs give every tensor of numbers changed."""

    def compiler(graph: Graph, inputs: object) -> Graph:
        return lambda *given: tuple(
            change(one) if isinstance(one, torch.Tensor) and one.is_floating_point() else one for one in graph(*given)
        )

    return compiler


BACKENDS: dict[str, object] = {
    "right": "aot_eager",
    "values": changing(lambda values: 2 * values),
    "gradients": changing(Doubled.apply),
    "fails": changing(Failing.apply),
}


def main() -> None:
    """Print what is left out with each compiler and stage of ZeRO, and the norm of the gradient after that."""
    found: dict[str, list[object]] = {}
    with one_rank() as world, tempfile.TemporaryDirectory() as folder:
        rows = random_rows(Path(folder) / "rows", 8, 60, 8)
        for stage, (kind, backend) in itertools.product((2, 3), BACKENDS.items()):
            torch.compile = functools.partial(compile_, backend=backend)
            torch.compiler.set_stance("default")
            torch._dynamo.reset()
            config = Path(folder) / "config.json"
            config.write_text(json.dumps({"zero_optimization": {"stage": stage}}))
            settings = decided(nodes=1, gpus_per_node=1, precision="fp32", compile=1, ds_config=str(config))
            engine, _ = start_engine(Path(sys.argv[1]), settings, deepspeed.configuration(settings), world)
            with torch.compiler.set_stance(compiled.UNCOMPILED):
                packing = fast_paths.take_fast_paths(engine, True, world)
            try:
                compiled.use(engine, rows, Effective.of(settings), packing, world)
            except SettingsError as error:
                found[f"{kind} {stage}"] = [error.problems, None]
            else:
                norms = dry_run.norms(engine, rows, np.arange(len(rows)), packing, world)
                found[f"{kind} {stage}"] = [engine.module.left_out, math.hypot(*norms.values())]
            end_engine(engine)
    print("\n" + json.dumps(found))


if __name__ == "__main__":
    main()
