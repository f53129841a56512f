"""Combine a DeepSpeed JSON file and the settings into the configuration that DeepSpeed receives."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from sft import ROOT
from sft.errors import SettingsError, wrong
from sft.settings import variables
from sft.settings.fields import DS_CONFIGS, Settings
from sft.strict_json import DEEPEST, depth, no_number, once

STATES = ("_master_weights_and_grads", "_optimizer_states")
MASTER_WEIGHTS, OPTIMIZER_STATES = (f"bf16{key}" for key in STATES)


@dataclass(frozen=True)
class DsConfig:
    """A configuration as DeepSpeed receives it. The form of its JSON is DeepSpeed's own."""

    content: dict[str, object]

    def section(self, name: str) -> dict[str, object]:
        """Return a section, empty if there is none."""
        found = self.content.get(name)
        return found if isinstance(found, dict) else {}

    @property
    def zero(self) -> dict[str, object]:
        """The section `zero_optimization`."""
        return self.section("zero_optimization")

    @property
    def stage(self) -> int:
        """The ZeRO stage: 1, 2 or 3."""
        stage = self.zero.get("stage")
        return stage if isinstance(stage, int) else 0

    @property
    def has_16_bit_states(self) -> bool:
        """Whether AdamW's weights and moments are bf16."""
        return bool(self.section("bf16").get(OPTIMIZER_STATES))

    def size(self, name: str, default: int) -> int:
        """Return a size in `zero_optimization`, or the default if the configuration leaves it open."""
        value = self.zero.get(name)
        return int(value) if isinstance(value, int | float) else default

    def offloads(self, what: str) -> bool:
        """Whether `offload_optimizer` or `offload_param` moves something out of the GPU's memory."""
        section = self.zero.get(what)
        return isinstance(section, dict) and section.get("device", "none") != "none"

    def with_zero_defaults(self, values: dict[str, int]) -> DsConfig:
        """Return the configuration with values for what its section `zero_optimization` leaves open."""
        return DsConfig({**self.content, "zero_optimization": {**values, **self.zero}})


def configuration(settings: Settings, file: dict[str, object] | None = None) -> DsConfig:
    """Return the configuration that DeepSpeed receives: the file, with the settings filled in as numbers.

    `file`: the content of the file when the run began, if it has changed since. Raises SettingsError if the file is
    unusable, or contradicts a setting.
    """
    config = read(settings) if file is None else dict(file)
    problems = []
    ours: dict[str, tuple[str, object]] = {
        "train_micro_batch_size_per_gpu": ("BATCH_SIZE", settings.batch_size),
        "gradient_clipping": ("GRAD_CLIP", settings.grad_clip),
    }
    if settings.precision != "auto":
        ours["bf16"] = ("PRECISION", {"enabled": settings.precision == "bf16"})
        ours["fp16"] = ("PRECISION", {"enabled": settings.precision == "fp16"})
    for key, (name, value) in ours.items():
        given = config.get(key, "auto")
        options = {}
        if isinstance(given, dict):  # precision: the file may tune it, the setting chooses it
            options = given
            given = {"enabled": given["enabled"]} if given.get("enabled", "auto") != "auto" else "auto"
        if given not in ("auto", value):
            remedy = f"change {name} or remove {key} from the file"
            what = f"DS_CONFIG={settings.ds_config} says {key} = {json.dumps(given)}"
            problems.append(wrong(name, getattr(settings, name.lower()), what, remedy))
        config[key] = options | value if isinstance(value, dict) else value
    accumulation = config.get("gradient_accumulation_steps", "auto")
    if accumulation not in ("auto", 1, settings.gradient_accumulation_steps):
        what = f"DS_CONFIG={settings.ds_config} says gradient_accumulation_steps = {accumulation}"
        remedy = "remove it from the file"
        problems.append(wrong("GRADIENT_ACCUMULATION_STEPS", settings.gradient_accumulation_steps, what, remedy))
    # The trainer marks the step's last micro-step itself (set_gradient_accumulation_boundary).
    config["gradient_accumulation_steps"] = 1
    whole = config.pop("train_batch_size", "auto")
    if whole not in ("auto", settings.sequences_per_step):
        what = f"DS_CONFIG={settings.ds_config} says train_batch_size = {whole}"
        problems.append(wrong("GLOBAL_BATCH_SIZE", settings.sequences_per_step, what, "remove it from the file"))
    for key in ("optimizer", "scheduler"):
        if key in config:
            remedy = f"remove {key} from the file; LEARNING_RATE, WEIGHT_DECAY and LR_SCHEDULER set it"
            problems.append(wrong("DS_CONFIG", settings.ds_config, f"has its own {key}", remedy))
    stage = DsConfig(config).zero.get("stage")
    if isinstance(stage, bool) or stage not in (1, 2, 3):
        problems.append(
            wrong("DS_CONFIG", settings.ds_config, f"zero_optimization.stage is {stage}", "write 1, 2 or 3")
        )
    elif settings.lora_base_bits == 4 and stage == 3:
        # ZeRO-3 splits a parameter, but loses the scales that belong to its 4-bit values.
        what = f"DS_CONFIG={settings.ds_config} is ZeRO-3, which cannot shard 4-bit weights"
        problems.append(wrong("LORA_BASE_BITS", 4, what, "use DS_CONFIG=zero2"))
    if settings.optimizer_bits == 16:
        problems += problems_of_16_bit_states(DsConfig(config), settings)
        config = with_16_bit_states(config)
    else:
        problems += states_without_rounding(config, settings)
    if problems:
        raise SettingsError(problems)
    return DsConfig(without_auto(config))


