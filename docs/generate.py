"""Write the generated parts of the documentation: `make docs`. A test fails where they are not what the code says.

`docs/settings.md` and `.env.example` come from the fields of Settings, the map in `docs/architecture.md` from the first
lines of the modules, and the plans in the READMEs, `docs/planning.md` and `docs/scale.md` from what `make plan` calls.
"""

from __future__ import annotations

import ast
import contextlib
import inspect
import io
import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pydantic.fields import FieldInfo
from rich.console import Console

from sft.host.plan import alternatives, lookup, planner, view
from sft.host.plan.conditions import Options
from sft.host.plan.plan import Plan
from sft.settings.fields import Settings, marked, secret_names
from sft.settings.kinds import MAY_CHANGE

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
COLUMNS = 80  # of the terminal that the plan is printed for
PLAN_COMMAND = "$ make plan GPU=4090 GPUS=4 HOST_GIB=128"
LINES_OF_PLAN = ("meta-llama/", "on 4 x", "  peak ", "run ", "       small steps: ")  # how those in the READMEs begin

# From the user's command inwards: the folders of the map, in the order in which they are read.
FOLDERS = (
    "sft/host/commands", "sft/host/doctor", "sft/host/launch", "sft/host/launch/slurm", "sft/host/launch/hosts",
    "sft/host/launch/manifest",
    "sft/host/plan",
    "sft/host/rows", "sft/host", "sft/host/install", "sft/host/bootstrap", "sft/trainer", "sft/trainer/trackers",
    "sft/trainer/hub", "sft/trainer/data", "sft/trainer/model", "sft/trainer/trial", "sft/trainer/checkpoint",
    "sft/trainer/evaluation",
    "sft/run", "sft/run/records", "sft/rows", "sft/rows/files", "sft/rows/forms", "sft/rows/looks", "sft/hub",
    "sft/settings", "sft",
)  # fmt: skip

# The settings that `.env.example` sets: those that most users change, and the keys. The others are comments there.
SET_IN_EXAMPLE = (
    "model_name", "dataset", "batch_size", "learning_rate", "max_epochs", "nodes", "gpus_per_node", "wandb_api_key",
    "huggingface_api_key",
)  # fmt: skip
COMMENT_COLUMN = 53


def documents() -> dict[Path, str]:
    """Return every generated document as it should be, by path."""
    return {
        DOCS / "settings.md": settings_document(),
        ROOT / ".env.example": example_env_file(),
        DOCS / "architecture.md": filled(DOCS / "architecture.md", "modules", module_map()),
        DOCS / "planning.md": filled(DOCS / "planning.md", "plan", plan()),
        DOCS / "scale.md": filled(DOCS / "scale.md", "gpus", scaling()),
        **{path: with_plan_lines(path) for path in (ROOT / "README.md", ROOT / "README.ja.md")},
    }


def filled(path: Path, name: str, content: str) -> str:
    """Return a document with new content between `<!-- generated: NAME -->` and `<!-- end -->`."""
    before, mark, rest = path.read_text(encoding="utf-8").partition(f"<!-- generated: {name} -->\n")
    _, end, after = rest.partition("<!-- end -->")
    if not (mark and end):
        raise SystemExit(f"{path}: has no place for {name}; write <!-- generated: {name} --> and <!-- end -->")
    return before + mark + content + end + after


# Settings


def sections() -> dict[str, list[str]]:
    """Return the names of the settings by section: the comments between the fields of Settings are the titles."""
    found: dict[str, list[str]] = {}
    for title, name in re.findall(
        r"^    # (\w+)$|^    ([a-z_]+): .*Field\(", inspect.getsource(Settings), re.MULTILINE
    ):
        if title:
            found[title] = []
        else:
            found[list(found)[-1]].append(name)
    assert [name for names in found.values() for name in names] == list(Settings.model_fields)
    return found


def default_of(name: str, field: FieldInfo) -> str:
    """Return a setting's default as a user would write it."""
    if name in secret_names():
        return ""
    if field.default is None:
        return "auto"
    return str(int(field.default) if isinstance(field.default, bool) else field.default)


