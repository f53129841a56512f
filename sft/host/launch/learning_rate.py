"""Messages about the learning rate before a run: the default in use, or a rate too low to train anything."""

from __future__ import annotations

import math

from sft.settings.fields import LORA_RATE, TINY, TINY_RATE, Settings

SMALL = 10_000_000  # weights of a model that needs a far higher rate than a large one
TOO_LOW = 20  # times lower than the usual rate


def lines(settings: Settings, weights: int | None) -> list[str]:
    """Return the lines about LEARNING_RATE for settings as the user wrote them; `weights` of the model, if known."""
    rate, is_default = settings.peak_learning_rate, settings.learning_rate is None
    if settings.model_name == TINY:
        usual, what, default = TINY_RATE, f"{TINY}, which begins with random weights", "LEARNING_RATE=auto"
    elif settings.lora_rank:
        usual, what, default = LORA_RATE, "LoRA", "LEARNING_RATE=auto"
    elif weights is not None and weights < SMALL:
        usual = small_model_rate(weights)
        what, default = f"a model of {weights / 1e6:.1f} million weights", f"LEARNING_RATE={usual:.0e}"
        is_default = False
    else:
        return []
    if is_default:
        return [f"learning rate {rate:g}, the default for {what}"]
    if rate * TOO_LOW > usual:
        return []
    return [f"warning: LEARNING_RATE={rate:g} changes little in {what}; {usual:.1g} is usual: {default}"]


def small_model_rate(weights: int) -> float:
    """Return the usual rate of a small language model: Kaplan et al. 2020, Scaling Laws, equation D.1."""
    return 0.003239 - 0.0001395 * math.log(weights)
