"""The chat template of a run: the model's own or another, with the date and its variables pinned.

The text that rows are rendered with is the text that `final/` gets, so whoever serves the model asks as it was trained.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from sft.errors import SettingsError, shown, wrong
from sft.settings import variables
from sft.settings.fields import Settings

SHIPPED = Path(__file__).with_name("templates")
# Many templates print today's date: a model trained on Monday would see another prompt on Tuesday. This is the date
# that the templates of Llama 3 take if there is no clock.
DATE = datetime(2024, 7, 26)
DATE_STRING = DATE.strftime("%d %b %Y")
DATE_CODES = ("-d", "-m", "-H", "-I", "-M", *"aAbBcdDeFHIjmMpSTuUVwWxXyYzZ")  # of strftime
TAKEN = ("messages", "tools", "add_generation_prompt")  # variables that rows and the project fill
# The marks that a shipped template writes: each must be a token, or no answer would end in one.
NEEDED = {"chatml": ("<|im_start|>", "<|im_end|>")}


class Refused(Exception):
    """A chat template does not render all of a conversation: why, and what to do."""

    def __init__(self, reason: str, remedy: str = "set CHAT_TEMPLATE to another one, or change the row") -> None:
        super().__init__(reason)
        self.remedy = remedy


@dataclass(frozen=True)
class ChatTemplate:
    """A tokenizer with the template that a run uses."""

    tokenizer: Any
    source: str  # whose it is, in words
    setting: tuple[str, str]  # the setting to name in errors, and its value
    is_missing: bool = False  # the model has none, and none was chosen

    @property
    def templates(self) -> dict[str, str]:
        """The texts of the template by name; a model may have another one for conversations with tools."""
        found = self.tokenizer.chat_template
        return dict(found) if isinstance(found, dict) else {"default": found}

    def render(
        self, messages: Sequence[Mapping[str, object]], tools: Sequence[object] = (), prompt: bool = False
    ) -> str:
        """Return a conversation as text; `prompt`: up to where the model's answer begins. Raises Refused."""
        try:
            text = self.tokenizer.apply_chat_template(
                list(messages), tools=list(tools) or None, tokenize=False, add_generation_prompt=prompt
            )
        except Exception as error:  # a template may raise anything, as it is a program
            reason = shown(" ".join(str(error).split()) or type(error).__name__, 200)
            raise Refused(f"it refuses it ({reason})", "check the order of its roles, or set CHAT_TEMPLATE") from None
        assert isinstance(text, str)
        return text

    def ids(self, text: str) -> list[int]:
        """Return the tokens of a rendered text."""
        found: list[int] = self.tokenizer(text, add_special_tokens=False).input_ids
        return found

    @property
    def switch(self) -> str:
        """The variable that turns reasoning on, or ""."""
        text = "".join(self.templates.values())
        return next((name for name in ("enable_thinking", "thinking") if re.search(rf"\b{name}\b", text)), "")

    def wrong(self, what: str, remedy: str) -> SettingsError:
        """Return the error of a template that cannot be used."""
        return SettingsError([wrong(*self.setting, what, remedy)])


def load(folder: Path, settings: Settings, file: Path | None = None) -> ChatTemplate:
    """Return the tokenizer in a model's folder with the template that the settings choose.

    `file`: the run's own copy of the file that CHAT_TEMPLATE names. Raises SettingsError.
    """
    import transformers

    trusted = settings.trust_remote_code
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=trusted)
    except Exception as error:  # of any kind: each tokenizer has code of its own
        reason = shown((str(error).strip().splitlines() or [type(error).__name__])[0], 200)
        what = f"its tokenizer cannot be loaded ({reason})"
        raise SettingsError([wrong("MODEL_NAME", settings.model_name, what, "check the folder")]) from None
    return of(tokenizer, settings, file)