def settings_document() -> str:
    """Return `docs/settings.md`."""
    lines = [
        "# Settings",
        "",
        "Write settings into `.env`, into the environment, or behind `make train`; the later of these wins. All wrong",
        "settings are reported at once, one line each, before anything starts. Switches are 1 or 0.",
        "",
        "An empty value in `.env` is the default. One behind `make`, as in `make train SYSTEM_PROMPT=`, empties what",
        "`.env` says: a text becomes empty, and any other setting has its default. An empty variable of the shell",
        "counts as not set.",
        "",
        "A resumed run may change the settings marked ✓, as long as the size of the global batch stays the same. The",
        "other settings decide what is trained.",
    ]
    for title, names in sections().items():
        lines += ["", f"## {title}", "", "| setting | default | resume | meaning |", "|---|---|---|---|"]
        for name in names:
            field = Settings.model_fields[name]
            default = default_of(name, field)
            shown = f"`{default}`" if default else ""
            lines.append(
                f"| `{name.upper()}` | {shown} | {'✓' if name in marked(MAY_CHANGE) else ''} | {field.description} |"
            )
    return "\n".join(lines) + "\n"


def example_env_file() -> str:
    """Return `.env.example`: every setting with its default, and the variables of docker compose as they are."""
    path = ROOT / ".env.example"
    head, _, rest = path.read_text(encoding="utf-8").partition("# --- ")
    docker = rest[rest.index("# --- Docker") :]
    lines = []
    for title, names in sections().items():
        lines.append(f"# --- {title}")
        for name in names:
            field = Settings.model_fields[name]
            default = default_of(name, field)
            line = f"{'' if name in SET_IN_EXAMPLE else '# '}{name.upper()}={default}"
            if default:
                lines.append(f"{line:<{COMMENT_COLUMN}}# {field.description}")
            else:  # behind an empty value a comment would be the value
                lines += [f"# {name.upper()}: {field.description}", line]
        lines.append("")
    return head + "\n".join(lines) + "\n" + docker


# Architecture


def module_map() -> str:
    """Return every folder of the code with its modules and their first lines, users before what they use."""
    lines = []
    for folder in FOLDERS:
        paths = sorted(path for path in (ROOT / folder).glob("*.py") if path.name != "__init__.py")
        if paths:
            about = first_line(ROOT / folder / "__init__.py")
            lines += [f"### `{folder}/`", "", about, "", "| module | what it is |", "|---|---|"]
            lines += [
                f"| [{path.stem}](../{path.relative_to(ROOT)}) | {first_line(path)} |" for path in users_first(paths)
            ]
            lines.append("")
    missing = {path.parent for path in (ROOT / "sft").rglob("*.py")} - {ROOT / folder for folder in FOLDERS}
    if missing:
        raise SystemExit(f"docs/generate.py: FOLDERS lacks {', '.join(sorted(map(str, missing)))}; add it")
    return "\n".join(lines)


def first_line(path: Path) -> str:
    """Return the first line of a module's docstring."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return text.partition("\n")[0].replace("|", "\\|")


def users_first(paths: list[Path]) -> list[Path]:
    """Return modules of one folder, each before those that it imports; otherwise by name."""
    used = {path: set(imported(path)) & set(paths) for path in paths}
    ordered: list[Path] = []
    while left := [path for path in paths if path not in ordered]:
        ordered.append(next(path for path in left if not any(path in used[other] for other in left)))
    return ordered


def imported(path: Path) -> Iterator[Path]:
    """Yield the files of the modules that a module imports when it is imported itself."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        yield from ((ROOT / name.replace(".", "/")).with_suffix(".py") for name in names)


# The plan


def plan() -> str:
    """Return what `make plan GPU=4090 GPUS=4 HOST_GIB=128` prints in a new clone."""
    printed = io.StringIO()
    console = Console(file=printed, width=COLUMNS, highlight=False, markup=False)
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):  # whatever this clone has downloaded
        options = Options.of("4090", "", gpus="4", host_gib="128")
        view.show(Settings(), options, console, as_json=False)
    return f"```console\n{PLAN_COMMAND}\n{printed.getvalue()}```\n"


