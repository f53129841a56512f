"""The chat template of a run: the model's own or another, with the date and its variables pinned.

The text that rows are rendered with is the text that `final/` gets, so whoever serves the model asks as it was trained.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sft import template_files
from sft.errors import SettingsError, shown, wrong
from sft.settings.fields import Settings
from sft.trainer.data.template_variables import check_arguments, literal, pinned, syntax_error

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
    settings: Settings
    is_missing: bool = False  # the model has none, and none was chosen
    added_prompt: str = ""  # the generation prompt that it was given, as it had none

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

    def with_generation_prompt(self, opening: str) -> ChatTemplate:
        """Give the template a generation prompt: how it opens an answer, which it writes with the answer only.

        Jinja leaves out one newline at a template's end. The plus sign keeps white space before the block.
        """
        added = f"{{%+ if add_generation_prompt %}}{{{{ {literal(opening)} }}}}{{% endif %}}"
        texts = {name: text.removesuffix("\n") + added for name, text in self.templates.items()}
        self.tokenizer.chat_template = texts if set(texts) != {"default"} else texts["default"]
        return replace(self, added_prompt=opening)

    def ids(self, text: str) -> list[int]:
        """Return the tokens of a rendered text."""
        found: list[int] = self.tokenizer(text, add_special_tokens=False).input_ids
        return found

    @property
    def switch(self) -> str:
        """The variable that turns reasoning on, or ""."""
        text = "".join(self.templates.values())
        return next((name for name in ("enable_thinking", "thinking") if re.search(rf"\b{name}\b", text)), "")

    def wrong(self, what: str) -> SettingsError:
        """Return the error of a template that cannot be used."""
        return wrong_template(self.settings, what)


def load(folder: Path, settings: Settings, file: Path | None = None) -> ChatTemplate:
    """Return the tokenizer in a model's folder with the template that the settings choose.

    `file`: the run's own copy of the file that CHAT_TEMPLATE names. Raises SettingsError.
    """
    return of(tokenizer_in(folder, settings), settings, file)


def tokenizer_in(folder: Path, settings: Settings) -> Any:
    """Return the tokenizer in a model's folder. Raises SettingsError."""
    import transformers

    trusted = settings.trust_remote_code
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=trusted)
    except Exception as error:  # of any kind: each tokenizer has code of its own
        reason = shown((str(error).strip().splitlines() or [type(error).__name__])[0], 200)
        what = f"its tokenizer cannot be loaded ({reason})"
        raise SettingsError([wrong("MODEL_NAME", settings.model_name, what, "check the folder")]) from None
    # A multimodal model is asked through its processor, which reads its own template before the tokenizer's.
    own = template_files.of_processor(folder)
    if own and not isinstance(tokenizer.chat_template, dict):
        tokenizer.chat_template = own
    return tokenizer


def of(tokenizer: Any, settings: Settings, file: Path | None = None) -> ChatTemplate:
    """Give a tokenizer the template that the settings choose. Raises SettingsError."""
    is_missing = not tokenizer.chat_template and not settings.chat_template
    source, texts = chosen(tokenizer, settings, file)
    for text in texts.values():
        if not isinstance(text, str):
            raise wrong_template(settings, f"is not text but {type(text).__name__}")
        if problem := syntax_error(text):
            raise wrong_template(settings, f"is not valid Jinja ({shown(problem, 200)})")
    arguments = json.loads(settings.chat_template_arguments)
    check_arguments(arguments, texts.values(), tokenizer.special_tokens_map, settings)
    texts = {name: pinned(text, arguments) for name, text in texts.items()}
    tokenizer.chat_template = texts if set(texts) != {"default"} else texts["default"]
    return ChatTemplate(tokenizer, source, settings, is_missing)


def chosen(tokenizer: Any, settings: Settings, file: Path | None) -> tuple[str, dict[str, str]]:
    """Return whose template it is, in words, and its texts by name. Raises SettingsError."""
    name, own = settings.chat_template, tokenizer.chat_template
    named: dict[str, str] = own if isinstance(own, dict) else {"default": own} if own else {}
    shipped = template_files.shipped()
    if path := template_files.file_of(settings, file):
        return f"the file {Path(name).name}", {"default": template_files.read(path, name)}
    if name in named:
        return f"the model's {name}", {"default": named[name]}
    if name in shipped:
        if absent := [mark for mark in NEEDED.get(name, ()) if mark not in tokenizer.get_vocab()]:
            what = f"the tokenizer of {settings.model_name} has no {' and no '.join(absent)}"
            raise SettingsError([wrong("CHAT_TEMPLATE", name, what, "use plain")])
        return f"this project's {name}", {"default": template_files.read(shipped[name], name)}
    if name:
        raise template_files.unknown(settings, [*named, *shipped])
    if not named:
        return "this project's plain", {"default": template_files.read(shipped["plain"], "plain")}
    if "default" not in named:
        what = f"its tokenizer has the chat templates {', '.join(named)}, and none is the default"
        raise SettingsError([wrong("MODEL_NAME", settings.model_name, what, "choose one with CHAT_TEMPLATE")])
    return "the model's own", named


def wrong_template(settings: Settings, what: str) -> SettingsError:
    """Return the error of a template that cannot be used, which names the setting that it comes from."""
    if settings.chat_template:
        return SettingsError([wrong("CHAT_TEMPLATE", settings.chat_template, what, "fix it, or choose another one")])
    what = f"its chat template {what}"
    return SettingsError([wrong("MODEL_NAME", settings.model_name, what, "set CHAT_TEMPLATE to another one")])
