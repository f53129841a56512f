"""What the settings mean for rows that are texts, in words."""

from __future__ import annotations

from sft.run.records import Split
from sft.settings.fields import Settings

OF_CONVERSATIONS = ("system_prompt", "chat_template", "chat_template_arguments", "train_on", "eval_answer")


def noun(split: Split) -> str:
    """Return what a row of a split is called."""
    return "text" if split.kind == "texts" else "row"


def not_applied(settings: Settings) -> str:
    """Return which settings are set and have no meaning for texts, in words; "" if none is."""
    fields = Settings.model_fields
    names = [name.upper() for name in OF_CONVERSATIONS if getattr(settings, name) != fields[name].default]
    if not names:
        return ""
    do = "does" if len(names) == 1 else "do"
    return f"{', '.join(names)} {do} not apply to texts, which are trained as they are and have no answers"