def with_plan_lines(path: Path) -> str:
    """Return a README with the present lines of the plan: those that begin with the words of LINES_OF_PLAN."""
    before, mark, rest = path.read_text(encoding="utf-8").partition(f"```console\n{PLAN_COMMAND}\n")
    _, end, after = rest.partition("```\n")
    lines = [line for line in plan().splitlines(keepends=True) if line.startswith(LINES_OF_PLAN)]
    if not mark or len(lines) != len(LINES_OF_PLAN):
        raise SystemExit(f"{path}: has no place for the plan, or the plan has other lines than LINES_OF_PLAN")
    return before + mark + "".join(lines) + end + after


def main() -> None:
    """Write every document that is not as it should be."""
    for path, content in documents().items():
        if not path.is_file() or path.read_text(encoding="utf-8") != content:
            path.write_text(content, encoding="utf-8")
            print(f"written: {path.relative_to(ROOT)}")


# Many GPUs

GPU_NUMBERS = (2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
OF_A_HOST = 8
NETWORKS = {"400 Gbit/s for each card": 3200, "100 Gbit/s for each host": 100}
WORTH = 1.25  # times as fast with twice as many GPUs
LLAMA_70B = lookup.LLAMA | {
    "hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64,
    "tie_word_embeddings": False,
}  # fmt: skip
SEQUENCES, TOKENS = 1024, 2048  # of a step, and of each of them


def scaling() -> str:
    """Return a table for each model: the fastest way to train all weights on so many GPUs, over each network."""
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        for model, name in (("Llama 1B", "Llama-3.2-1B"), ("Llama 8B", "Llama-3.1-8B"), ("Llama 70B", "")):
            path = Path(folder, f"{model}.json")
            path.write_text(json.dumps(lookup.BUILT_IN[f"meta-llama/{name}"] if name else LLAMA_70B))
            lines += [f"{model}:", "", f"| GPUs | {' | | | | '.join(NETWORKS)} | | | |", "|" + "---|" * 9]
            lines += ["| " + " | | GB | step | tokens/s" * len(NETWORKS) + " |"]
            before: dict[int, float] = {}
            for number in GPU_NUMBERS:
                cells = []
                for rate in NETWORKS.values():
                    name, found = fastest(path, number, rate)
                    cells.append(cell(name, found, before.get(rate, 0.0)))
                    before[rate] = found.timing.tokens_per_second if found else 0.0
                lines.append(f"| {number:,} | {' | '.join(cells)} |")
            lines.append("")
    return "\n".join(lines)


def fastest(shape: Path, gpus: int, rate: int) -> tuple[str, Plan | None]:
    """Return the fastest way that fits, and its plan."""
    hosts = gpus // OF_A_HOST if gpus > OF_A_HOST else 0
    options = Options(
        "H100", gpus, str(shape), TOKENS, rows=10**6, host_gib=2000.0, hosts=hosts, link=rate if hosts else 0.0
    )
    settings = Settings(max_length=TOKENS, global_batch_size=SEQUENCES, evaluate=False, launcher="local")
    chosen = planner.plan_with(settings, options)
    ways = [
        (name, alternatives.variant(chosen, name, recompute))
        for name in ("zero1", "zero2", "zero3")
        for recompute in (False, True)
    ]
    ways = [(name, found) for name, found in [*ways, *alternatives.inside_hosts(chosen)] if found.fits]
    return min(ways, key=lambda way: way[1].timing.step_s, default=("", None))


def cell(name: str, found: Plan | None, before: float) -> str:
    """Return a plan's cells; in bold if it is much faster than half as many GPUs."""
    if found is None:
        return "does not fit | | |"
    words = f"{name.partition(',')[0]}{' hpZ' * ('hpZ' in name)}{' r' * found.job.recompute}"
    speed = f"{found.timing.tokens_per_second:,.0f}"
    pays = not before or found.timing.tokens_per_second >= WORTH * before
    sent = f"{found.timing.wire_bytes / 1e9:.1f}" if found.timing.wire_bytes else ""
    return f"{words} | {sent} | {view.seconds(found.timing.step_s)} | {f'**{speed}**' if pays else speed}"


if __name__ == "__main__":
    main()
