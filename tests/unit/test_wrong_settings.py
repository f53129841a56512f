"""Any settings, however odd: a run that could start, or lines that name what is wrong, and nothing left behind."""

import io
import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from sft.errors import UserError
from sft.host.launch.decide import decide
from sft.host.launch.open import open_run
from sft.run import lifecycle
from sft.settings import variables
from sft.settings.fields import Settings
from sft.settings.load import load
from tests.settings import decided

from .strategies import KEYS, NAMED, VALUES

NAMES = sorted(name.upper() for name in Settings.model_fields)

NUMBERS = st.one_of(
    st.integers(-3, 70000).map(str),
    st.integers().map(str),
    st.floats().map(str),
    st.sampled_from(["0", "1", "-1", "1e309", "nan", "inf", "-inf", "1_000", "0x10", "٣", "1e3", "9" * 5000, "1" * 30]),
)
TEXTS = st.one_of(
    st.text(max_size=20),
    st.text(st.characters(codec="utf-8"), min_size=1, max_size=8).map(lambda text: text * 60),
    st.sampled_from(["", " ", "~", "~nobody-here/x", ".", "..", "/", "/proc/nothing", "a/b", "a//b", "-rf", "latest",
                     "tiny", "demo", "\x00", "\x1b[31m", "a\nb", "\ud800", "\udcff", "x" * 300, "x/" * 3000, "é",
                     "'", '"', "$(id)", "{}", "[]", "null", "None", "a file", "a folder", "deep.json"]),
)  # fmt: skip
CHOICES = st.sampled_from(["auto", "cpu", "cuda", "local", "compose", "fp16", "bf16", "fp32", "zero2", "zero3_offload",
                           "linear", "LINEAR ", "constant", "true", "no", "1", "0", "yes", "2"])  # fmt: skip
WORDS = st.one_of(NUMBERS, TEXTS, CHOICES)
CHOSEN = st.dictionaries(st.sampled_from(NAMES), WORDS, max_size=3)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder to start runs in, on a machine without docker."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "a file").write_text("x")
    (tmp_path / "a folder").mkdir()
    (tmp_path / "deep.json").write_text("[" * 100_000)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def everything(folder):
    """Return every path below a folder."""
    return sorted(folder.rglob("*"))


def begin(**given):
    """Do what `make train` does before its nodes start, and return the run."""
    console = Console(file=io.StringIO())
    decision = decide(load(**given))
    with open_run(decision.prepared(console), console.print) as run:
        return run


def check(folder, before, **given):
    """Begin a run: it has usable settings, or the error names them and leaves nothing behind."""
    try:
        run = begin(**given)
    except UserError as error:
        assert error.exit_code == 2
        text = str(error)
        text.encode()  # a terminal can show it
        for line in text.split("\n"):
            assert NAMED.match(line) and line.isprintable() and len(line) < 800, line
        assert everything(folder) == before
        return False
    frozen = run.settings()
    assert frozen.device in ("cpu", "cuda") and frozen.precision != "auto"
    json.dumps(json.loads(run.ds_config.read_text()), allow_nan=False)
    clean(folder, before)
    return True


def clean(folder, before):
    """Remove what a run made."""
    for path in reversed(everything(folder)):
        if path not in before:
            path.unlink() if path.is_symlink() or path.is_file() else path.rmdir()


BASE = {"MODEL_NAME": "tiny", "DATASET": "demo", "DEVICE": "cpu", "LAUNCHER": "local", "NODES": "1"}


def in_environment(text):
    """Whether an environment variable can hold a text."""
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


@given(
    chosen=st.one_of(CHOSEN, st.dictionaries(st.sampled_from(NAMES), CHOICES, max_size=2)),
    in_file=st.dictionaries(st.sampled_from(NAMES), WORDS, max_size=2),
    base=st.sampled_from([True, True, True, False]),
)
def run_with(folder, counts, chosen, in_file, base):
    before = everything(folder)
    written = {name: value for name, value in in_file.items() if value}
    given_here = (BASE if base else {}) | {name: value for name, value in chosen.items() if in_environment(value)}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in given_here.items():
            patch.setenv(name, value)
        defaults = {name.lower(): value for name, value in written.items()}
        counts[check(folder, before, env_file=None, defaults=defaults)] += 1