def problems_of_16_bit_states(config: DsConfig, settings: Settings) -> list[str]:
    """Return a line for everything that OPTIMIZER_BITS=16 does not work with."""
    problems = []
    if settings.precision not in ("bf16", "auto"):
        what, remedy = f"needs bf16, and PRECISION is {settings.precision}", "use PRECISION=bf16, or OPTIMIZER_BITS=32"
        problems.append(wrong("OPTIMIZER_BITS", 16, what, remedy))
    if config.offloads("offload_optimizer") or config.offloads("offload_param"):
        what = f"DS_CONFIG={settings.ds_config} offloads to main memory, which has room for 32 bits"
        problems.append(wrong("OPTIMIZER_BITS", 16, what, "use DS_CONFIG=zero3, or OPTIMIZER_BITS=32"))
    if settings.lora_base_bits == 4:
        what, remedy = "with LORA_BASE_BITS=4 the optimizer has only the adapter, a few MiB", "use OPTIMIZER_BITS=32"
        problems.append(wrong("OPTIMIZER_BITS", 16, what, remedy))
    for where, key, value in (
        (config.zero, "mics_shard_size", -1),  # the copies of a shard would be rounded differently
        (config.section("bf16"), MASTER_WEIGHTS, True),
        (config.section("bf16"), OPTIMIZER_STATES, True),
        (config.section("data_types"), "grad_accum_dtype", "bf16"),  # DeepSpeed has another optimizer for fp32
    ):
        if where.get(key, "auto") not in ("auto", None, value):
            what = f"DS_CONFIG={settings.ds_config} says {key} = {json.dumps(where[key])}"
            problems.append(wrong("OPTIMIZER_BITS", 16, what, f"remove {key} from the file, or use OPTIMIZER_BITS=32"))
    return problems


def with_16_bit_states(config: dict[str, object]) -> dict[str, object]:
    """Return a configuration whose weights and moments are bf16. Their optimizer is sft/trainer/optimizer.py."""
    states = {**DsConfig(config).section("bf16"), MASTER_WEIGHTS: True, OPTIMIZER_STATES: True}
    return {**config, "bf16": states}


def states_without_rounding(config: dict[str, object], settings: Settings) -> list[str]:
    """Return a line for each state in 16 bits that a file asks for. Rounded to the nearest value it would not move."""
    found = [
        (name, key)
        for name in ("bf16", "fp16")
        for key in STATES
        if DsConfig(config).section(name).get(name + key, "auto") not in ("auto", None, False)
    ]
    return [
        wrong(
            "DS_CONFIG",
            settings.ds_config,
            f"says {name}.{name}{key}, with which AdamW's small updates are rounded to nothing",
            "remove it from the file; OPTIMIZER_BITS=16 has such states, rounded stochastically",
        )
        for name, key in found
    ]


def path(settings: Settings) -> Path:
    """Return the DeepSpeed JSON file that DS_CONFIG names."""
    if settings.ds_config in DS_CONFIGS:
        return ROOT / "ds_configs" / f"{settings.ds_config}.json"
    return variables.expanded(settings.ds_config)


def read(settings: Settings) -> dict[str, object]:
    """Return the content of the file that DS_CONFIG names. Raises SettingsError."""
    what, remedy = "does not hold a JSON object", "fix the file"
    try:
        text = path(settings).read_text(encoding="utf-8-sig")
        config = json.loads(text, object_pairs_hook=once, parse_constant=no_number)
        if depth(config) > DEEPEST:
            raise RecursionError
        if isinstance(config, dict) and isinstance(config.get("zero_optimization", {}), dict):
            return config
    except (OSError, UnicodeDecodeError):
        what = "no such file" + variables.in_container()
        remedy = f"use {', '.join(DS_CONFIGS)} or a path to a DeepSpeed JSON file"
    except json.JSONDecodeError as error:
        what = f"is not valid JSON (line {error.lineno}: {error.msg})"
    except RecursionError:
        what = "is nested too deep"
    except ValueError as error:
        what = "holds a number of too many digits" if "integer string" in str(error) else str(error)
    raise SettingsError([wrong("DS_CONFIG", settings.ds_config, what, remedy)])


def without_auto(config: dict[str, object]) -> dict[str, object]:
    """Leave out all "auto" values, so that DeepSpeed's own defaults apply."""
    return {k: without_auto(v) if isinstance(v, dict) else v for k, v in config.items() if v != "auto"}
