"""Whether DeepSpeed, as it is installed here, can do what a DS_CONFIG of the user's own asks for."""

from __future__ import annotations

from sft.errors import SettingsError, wrong
from sft.settings.deepspeed import DsConfig
from sft.settings.fields import DS_CONFIGS, Settings

# Options of ZeRO-3 for which DeepSpeed compiles a program of its own, in every rank and when it is first needed.
COMPILED = {
    "zero_quantized_weights": "QuantizerBuilder",
    "zero_quantized_nontrainable_weights": "QuantizerBuilder",
    "zero_quantized_gradients": "QuantizerBuilder",
}
NVME = "AsyncIOBuilder"


def check(settings: Settings, config: DsConfig) -> None:
    """Have DeepSpeed read the file, and compile what it will need. Raises SettingsError if it cannot."""
    if settings.ds_config in DS_CONFIGS:
        return
    from deepspeed.runtime.config import DeepSpeedConfig

    try:
        DeepSpeedConfig(config.content)
    except Exception as error:  # of any kind: DeepSpeed finds wrong values by using them
        what = f"DeepSpeed refuses it ({in_one_line(error)})"
        raise SettingsError([wrong("DS_CONFIG", settings.ds_config, what, "fix the file")]) from None
    problems = [
        wrong("DS_CONFIG", settings.ds_config, f"DeepSpeed cannot compile what {option} needs ({reason})", remedy)
        for option, builder, remedy in needed(config)
        if (reason := why_not(builder))
    ]
    if problems:
        raise SettingsError(problems)


def needed(config: DsConfig) -> list[tuple[str, str, str]]:
    """Return each option that needs a compiled program, the name of its builder, and what to do without it."""
    if config.stage != 3:
        return []
    remedy = "install the CUDA toolkit (nvcc) of torch's version, or remove {} from the file"
    found = [
        (option, builder, remedy.format(option)) for option, builder in COMPILED.items() if config.zero.get(option)
    ]
    for option in ("offload_param", "offload_optimizer"):
        section = config.zero.get(option)
        if isinstance(section, dict) and section.get("device") == "nvme":
            found.append((f"{option}'s nvme", NVME, "install libaio-dev, or write cpu instead of nvme"))
    return found


def why_not(builder: str) -> str:
    """Compile and load one of DeepSpeed's programs; return why that failed, or nothing. The ranks find it compiled."""
    from deepspeed.ops import op_builder

    try:
        getattr(op_builder, builder)().load(verbose=False)
    except Exception as error:  # of any kind: missing or unfit compilers
        return in_one_line(error)
    return ""


def in_one_line(error: Exception) -> str:
    """Return the class and the first lines of an error."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {' '.join(lines[:3]) or 'no message'}"