def test_any_settings_are_usable_or_named(folder):
    counts = {True: 0, False: 0}
    run_with(folder, counts)
    examples = settings().max_examples
    assert counts[True] > examples / 20 and counts[False] > examples / 5, counts


LINES = st.one_of(
    st.builds(lambda name, value: f"{name}={value}", st.sampled_from(NAMES), WORDS),
    st.builds(lambda name, value: f"export {name} = '{value}", st.sampled_from(NAMES), WORDS),
    st.text(max_size=30),
)


@given(content=st.one_of(st.lists(LINES, max_size=4).map("\n".join), st.binary(max_size=40)))
def run_env_file(folder, content):
    path = folder / ".env"
    path.write_bytes(content if isinstance(content, bytes) else content.encode(errors="surrogatepass"))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in BASE.items():
            patch.setenv(name, value)
        check(folder, everything(folder), env_file=Path(".env"))


def test_any_env_file_is_read_or_named(folder):
    run_env_file(folder)


@given(words=st.text(max_size=60))
def test_any_words_behind_make_are_read_or_named(words):
    with pytest.MonkeyPatch.context() as patch:
        if in_environment(words):
            patch.setenv("MAKE_SETTINGS", words)
        try:
            load(None)
        except UserError as error:
            assert all(NAMED.match(line) and line.isprintable() for line in str(error).split("\n"))


def test_a_value_with_spaces_behind_make_is_one_word(monkeypatch):
    monkeypatch.setenv("MAKE_SETTINGS", r"SYSTEM_PROMPT=x\ =\ 3 SEED=4")  # as make writes it
    assert variables.behind_make() == ["SYSTEM_PROMPT", "SEED"]


# DeepSpeed's files

FILES = st.dictionaries(KEYS, VALUES, max_size=4).flatmap(
    lambda content: st.sampled_from([content, {"zero_optimization": {"stage": 2}} | content])
)


@given(content=st.one_of(FILES, VALUES), text=st.one_of(st.none(), st.binary(max_size=30)))
def run_ds_config(folder, content, text):
    (folder / "mine.json").write_bytes(json.dumps(content).encode() if text is None else text)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (BASE | {"DS_CONFIG": "mine.json"}).items():
            patch.setenv(name, value)
        check(folder, everything(folder), env_file=None)


def test_any_deepspeed_file_is_usable_or_named(folder):
    run_ds_config(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"a": ' + "9" * 5000 + "}", "DS_CONFIG=mine.json: holds a number of too many digits"),
        ('{"a": NaN, "zero_optimization": {"stage": 1}}', "DS_CONFIG=mine.json: holds NaN"),
        ('{"zero_optimization": {"stage": 1}, "zero_optimization": {}}', "has the key 'zero_optimization' twice"),
        ("[" * 100_000, "is nested too deep"),
        ('{"zero_optimization": {"stage": true}}', "zero_optimization.stage is True; write 1, 2 or 3"),
    ],
)
def test_what_is_wrong_with_a_deepspeed_file_is_said(folder, content, message):
    (folder / "mine.json").write_text(content)
    with pytest.raises(UserError) as caught:
        load(None, ds_config="mine.json")
    assert message in str(caught.value)


def test_a_run_that_cannot_be_frozen_leaves_no_directory(folder, monkeypatch):
    chosen = decided(run_name="full")

    def no_space(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(lifecycle, "point_latest", no_space)
    with pytest.raises(UserError, match=r"RUNS_PATH=runs: .*No space left on device"):
        lifecycle.create(chosen, "")
    assert not (folder / "runs" / "full").exists()
