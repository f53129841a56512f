"""The tasks: `inv --list`. They call into `sft/` and import it only when they run, so that the list comes at once."""

from __future__ import annotations

import errno
import functools
import inspect
import itertools
import os
import re
import shlex
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from invoke.collection import Collection
from invoke.context import Context
from invoke.exceptions import Exit
from invoke.tasks import task

from sft.errors import SftError, UserError, wrong
from sft.failures import POLICIES, is_disk_full
from sft.host.bootstrap import switch
from sft.host.launch import signals
from sft.redaction import NAMES, guard_tracebacks, redact
from sft.run import owners
from sft.settings import variables

if TYPE_CHECKING:
    from sft.run.directory import Run

ROOT = Path(__file__).resolve().parent
WITHOUT_INPUT = {"in_stream": False}  # invoke would read a terminal that is not the session's (`setsid`), and break


def one_line_errors(function: Callable[..., Any]) -> Callable[..., Any]:
    """End a task with the error's line and exit code instead of a traceback."""

    @functools.wraps(function)
    def wrapped(*arguments: Any, **options: Any) -> Any:
        from sft.host import screen

        guard_tracebacks()
        screen.guard_streams()
        os.chdir(ROOT)  # .env, runs/ and data/ are the project's, wherever the task is called
        try:
            with signals.raising():
                options |= options_behind_make(function)
                result = function(*arguments, **options)
                if options.get("json") and not screen.is_whole():  # a program reads it; a run's lines may be lost
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "standard output")
                return result
        except SftError as error:
            raise Exit(for_terminal(redact(str(error))), code=error.exit_code) from None
        except signals.Interrupted as interrupted:
            raise Exit(f"ended by {interrupted.name}", code=interrupted.exit_code) from None
        except PermissionError as error:
            path = Path(error.filename or ".")
            raise Exit(for_terminal(redact(owners.not_yours(path))), code=POLICIES["user"].exit_code) from None
        except OSError as error:
            if not is_disk_full(error):
                raise
            line = f"{error.filename or 'this folder'}: {error.strerror}; make room on that disk, and call it again"
            raise Exit(for_terminal(redact(line)), code=POLICIES["disk_full"].exit_code) from None

    return wrapped


def for_terminal(text: str) -> str:
    """Return a text of one or more lines, broken at spaces if it goes to a terminal, and as it is if not."""
    if not sys.stderr.isatty():
        return text
    columns = os.get_terminal_size(sys.stderr.fileno()).columns or 80  # 0: a terminal that does not say
    lines = textwrap.TextWrapper(columns, break_long_words=False, break_on_hyphens=False)
    return "\n".join(lines.fill(line) for line in text.split("\n"))


def refuse_settings_among(words: list[str]) -> None:
    """Raise Exit for a setting behind `inv`, which would take it for a task."""
    pairs = zip(["", *words], words, strict=False)
    settings = [word for before, word in pairs if re.match(r"[A-Z_]+=", word) and not before.startswith("-")]
    if settings:
        pairs_given = [word.split("=", 1) for word in settings]
        given = " ".join(f"{name}={'…' if name in NAMES else shlex.quote(value)}" for name, value in pairs_given)
        task = next((word for word in words if word not in settings and not word.startswith("-")), "train")
        ways = f"write `make {task} {given}`, or `{given} inv {task}`"
        raise Exit(for_terminal(f"{pairs_given[0][0]}: is a setting, and inv takes tasks; {ways}"), code=2)


def refuse_names_among(words: list[str], tasks: Collection) -> None:
    """Raise Exit for a run's bare name behind a task among the words behind `inv`, which has no optional arguments."""
    for task_name, word in itertools.pairwise(words):
        takes_name = task_name in tasks.task_names and "name" in inspect.signature(tasks[task_name].body).parameters
        if takes_name and not word.startswith("-") and word not in tasks.task_names:
            raise Exit(for_terminal(f"{word}: is not a task; write `make {task_name} NAME={word}`"), code=2)


def options_behind_make(function: Callable[..., Any]) -> dict[str, object]:
    """Return a task's options behind `make`: `make monitor NAME=x ONCE=1` is `inv monitor --name x --once`.

    FRESH is a setting too and stays one. Raises UserError.
    """
    parameters = {name.rstrip("_").upper(): name for name in inspect.signature(function).parameters}
    defaults = {name: inspect.signature(function).parameters[name].default for name in parameters.values()}
    taken = {name: value for name, value in variables.take_options(set(parameters) - {"C", "FRESH"}).items() if value}
    return {parameters[name]: as_type_of(defaults[parameters[name]], name, value) for name, value in taken.items()}


