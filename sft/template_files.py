"""Chat templates in files: the user's own, those that the project ships, and those in a model's folder."""

from __future__ import annotations

import json
from pathlib import Path

from sft.errors import SettingsError, wrong
from sft.model_files import read_json
from sft.settings import variables
from sft.settings.fields import Settings

# Where the processor of a multimodal model has its template, if not in chat_template.jinja as its tokenizer has.
OF_PROCESSOR = ("chat_template.json", "processor_config.json")
SHIPPED = Path(__file__).with_name("templates")


def shipped() -> dict[str, Path]:
    """Return the templates of the project by their names."""
    return {path.stem: path for path in sorted(SHIPPED.glob("*.jinja"))}


def file_of(settings: Settings, kept: Path | None = None) -> Path | None:
    """Return the file that CHAT_TEMPLATE names, or the run's own copy of it, `kept`; None if it names no file."""
    path = variables.expanded(settings.chat_template)
    return kept or (path if settings.chat_template and variables.is_there(path) else None)


def read(path: Path, name: str) -> str:
    """Return the text of a template's file. `name`: CHAT_TEMPLATE. Raises SettingsError."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise SettingsError([wrong("CHAT_TEMPLATE", name, f"cannot be read ({reason})", "check the file")]) from None
    if not text.strip():
        raise SettingsError([wrong("CHAT_TEMPLATE", name, "is empty", "write a chat template into it")])
    if is_json(text):
        what = "is JSON, such as tokenizer_config.json, and not a chat template"
        raise SettingsError([wrong("CHAT_TEMPLATE", name, what, "give a file that holds the template's text alone")])
    return text


def is_json(text: str) -> bool:
    """Whether a text is a JSON object or string: rendered, its braces and quotes would be in every row."""
    try:
        return isinstance(json.loads(text), dict | str)
    except (ValueError, RecursionError):
        return False


def in_folder(model: Path) -> list[str]:
    """Return the names of the chat templates in a model's folder; the usual one is called `default`."""
    content = read_json(model / "tokenizer_config.json")
    found = content.get("chat_template") if isinstance(content, dict) else None
    names = [str(one.get("name")) for one in found if isinstance(one, dict)] if isinstance(found, list) else []
    if isinstance(found, str) or (model / "chat_template.jinja").is_file() or of_processor(model):
        names.append("default")
    names += [path.stem for path in model.glob("additional_chat_templates/*.jinja")]
    return sorted(set(names))


def of_processor(model: Path) -> str | None:
    """Return the chat template that the processor of a multimodal model has in a file of its own, or None."""
    for name in OF_PROCESSOR:
        content = read_json(model / name)
        found = content.get("chat_template") if isinstance(content, dict) else None
        if isinstance(found, str) and found.strip():
            return found
    return None


def unknown(settings: Settings, names: list[str]) -> SettingsError:
    """Return the error for a CHAT_TEMPLATE that is no file and not one of these names."""
    what = f"no such file{variables.in_container()}, and not one of {', '.join(dict.fromkeys(names))}"
    return SettingsError([wrong("CHAT_TEMPLATE", settings.chat_template, what, "check the path")])
