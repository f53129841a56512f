"""What the documents say about settings, tasks and files is what the code does."""

import re
from pathlib import Path

import pytest

from sft import variables
from sft.settings import Settings, secret_names

ROOT = Path(__file__).resolve().parents[2]
TASKS = ("setup", "test-env", "plan", "train", "demo", "monitor", "stop", "logs", "evaluate")


def shown_default(name):
    """Return a default as a user would write it."""
    default = Settings.model_fields[name].default
    if name in secret_names() or default == "":
        return ""
    if default is None:
        return "`auto`"
    return f"`{int(default) if isinstance(default, bool) else default}`"


@pytest.mark.parametrize("document", ["README.md", "README.ja.md"])
def test_every_setting_stands_in_the_readme_with_its_default(document):
    rows = re.findall(r"^\| `([A-Z_]+)` \| (.*?) \| (.+) \|$", (ROOT / document).read_text(), re.MULTILINE)
    found = {name: default for name, default, _ in rows}
    assert found == {name.upper(): shown_default(name) for name in Settings.model_fields}
    if document == "README.md":
        meanings = {name: field.description for name, field in Settings.model_fields.items()}
        assert {name.lower(): meaning for name, _, meaning in rows} == meanings


@pytest.mark.parametrize("document", ["README.md", "README.ja.md"])
def test_every_task_stands_in_the_readme(document):
    text = (ROOT / document).read_text()
    assert [task for task in TASKS if f"`make {task}`" not in text] == []


def test_the_example_env_file_is_valid_and_holds_no_secret():
    values = variables.from_file(ROOT / ".env.example")
    assert "MODEL_NAME" in values and not set(values) & {name.upper() for name in secret_names()}
    defaults = Settings.load(None).model_dump()
    assert Settings.load(ROOT / ".env.example").model_dump() == defaults
    text = (ROOT / ".env.example").read_text()
    for name in Settings.model_fields:
        assert re.search(rf"^#? ?{name.upper()}=", text, re.MULTILINE), name


def test_every_make_target_calls_a_task():
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):.*##", makefile, re.MULTILINE))
    called = set(re.findall(r"\$\(INV\) ([a-z-]+)$", makefile, re.MULTILINE))
    assert called == targets - {"help", "clean"}