def as_type_of(default: Any, name: str, value: str) -> Any:
    """Return an option's value in the type of its default. Raises UserError."""
    if isinstance(default, bool):
        if value.lower() not in switch.WORDS:
            raise UserError(wrong(name, value, "is not 1 or 0", "use 1 or 0"))
        return switch.WORDS[value.lower()]
    if isinstance(default, int):
        if not value.isascii() or not value.isdecimal():
            raise UserError(wrong(name, value, "is not a whole number", "use a whole number, 0 or more"))
        return int(value)
    return value


NAME = {"name": "the run's name; default: the latest run"}


def chosen(name: str) -> Run:
    """Return the run that a task shows or stops. Raises UserError.

    A misspelt NAME behind `make` must not show or stop another run.
    """
    from sft.run import find

    refuse_unknown_words("NAME", "ONCE", "JSON", "FOLLOW", "LINES", "NODE")
    return find.find(variables.runs_path(), name)


def refuse_unknown_words(*options: str) -> None:
    """Raise UserError for a word behind `make` that is not a setting, in tasks that do not load the settings."""
    if unknown := variables.behind_make():
        from sft.settings.load import unknown_names  # takes a quarter of a second

        if problems := unknown_names(unknown, "make", options):
            raise UserError("\n".join(problems))


@task
@one_line_errors
def setup(c: Context) -> None:
    """Make .env and the folders, and download data and model."""
    from sft.host import screen
    from sft.host.commands.setup import setup

    setup(screen.terminal())


@task(
    help={
        "python-version": "the Python of the other machine, such as 3.12; default: this one's (PYTHON_VERSION=3.12)",
        "dev": "the tools for `make check` and `make test` too",
    }
)
@one_line_errors
def bundle(c: Context, python_version: str = "", dev: bool = False) -> None:
    """Write a folder with everything that `make setup OFFLINE=1` needs without a network (TORCH_BACKEND, BUNDLE)."""
    from sft.host import screen
    from sft.host.commands import bundle
    from sft.settings.load import load

    bundle.write(load(), python_version, dev, screen.terminal())


@task(name="test-env", help={"json": "print the checks as JSON"})
@one_line_errors
def test_env(c: Context, json: bool = False) -> None:
    """Check whether a run can start here: ok, warning or failure, with the remedy."""
    from sft.host import screen
    from sft.host.commands import test_env

    test_env.test_env(screen.terminal(), json)


@task(
    help={
        "fresh": "start a new run instead of resuming (FRESH=1)",
        "from": "repeat this run (a name or runs/NAME) with its own settings; those in the environment override them",
        "follow": "with LAUNCHER=slurm: show the run until its job has ended",
        "dry-run": "with LAUNCHER=slurm: print the job script and submit nothing",
    }
)
@one_line_errors
def train(c: Context, fresh: bool = False, from_: str = "", follow: bool = False, dry_run: bool = False) -> None:
    """Fine-tune with the settings in .env, or resume a stopped run."""
    from sft.host import screen
    from sft.host.commands import setup, submit, train
    from sft.host.launch.hosts import by_hand
    from sft.run import find
    from sft.settings.load import load

    console = screen.terminal()
    setup.make_env_file(console)
    if from_:
        train.repeat(find.find(variables.runs_path(), Path(from_).name), console)
    else:
        settings = load(variables.ENV_FILE, None, **given(fresh=fresh))
        if dry_run:
            submit.show_script(settings)
        elif by_hand.is_for_another(settings.launcher, settings.hosts):
            by_hand.join(settings, console)
        else:
            train.train(settings, console, follow)


@task(
    help={
        "name": "the run's name; default: the newest unfinished run",
        "follow": "with LAUNCHER=slurm: show the run until its job has ended",
    }
)
@one_line_errors
def resume(c: Context, name: str = "", follow: bool = False) -> None:
    """Continue an unfinished run with its own settings; those that may change can be overridden."""
    from sft.host import screen
    from sft.host.commands import setup, train
    from sft.host.launch.hosts import by_hand
    from sft.settings.load import load

    console = screen.terminal()
    setup.make_env_file(console)
    if by_hand.is_for_another(variables.of_user("LAUNCHER").lower(), variables.of_user("HOSTS")):
        by_hand.join(load(), console, by_hand.WITHOUT_SETTINGS)
    else:
        train.resume(name, console, follow)


