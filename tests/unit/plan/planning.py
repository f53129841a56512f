"""What the tests of the plan share."""

from typing import Any

from sft.host import gpus
from sft.host.plan import cards, lookup, planner
from sft.host.plan.conditions import Options
from sft.host.plan.plan import Plan
from sft.host.plan.shapes import Shape
from sft.settings.load import load

ONE_B, THREE_B, EIGHT_B = (Shape.of(config, name) for name, config in list(lookup.BUILT_IN.items())[:3])
H100 = cards.need("H100")
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}
SIZES = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "pad_token_id": 0}


def planned(gpu: str = "4090", number: int = 4, **settings: Any) -> Plan:
    """Return the plan on other machines; some names are options of `make plan`, all others settings."""
    names = ("host_gib", "gpu_gib", "tokens_per_row", "rows", "shape")
    options = {name: settings.pop(name) for name in names if name in settings}
    return planner.plan_with(load(None, **settings), Options(gpu, number, **options))


def card_here(name: str = "NVIDIA GeForce RTX 4090", used_gib: float = 0.5) -> list[gpus.Gpu]:
    """Return four GPUs of this machine."""
    return [gpus.Gpu(index, name, 0, used_gib, 24.0, 40, 50.0, "580.1", f"GPU-{index}") for index in range(4)]
