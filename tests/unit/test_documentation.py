"""What the documents say about settings, commands, files and messages is what the code does."""

import ast
import functools
import inspect
import re
import runpy
from pathlib import Path

import pytest

import tasks
from sft.failures import POLICIES
from sft.run.paths import RunPaths
from sft.settings import variables
from sft.settings.fields import Settings, secret_names
from sft.settings.load import load

ROOT = Path(__file__).resolve().parents[2]
READMES = ["README.md", "README.ja.md"]
PAGES = [*READMES, *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
LONGEST_README = 200  # lines
LARGEST_PICTURE = 60_000  # bytes
FOLDERS = "sft|tests|docs|docker|ds_configs|benchmarks"


def text_of(page):
    return (ROOT / page).read_text(encoding="utf-8")


def code_blocks(page):
    """The blocks of code of a page, without the comments behind commands."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", text_of(page), re.MULTILINE | re.DOTALL)
    return [re.sub(r" +# .*", "", block) for block in blocks]


@functools.cache
def constants(path):
    """The texts of a program that are not docstrings, those of f-strings piece by piece."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    alone = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    found = [node for node in nodes if isinstance(node, ast.Constant) and id(node) not in alone]
    return [node.value for node in found if isinstance(node.value, str)]


def told():
    """Every text of a program or a document that a user may read, by the file that it is in."""
    for path in [ROOT / "tasks.py", *(ROOT / "sft").rglob("*.py")]:
        yield from ((path.name, text) for text in constants(path))
    for name in (*PAGES, ".env.example"):
        yield name, text_of(name)


def targets():
    return set(re.findall(r"^([a-z-]+):.*##", text_of("Makefile"), re.MULTILINE))


# What is generated


def test_the_generated_documents_are_what_the_code_says():
    documents = runpy.run_path(str(ROOT / "docs" / "generate.py"))["documents"]()
    stale = [str(path.relative_to(ROOT)) for path, content in documents.items() if path.read_text() != content]
    assert stale == [], "`make docs` writes them"


def test_every_setting_is_documented_and_the_example_env_file_changes_no_default():
    assert [name for name in Settings.model_fields if f"| `{name.upper()}` |" not in text_of("docs/settings.md")] == []
    values = variables.from_file(ROOT / ".env.example")
    assert "MODEL_NAME" in values and not set(values) & {name.upper() for name in secret_names()}
    assert load(ROOT / ".env.example").model_dump() == load(None).model_dump()
    for name in Settings.model_fields:
        assert re.search(rf"^#? ?{name.upper()}=", text_of(".env.example"), re.MULTILINE), name


@pytest.mark.parametrize("name", ["demo", "monitor"])
def test_a_picture_is_small_and_names_nothing_of_the_machine_that_made_it(name):
    picture = text_of(f"docs/{name}.svg").replace("http://www.w3.org/2000/svg", "")
    assert len(picture) < LARGEST_PICTURE and f"make&#160;{name}" in picture
    assert re.findall(r"https?:|url\([^#]|/(?:home|root|tmp|mnt|var|work)/", picture) == []


# The README in two languages


@pytest.mark.parametrize("page", READMES)
def test_a_readme_is_short(page):
    assert len(text_of(page).splitlines()) <= LONGEST_README


def test_both_readmes_have_the_same_sections_commands_tables_and_links():
    english, japanese = ([re.findall(r"^#+", text_of(page), re.MULTILINE)] for page in READMES)
    assert english == japanese
    assert code_blocks("README.md") == code_blocks("README.ja.md") != []
    for pattern in (r"\]\(((?!README).*?)\)", r"^\|", r"`([A-Za-z_./]+[=./][^`]*)`"):
        english, japanese = (re.findall(pattern, text_of(page), re.MULTILINE) for page in READMES)
        assert sorted(english) == sorted(japanese)


def test_the_readme_shows_lines_of_the_plan_as_it_is_printed():
    (shown,) = (block for block in code_blocks("README.md") if "make plan" in block)
    assert set(shown.splitlines()) <= set(text_of("docs/planning.md").splitlines())


# What is named


@pytest.mark.parametrize("page", [*PAGES, "benchmarks/README.md"])
def test_every_link_leads_to_a_file_and_every_path_is_there(page):
    text = text_of(page)
    links = re.findall(r"\]\((?!https?://)([^)#]+)", text)
    assert [link for link in links if not ((ROOT / page).parent / link).exists()] == []
    paths = re.findall(rf"`((?:{FOLDERS})/[\w./-]*)`", text)
    assert [path for path in paths if not (ROOT / path).exists()] == []
    modules = re.findall(r"python3? -m ((?:sft|benchmarks|tests)[\w.]*)", text)
    files = {name: ROOT / name.replace(".", "/") for name in modules}
    programs = {name: (file.with_name(f"{file.name}.py"), file / "__main__.py") for name, file in files.items()}
    assert [name for name, either in programs.items() if not any(path.is_file() for path in either)] == []


def test_every_page_is_linked_from_the_readme():
    pages = [page for page in PAGES if page not in READMES]
    assert [page for page in pages if f"]({page})" not in text_of("README.md")] == []


def test_the_answers_to_a_newcomers_questions_name_what_is_in_the_file():
    table = text_of("docs/architecture.md").partition("## Five questions")[2].partition("##")[0]
    rows = re.findall(r"^\| (.*?\?) \| \[(.+?)\]\(.+?\)(.*) \|$", table, re.MULTILINE)
    assert len(rows) == 5
    for question, path, more in rows:
        folder = (ROOT / path).parent
        defined = re.findall(r"(?:class|def) (\w+)", "".join(path.read_text() for path in folder.rglob("*.py")))
        for name in re.findall(r"`([A-Za-z_]+(?:\.[a-z_]+)?)`", more):
            assert set(name.split(".")) <= set(defined), (question, name)


def test_every_message_in_the_troubleshooting_is_one_of_the_program():
    program = "\n".join(text for path in (ROOT / "sft").rglob("*.py") for text in constants(path))
    rows = re.findall(r"^\| (`.*?) \| ", text_of("docs/troubleshooting.md"), re.MULTILINE)
    messages = [message for row in rows for message in re.findall(r"`(.+?)`", row)]
    parts = [part.strip(" :;,") for message in messages for part in re.split(r"[…\";]|\(.*?\)|\d+|NAME|: |=", message)]
    parts = [part for part in parts if " " in part]
    assert [part for part in parts if part not in program] == [] and len(parts) > 20


def test_every_file_of_a_run_is_documented():
    paths = RunPaths(Path("NAME"))
    members = [getattr(paths, name) for name, member in vars(RunPaths).items() if isinstance(member, property)]
    names = {path.relative_to(paths.path).parts[0] for path in members}
    documented = text_of("docs/run-directory.md")
    assert [name for name in sorted(names) if f"`{name}" not in documented] == [] and len(names) > 10


@pytest.mark.parametrize("page", [*READMES, "docs/commands.md"])
def test_every_command_is_documented(page):
    assert [name for name in targets() - {"help", "clean"} if f"`make {name}`" not in text_of(page)] == []


def test_every_make_target_calls_a_task():
    called = set(re.findall(r"\$\(INV\) ([a-z-]+)(?: '\$\(KIND\)')?$", text_of("Makefile"), re.MULTILINE))
    assert called == targets() - {"help", "clean"}


def test_every_command_that_is_named_works_as_typed_without_an_activated_environment():
    functions = {name: function.body for name, function in tasks.namespace.tasks.items()}
    named, wrong = 0, []
    for where, text in told():
        for target, words in re.findall(r"(?:`|\$ )make ([a-z][a-z-]*)((?: [A-Z_]+=[^\s`]*)*)", text):
            parameters = inspect.signature(functions[target]).parameters if target in functions else {}
            known = {name.upper() for name in [*Settings.model_fields, *(name.rstrip("_") for name in parameters)]}
            named += 1
            words = re.sub(r" NAME=(value)?$", "", words)  # any setting
            if target not in targets() or set(re.findall(r"([A-Z_]+)=", words)) - known - variables.OF_MAKE:
                wrong.append((where, target, words))
    assert wrong == [] and named > 100


def test_messages_name_no_command_of_an_activated_environment():
    assert [(where, text) for where, text in told() if where.endswith(".py") and "`inv " in text] == []


def test_the_kinds_of_failure_are_those_of_the_program():
    rows = re.findall(r"^\| `(\w+)` \| .+ \| (yes|no) \| (\d) \|$", text_of("docs/failures.md"), re.MULTILINE)
    assert rows == [
        (kind, "yes" if policy.restart_may_help else "no", str(policy.exit_code)) for kind, policy in POLICIES.items()
    ]
