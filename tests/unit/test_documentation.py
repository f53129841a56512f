"""What the documents say about settings, tasks and files is what the code does."""

import ast
import inspect
import re
from pathlib import Path

import pytest

import tasks
from sft.settings import variables
from sft.settings.fields import Settings, secret_names

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


def told():
    """Every text of a program or a document that a user may read, by the file that it is in."""
    for path in [ROOT / "tasks.py", *(ROOT / "sft").rglob("*.py")]:
        nodes = list(ast.walk(ast.parse(path.read_text())))
        alone = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}  # docstrings
        for node in nodes:
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in alone:
                yield path.name, node.value
    for name in ("README.md", "README.ja.md", ".env.example"):
        yield name, (ROOT / name).read_text()


def test_every_command_that_is_named_works_as_typed_without_an_activated_environment():
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):.*##", makefile, re.MULTILINE))
    functions = {name: function.body for name, function in tasks.namespace.tasks.items()}
    named, wrong = 0, []
    for where, text in told():
        for target, words in re.findall(r"(?:`|\$ )make ([a-z][a-z-]*)((?: [A-Z_]+=[^\s`]*)*)", text):
            parameters = inspect.signature(functions[target]).parameters if target in functions else {}
            known = {name.upper() for name in [*Settings.model_fields, *(name.rstrip("_") for name in parameters)]}
            named += 1
            words = words.replace(" NAME=value", "")  # any setting
            if target not in targets or set(re.findall(r"([A-Z_]+)=", words)) - known - {"PYTHON"}:
                wrong.append((where, target, words))
    assert wrong == [] and named > 100


def test_messages_name_no_command_of_an_activated_environment():
    assert [(where, text) for where, text in told() if where.endswith(".py") and "`inv " in text] == []
