"""The variables of a chat template: CHAT_TEMPLATE_ARGUMENTS and today's date, pinned in the template's own text."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping
from datetime import datetime

import jinja2
import jinja2.meta

from sft.errors import SettingsError, shown, wrong
from sft.settings.fields import Settings

# Many templates print today's date: a model trained on Monday would see another prompt on Tuesday. This is the date
# that the templates of Llama 3 take if there is no clock.
DATE = datetime(2024, 7, 26)
DATE_STRING = DATE.strftime("%d %b %Y")
# The codes of strftime that a template may put together at run time. Those that stand in its text are added.
DATE_CODES = ("-d", "-m", "-H", "-I", "-M", *"aAbBcdDeFHIjmMpSTuUVwWxXyYzZ")
# What transformers gives every template: the conversation, and functions. An argument of such a name would be ignored.
GIVEN = ("messages", "tools", "documents", "add_generation_prompt", "raise_exception", "strftime_now")
GENERATION = re.compile(r"\{%[-+]?\s*(end)?generation\s*[-+]?%\}")  # transformers' own tag around answers
ENVIRONMENT = jinja2.Environment(extensions=["jinja2.ext.loopcontrols"])


def check_arguments(
    arguments: Mapping[str, object], texts: Iterable[str], special: Iterable[str], settings: Settings
) -> None:
    """Raise SettingsError for variables that no template reads, or that are not for users to set.

    `special`: the names of the tokenizer's special tokens, such as `bos_token`, which every template gets.
    """
    taken = {*GIVEN, *special, *ENVIRONMENT.globals}
    known = set[str]().union(*map(variables_of, texts))
    for name in arguments:
        if not name.isidentifier() or name in taken:
            what, remedy = f"{shown(repr(name))} is not a variable that can be set", "leave it out"
        elif name not in known:
            what = f"the chat template does not read {shown(repr(name))}"
            close = difflib.get_close_matches(name, known - taken, 1)
            remedy = f"write {close[0]}" if close else "leave it out"
        else:
            continue
        raise SettingsError([wrong("CHAT_TEMPLATE_ARGUMENTS", settings.chat_template_arguments, what, remedy)])


def variables_of(text: str) -> set[str]:
    """Return the variables that a template reads before it sets them itself. Raises jinja2.TemplateSyntaxError."""
    return jinja2.meta.find_undeclared_variables(ENVIRONMENT.parse(GENERATION.sub("", text)))


def syntax_error(text: str) -> str:
    """Return the line and the reason if a template is not valid Jinja, or ""."""
    try:
        variables_of(text)
    except jinja2.TemplateSyntaxError as error:
        return f"line {error.lineno}: {error.message}"
    except RecursionError:
        return "it is nested too deeply"
    return ""


def pinned(text: str, arguments: Mapping[str, object]) -> str:
    """Return a template whose variables have these values where nobody gives others.

    A model that was trained here before has such a template already.
    """
    before = preamble(text, arguments)
    return text if text.startswith(before) else before + text


def preamble(text: str, arguments: Mapping[str, object]) -> str:
    """Return a line to put before a template, which sets its variables and the clock; without any it is empty.

    The newline at its end is not rendered: `trim_blocks` removes it.
    """
    values = {"date_string": DATE_STRING} if re.search(r"\bdate_string\b", text) else {}
    parts = [
        f"{{%- if {name} is not defined %}}{{%- set {name} = {literal(value)} %}}{{%- endif %}}"
        for name, value in (values | dict(arguments)).items()
    ]
    if "strftime_now" in text:
        written = re.findall(r"%([-_0^#]?[a-zA-Z])", text + literal(dict(arguments)))
        codes = sorted(
            {code for code in (*DATE_CODES, *written) if is_of_date(code)}, key=lambda code: (-len(code), code)
        )
        calls = "".join(f"|replace({literal('%' + code)}, {literal(DATE.strftime('%' + code))})" for code in codes)
        parts.insert(0, f"{{%- macro strftime_now(format) -%}}{{{{ format{calls} }}}}{{%- endmacro %}}")
    return "".join(parts) + "\n" if parts else ""


def is_of_date(code: str) -> bool:
    """Whether a code of strftime says something about a date: others are left as they are, as strftime does."""
    return DATE.strftime(f"%{code}").lower() != f"%{code}".lower()


def literal(value: object) -> str:
    """Return a JSON value as Jinja writes it."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{literal(key)}: {literal(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(literal(inner) for inner in value) + "]"
    # Jinja reads an escape for each half of a character beyond 16 bits as a character of its own.
    return "none" if value is None else json.dumps(value, ensure_ascii=False)
