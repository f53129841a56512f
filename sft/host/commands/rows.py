"""`make rows`: show rows as they will be trained, before anything is trained."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.text import Text

from sft import hostfile, template_files
from sft.errors import DataError, RunFailed, UserError, shown, wrong
from sft.host import ownership
from sft.host.bootstrap import checkout
from sft.host.commands.setup import error_in, output
from sft.host.folders import make_folders
from sft.host.launch import image, launcher
from sft.host.launch.compose import Stack
from sft.host.rows.looks import listing
from sft.host.rows.page import page
from sft.host.rows.summary import summary
from sft.host.rows.text import Writer
from sft.host.rows.visible import visible
from sft.run import files, typed_json
from sft.run.records import Looks
from sft.run.shown_rows import ROWS, RowChoice, ShownRows, SplitName
from sft.run.typed_json import Record, WrongType
from sft.settings.fields import Settings

PROGRAM = "sft.trainer.data.show_rows"
CONTAINER_FOLDER, CONTAINER_HOME = Path("/app"), "/tmp"  # docker/Dockerfile
MOST_ROWS = 1000

R = TypeVar("R", bound=Record)


@dataclass(frozen=True)
class Choice(RowChoice):
    """Which rows to show, as the options of `make rows` say."""

    @classmethod
    def of(
        cls,
        index: str = "",
        longest: bool = False,
        cut: bool = False,
        split: str = "",
        ids: bool = False,
        number: str = "",
        check: bool = False,
        html: str = "",
    ) -> Choice:
        """Return the options as they were typed. Raises UserError with a line for each that is wrong."""
        problems = []
        others = [index, longest, cut, split, ids, number, html]
        split = split or "train"
        if split not in ("train", "validation"):
            problems.append(wrong("SPLIT", split, "is not a split", "use train or validation"))
        if not is_number(index or "0"):
            problems.append(wrong("INDEX", index, "is not the number of a row", "use 0 for the first one, 1, 2, …"))
        if not (is_number(number or "1") and 1 <= int(number or "1") <= MOST_ROWS):
            problems.append(wrong("NUMBER", number, "is not a number of rows", f"use 1 to {MOST_ROWS}"))
        asked = [name for name, given in (("INDEX", index), ("LONGEST", longest), ("CUT", cut)) if given]
        if len(asked) > 1:
            problems.append(f"{', '.join(asked)}: each chooses rows by itself; give one of them")
        if check and any(others):
            problems.append("CHECK=1: lists what is found in all rows of both splits; leave out the other options")
        if index and number:
            problems.append(wrong("NUMBER", number, "INDEX chooses one row", "leave one of them out"))
        if problems:
            raise UserError("\n".join(problems))
        chosen: SplitName = "validation" if split == "validation" else "train"
        return cls(chosen, int(number or (1 if longest else ROWS)), int(index) if index else None, longest, cut, ids)

    def words(self) -> list[str]:
        """Return the options of the program that reads the rows."""
        words = [f"--split={self.split}", f"--number={self.number}"]
        words += [f"--index={self.index}"] if self.index is not None else []
        return words + [f"--{name}" for name in ("longest", "cut", "ids") if getattr(self, name)]


def is_number(text: str) -> bool:
    """Tell whether a text is a whole number of at most 18 digits, 0 or more."""
    return text.isascii() and text.isdecimal() and len(text) <= 18


def rows(settings: Settings, choice: Choice, html: str, console: Console) -> None:
    """Show rows, and write them to the file `html` if it is given. Raises DataError for rows that cannot be used."""
    found = prepared(settings, choice.words(), ShownRows)
    if found.problems and not found.number:
        raise DataError("\n".join(found.problems))
    writer = Writer(console, found, settings.max_length, whole=choice.index is not None)
    if found.rows:
        console.print(writer.legend())
    elif choice.cut and found.counts:
        console.print(f"no row is cut at MAX_LENGTH={settings.max_length}")
    for row in found.rows:
        console.print()
        for line in writer.row(row):
            console.print(line)
    console.print()
    for text in summary(found, settings):
        console.print(Text(text))
    if html:
        write(Path(html), page(found, settings))
        console.print(Text(f"written: {visible(html, '')}"))
    if found.problems:
        raise DataError("\n".join(found.problems))


def check(settings: Settings, as_json: bool, console: Console) -> None:
    """Print what the looks at all rows find. Raises UserError for rows that cannot be used."""
    found = prepared(settings, ["--check"], Looks)
    if as_json:
        print(json.dumps(typed_json.content_of(found)))
        return
    for line in listing(found):
        console.print(Text(line))


def prepared(settings: Settings, words: list[str], kind: type[R]) -> R:
    """Have the rows tokenised, and return what the program prints for these options. Raises UserError."""
    made = make_folders(settings)
    if in_containers := launcher.would_be(settings).own_packages:
        ownership.hand_over(settings, made)
    found = read(settings, words, in_containers, kind)
    if in_containers:
        ownership.hand_over(settings)  # again, for what was prepared
    return found


def read(settings: Settings, words: list[str], in_containers: bool, kind: type[R]) -> R:
    """Return what the program that tokenises the rows prints. Raises UserError."""
    command, environment = program(settings, words, in_containers)
    code, said = output(command, environment)
    if code:
        raise UserError(error_in(said)) if error_in(said) else RunFailed(f"{PROGRAM} ended with exit code {code}")
    try:
        return kind.from_json(json.loads(said.strip().splitlines()[-1]))
    except (ValueError, IndexError, WrongType) as error:
        raise RunFailed(f"{PROGRAM} printed something else than rows ({shown(error)})") from None


def program(settings: Settings, options: list[str], in_containers: bool) -> tuple[list[str], dict[str, str]]:
    """Return the command and the environment of the program that tokenises rows: here, or in a container.

    A machine whose runs are in containers may lack the training packages. Raises UserError without an image.
    """
    words = ["-m", PROGRAM, *options]
    environment = os.environ | settings.secrets() | {"TOKENIZERS_PARALLELISM": "false"}
    if importlib.util.find_spec("transformers") or not in_containers:
        return [sys.executable, *words], environment
    if not image.is_built():
        raise UserError(
            f"{checkout.image()}: the image is missing, or was built from other code; `make setup` builds it"
        )
    stack = Stack(Settings.of(settings, device="cpu"))
    given = [f"{name.upper()}={os.environ[name.upper()]}" for name in settings.of_data() if name.upper() in os.environ]
    if settings.datasets:  # what its file says: a container does not see it
        given = [pair for pair in given if not pair.startswith(("DATASET=", "DATASETS="))]
        given.append(f"DATASETS={settings.datasets}")
    options = [word for pair in given for word in ("--env", pair)] + template_mount(settings)
    run = stack.command("run", "--rm", "--no-deps", "-T", *options, hostfile.MASTER, "python3", *words)
    return run, stack.environment()


def template_mount(settings: Settings) -> list[str]:
    """Return the option that shows the container CHAT_TEMPLATE's file, where its program looks for it."""
    path = template_files.file_of(settings)
    if path is None:
        return []
    name = settings.chat_template
    inside = CONTAINER_HOME + name.removeprefix("~") if name.startswith("~/") else str(CONTAINER_FOLDER / name)
    return ["--volume", f"{path.resolve()}:{inside}:ro"]


def write(path: Path, text: str) -> None:
    """Write a file. Raises UserError if that is not possible."""
    if path.is_dir():
        raise UserError(wrong("HTML", path, "is a folder", "give a file, such as rows.html"))
    try:
        files.write_whole(path, text, flushed=False)
    except OSError as error:
        raise UserError(wrong("HTML", path, f"cannot be written ({error.strerror})", "choose another file")) from None