@task(
    help={
        "gpu": "plan for this card, such as 4090, instead of the cards of this machine",
        "gpu-gib": "memory of each card, as nvidia-smi shows it; for cards that are not in the table",
        "gpus": "plan for this many, instead of NODES x GPUS_PER_NODE",
        "shape": "config.json of a model that is not on this machine",
        "tokens-per-row": "mean number of tokens per row, if the rows are not prepared",
        "rows": "number of rows, if they are not prepared",
        "host-gib": "main memory of the machine, for offload; default: what is free here",
        "hosts": "plan for so many machines, each with the GPUs of this one or its share of --gpus",
        "link": "the network between hosts: 10gbe, 25gbe, 100gbe or Gbit/s; default: what was measured, or 10gbe",
        "measured": "name of a run on one host: its speed counts, in place of the card's figures",
        "json": "print the plan as JSON",
    }
)
@one_line_errors
def plan(
    c: Context,
    gpu: str = "",
    gpu_gib: str = "",
    gpus: str = "",
    shape: str = "",
    tokens_per_row: str = "",
    rows: str = "",
    host_gib: str = "",
    hosts: str = "",
    link: str = "",
    measured: str = "",
    json: bool = False,
) -> None:
    """Does it fit, how long does it take, what would be better? Needs no GPU."""
    from sft.host import screen
    from sft.host.plan import view
    from sft.host.plan.conditions import Options
    from sft.settings.load import load

    numbers = {"gpus": gpus, "tokens_per_row": tokens_per_row, "rows": rows, "host_gib": host_gib, "gpu_gib": gpu_gib}
    options = Options.of(gpu, shape, hosts=hosts, link=link, measured=measured, **numbers)
    view.show(load(), options, screen.terminal(), json)


@task(
    help={
        "index": "show the row of this number, counted from 0, whole",
        "longest": "show the longest row (with NUMBER=n: the n longest)",
        "cut": "show rows that are cut at MAX_LENGTH",
        "split": "train (the default) or validation",
        "ids": "list the id and the text of every token",
        "html": "write the rows, whole, to this file too, as a page for a browser",
        "number": "rows to show; default: 3, from all over the split",
        "check": "look at all rows instead: repeated, odd, or held out and in training too",
        "json": "with CHECK=1: print what was found as JSON",
    }
)
@one_line_errors
def rows(
    c: Context,
    index: str = "",
    longest: bool = False,
    cut: bool = False,
    split: str = "",
    ids: bool = False,
    html: str = "",
    number: str = "",
    check: bool = False,
    json: bool = False,
) -> None:
    """Show rows as they will be trained: text with its targets, lengths, what is cut."""
    from sft.host import screen
    from sft.host.commands import rows
    from sft.settings.load import load

    choice = rows.Choice.of(index, longest, cut, split, ids, number, check or json, html)
    if check or json:
        rows.check(load(), json, screen.terminal())
    else:
        rows.rows(load(), choice, html, screen.terminal())


@task(help={"fresh": "start a new run instead of resuming (FRESH=1)"})
@one_line_errors
def demo(c: Context, fresh: bool = False) -> None:
    """Train a tiny model on generated data over two nodes, on any CPU."""
    from sft.host import screen
    from sft.host.commands import train
    from sft.settings.load import DEMO_SETTINGS, load

    settings = load(None, DEMO_SETTINGS, **given(fresh=fresh))
    train.train(settings, screen.terminal())


def given(**flags: bool) -> dict[str, bool]:
    """Return the flags that were given: a flag not given must not override the environment."""
    return {name: value for name, value in flags.items() if value}


@task(
    help={
        "kind": "kubernetes (a TrainJob of Kubeflow Trainer) or skypilot",
        "image": "the nodes' image, in a registry (kubernetes)",
        "volume": "the volume that the nodes share",
        "gpu": "the cards' name, such as H100 (skypilot)",
    },
)
@one_line_errors
def manifest(c: Context, kind: str, image: str = "sft:latest", volume: str = "sft", gpu: str = "") -> None:
    """Print a file with which Kubernetes or SkyPilot starts this run's nodes. It was never run there."""
    from sft.host.launch.manifest import render
    from sft.settings.load import load

    print(render.rendered(load(), kind, image, volume, gpu), end="")