def of(tokenizer: Any, settings: Settings, file: Path | None = None) -> ChatTemplate:
    """Give a tokenizer the template that the settings choose. Raises SettingsError."""
    is_missing = not tokenizer.chat_template and not settings.chat_template
    source, texts = chosen(tokenizer.chat_template, settings, file)
    arguments = json.loads(settings.chat_template_arguments)
    check_arguments(arguments, texts, settings)
    needed = NEEDED.get(settings.chat_template, ())
    if absent := [mark for mark in needed if mark not in tokenizer.get_vocab()]:
        what = f"the tokenizer of {settings.model_name} has no {' and no '.join(absent)}"
        raise SettingsError([wrong("CHAT_TEMPLATE", settings.chat_template, what, "use plain")])
    pinned = {name: preamble(text, arguments) + text for name, text in texts.items()}
    tokenizer.chat_template = pinned if set(pinned) != {"default"} else pinned["default"]
    name = "CHAT_TEMPLATE" if settings.chat_template else "MODEL_NAME"
    return ChatTemplate(tokenizer, source, (name, settings.chat_template or settings.model_name), is_missing)


def chosen(own: str | dict[str, str] | None, settings: Settings, file: Path | None) -> tuple[str, dict[str, str]]:
    """Return whose template it is, in words, and its texts by name. Raises SettingsError."""
    name = settings.chat_template
    named = own if isinstance(own, dict) else {"default": own} if own else {}
    shipped = {path.stem: path for path in sorted(SHIPPED.glob("*.jinja"))}
    if path := file_of(settings, file):
        return f"the file {Path(name).name}", {"default": read(path, name)}
    if name in named:
        return f"the model's {name}", {"default": named[name]}
    if name in shipped:
        return f"this project's {name}", {"default": read(shipped[name], name)}
    if name:
        what = f"no such file, and not one of {', '.join([*named, *shipped])}"
        raise SettingsError([wrong("CHAT_TEMPLATE", name, what, "check the path")])
    if not named:
        return "this project's plain", {"default": read(shipped["plain"], "plain")}
    if "default" not in named:
        what = f"its tokenizer has the chat templates {', '.join(named)}, and none is the default"
        raise SettingsError([wrong("MODEL_NAME", settings.model_name, what, "choose one with CHAT_TEMPLATE")])
    return "the model's own", named


def file_of(settings: Settings, file: Path | None = None) -> Path | None:
    """Return the file that CHAT_TEMPLATE names, the run's own copy if there is one; None if it names no file."""
    path = variables.expanded(settings.chat_template)
    return file or (path if settings.chat_template and variables.is_there(path) else None)


def check_arguments(arguments: Mapping[str, object], texts: Mapping[str, str], settings: Settings) -> None:
    """Raise SettingsError for variables that no template reads, or that are not for users to set."""
    for name in arguments:
        if not name.isidentifier() or name in TAKEN:
            what = f"{shown(repr(name))} is not a variable that can be set"
        elif not any(re.search(rf"\b{name}\b", text) for text in texts.values()):
            what = f"the chat template does not read {shown(repr(name))}"
        else:
            continue
        raise SettingsError([wrong("CHAT_TEMPLATE_ARGUMENTS", settings.chat_template_arguments, what, "leave it out")])


def read(path: Path, name: str) -> str:
    """Return the text of a template's file. Raises SettingsError."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise SettingsError([wrong("CHAT_TEMPLATE", name, f"cannot be read ({reason})", "check the file")]) from None
    if not text.strip():
        raise SettingsError([wrong("CHAT_TEMPLATE", name, "is empty", "write a chat template into it")])
    return text


def preamble(text: str, arguments: Mapping[str, object]) -> str:
    """Return a line to put before a template, so that its variables have these values where nobody gives others.

    The newline at its end is not rendered: `trim_blocks` removes it. Without variables it is empty.
    """
    values = {"date_string": DATE_STRING} if "date_string" in text else {}
    parts = [
        f"{{%- if {name} is not defined %}}{{%- set {name} = {literal(value)} %}}{{%- endif %}}"
        for name, value in (values | dict(arguments)).items()
    ]
    if "strftime_now" in text:
        codes = "".join(f"|replace({literal('%' + code)}, {literal(DATE.strftime('%' + code))})" for code in DATE_CODES)
        parts.insert(0, f"{{%- macro strftime_now(format) -%}}{{{{ format{codes} }}}}{{%- endmacro %}}")
    return "".join(parts) + "\n" if parts else ""


def literal(value: object) -> str:
    """Return a JSON value as Jinja writes it."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{literal(key)}: {literal(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(literal(inner) for inner in value) + "]"
    return "none" if value is None else json.dumps(value)