@task(help=NAME | {"once": "print once and leave", "json": "print once, as JSON"})
@one_line_errors
def monitor(c: Context, name: str = "", once: bool = False, json: bool = False) -> None:
    """Watch a run: progress, loss, speed, GPUs."""
    from sft.host import screen
    from sft.host.commands import monitor

    monitor.monitor(chosen(name), screen.terminal(), once, json)


@task(help=NAME)
@one_line_errors
def stop(c: Context, name: str = "") -> None:
    """Stop a run: it finishes its step, saves a checkpoint and ends."""
    from sft.host import screen
    from sft.host.commands.stop import run_to_stop, stop

    run = chosen(name)
    stop(run if name else run_to_stop(run), screen.terminal())


@task(
    help=NAME
    | {
        "follow": "keep printing as the logs grow",
        "lines": "lines per node; 0 = all",
        "node": "numbers of nodes, such as 0,17, or all; default: all, but of many nodes those that a failure names",
    }
)
@one_line_errors
def logs(c: Context, name: str = "", follow: bool = False, lines: int = 100, node: str = "") -> None:
    """Print the logs of every node."""
    from sft.host import screen
    from sft.host.commands.logs import logs

    logs(chosen(name), screen.terminal(), follow, lines, node)


@task(help=NAME)
@one_line_errors
def evaluate(c: Context, name: str = "") -> None:
    """Evaluate the base and final model of a run again (EVAL_LIMIT, MAX_NEW_TOKENS)."""
    from sft.host import screen
    from sft.host.commands.evaluate import evaluate
    from sft.settings.load import load

    evaluate(load(), name, screen.terminal())


@task
@one_line_errors
def bench(c: Context) -> None:
    """Measure packed against padded steps on this CPU."""
    refuse_unknown_words()
    with c.cd(ROOT):
        c.run(f"{sys.executable} -m benchmarks.cpu", **WITHOUT_INPUT)


@task
def check(c: Context) -> None:
    """Run ruff, mypy, import-linter and vermin."""
    older = "vermin --quiet --no-tips --violations --eval-annotations -t=3.8-"
    bootstrap = f"{older} sft/__init__.py sft/host/__init__.py sft/host/bootstrap"
    with c.cd(ROOT):
        for command in ("ruff check .", "ruff format --check .", "mypy", "lint-imports", bootstrap):
            c.run(f"{sys.prefix}/bin/{command}", **WITHOUT_INPUT)


@task(help={"options": "passed on to pytest"})
@one_line_errors
def test(c: Context, options: str = "") -> None:
    """Run every test that this machine can run, a few at a time; list what cannot run, with the reason."""
    refuse_unknown_words("OPTIONS")
    # Unit tests in processes of their own: seconds, and proof that they import no training package. Of the others, many
    # wait for daemons, networks and containers: four keep two cores busy.
    parts = [f"-n 2 {options}"] if options else ["-n 2 tests/unit", "-n 4 tests --ignore tests/unit"]
    with c.cd(ROOT):
        pytest = f"{sys.executable} -m pytest --dist loadfile"
        ended = [c.run(f"{pytest} {part}", pty=sys.stdout.isatty(), warn=True) for part in parts]
    if not all(ended):
        raise Exit(code=1)


@task(help={"options": "--seed N --kills N --stops N --full-disks N"})
@one_line_errors
def soak(c: Context, options: str = "") -> None:
    """Kill and stop runs and fill disks, many times; compare the resumed runs with an undisturbed one, bit by bit."""
    refuse_unknown_words("OPTIONS")
    with c.cd(ROOT):
        c.run(f"{sys.executable} -m tests.soak {options}", **WITHOUT_INPUT)


@task
def docs(c: Context) -> None:
    """Write the generated parts of docs/ and .env.example."""
    with c.cd(ROOT):
        c.run(f"{sys.executable} docs/generate.py", **WITHOUT_INPUT)


@task
@one_line_errors
def constraints(c: Context) -> None:
    """Write the newest version of every package that pyproject.toml allows into constraints.txt."""
    from sft.host import screen
    from sft.host.commands import constraints

    refuse_unknown_words()
    constraints.renew(screen.terminal())


namespace = Collection(
    setup, bundle, test_env, rows, plan, train, resume, demo, manifest, monitor, stop, logs, evaluate, bench, check,
    test, soak, docs, constraints,
)  # fmt: skip
if "inv" in Path(sys.argv[0]).name or Path(sys.argv[0]).parent.name == "invoke":
    refuse_settings_among(sys.argv[1:])
    refuse_names_among(sys.argv[1:], namespace)
