"""Several data sets: the notation of DATASET, the file of DATASETS, and settings of each."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sft.errors import SettingsError
from sft.host.launch import compose_files, inputs
from sft.host.plan import workload
from sft.settings import rules
from sft.settings.load import load, thaw
from sft.settings.mixture import is_mixture, parts_of, title, with_commits
from sft.settings.shares import Share
from sft.settings.stages import Decided
from tests.settings import decided


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.jsonl", "b.jsonl", "c,d.jsonl", "e*2x.jsonl"):
        (tmp_path / name).write_text('{"question": "1 + 1?", "answer": "2"}\n')
    return tmp_path


def named(dataset):
    return [(part.name, str(part.share)) for part in parts_of(load(None, dataset=dataset))]


def problems(**given):
    with pytest.raises(SettingsError) as caught:
        load(None, **given)
    return caught.value.problems


@pytest.mark.parametrize(
    ("text", "taken", "repeats"),
    [("0.5", 50, 1), (".25", 25, 1), ("0.005", 1, 1), ("1x", 100, 1), ("1.0", 100, 1), ("3x", 100, 3), ("3.0", 100, 3),
     ("0.5x", 50, 1), ("2X", 100, 2), ("50", 50, 1), ("2000", 100, 1), ("0.29", 29, 1), ("1.", 100, 1)],
)  # fmt: skip
def test_shares(text, taken, repeats):
    share = Share.parse(text)
    assert (share.taken(100), share.repeats) == (taken, repeats)
    assert Share.parse(str(share)) == share


@pytest.mark.parametrize(
    "text", ["", "x", "0", "0.0", "0x", "-1", "-0.5", "2", "9", "1.5", "2.5x", "1e3", "50%", "0.5.5", "1_000", "٣x",
             "2147483648", "1001x", "nan", "inf", "9" * 30, "1 2", "xx", "."],
)  # fmt: skip
def test_what_is_not_a_share_is_refused_in_one_line(text):
    (line,) = problems(dataset=f"a.jsonl*{text}")
    assert line.startswith("DATASET=a.jsonl*") and "; " in line


@given(st.text(st.sampled_from("0123456789.x*, ab/é\x00-"), max_size=12))
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_text_is_read_or_refused(text):
    try:
        found = load(None, dataset=text)
        parts = parts_of(found)
    except SettingsError as error:
        assert all(line.startswith("DATASET=") and "\n" not in line for line in error.problems)
        return
    written = ",".join(f"{part.settings.dataset}*{part.share}" for part in parts)
    again = parts_of(load(None, dataset=written))
    assert [(part.settings.dataset, part.share) for part in again] == [
        (part.settings.dataset, part.share) for part in parts
    ]


@given(st.text(max_size=20))
@settings(max_examples=80, deadline=None)
def test_every_share_is_read_or_refused(text):
    try:
        share = Share.parse(text)
    except ValueError as error:
        assert "; " in str(error)
        return
    assert Share.parse(str(share)) == share
    assert 1 <= share.taken(100) <= 100 and share.taken(0) == 0


def test_a_list_of_data_sets():
    assert named("a.jsonl,b.jsonl*0.5,org/set*2000") == [("a.jsonl", "1x"), ("b.jsonl", "0.5"), ("org/set", "2000")]
    assert named(" a.jsonl , b.jsonl * 2x ") == [("a.jsonl", "1x"), ("b.jsonl", "2x")]
    assert not is_mixture(load(None, dataset="a.jsonl")) and is_mixture(load(None, dataset="a.jsonl*0.5"))
    assert title(load(None, dataset="a.jsonl,b.jsonl*0.5")) == "a.jsonl, b.jsonl*0.5"


def test_a_path_that_is_there_is_a_path_whatever_its_name():
    assert named("c,d.jsonl") == [("c,d.jsonl", "1x")]
    assert named("e*2x.jsonl") == [("e*2x.jsonl", "1x")]
    assert named("a.jsonl,c,d.jsonl*0.5,e*2x.jsonl*3x") == [
        ("a.jsonl", "1x"),
        ("c,d.jsonl", "0.5"),
        ("e*2x.jsonl", "3x"),
    ]


def test_everything_that_is_wrong_with_a_list_is_named_at_once():
    assert problems(dataset="a.jsonl*2,*.jsonl,a.jsonl,", batch_size=0) == [
        "BATCH_SIZE=0: is out of range; use at least 1",
        "DATASET=a.jsonl*2: the share '2' may mean rows or times; use 2x for times, and at least 10 rows",
        "DATASET=*.jsonl: the share '.jsonl' is not a share; use *0.5 (half of the rows), *3x (each row three times) "
        "or *2000 (2,000 rows); patterns are not read: name the folder, which has all its files, or one file",
        "DATASET=*.jsonl: has no name before the share; name a file, a folder or a data set on the hub",
        "DATASET=a.jsonl*2,*.jsonl,a.jsonl,: has a comma without a name beside it; remove it, or add a name",
    ]
    assert problems(dataset="./no.jsonl,a.jsonl,nor.csv*2x") == [
        "DATASET=./no.jsonl: no such file or folder; check the path, or give a hub name such as openai/gsm8k",
        "DATASET=nor.csv: no such file or folder; check the path, or give a hub name such as openai/gsm8k",
    ]
    assert problems(dataset="a.jsonl,a.jsonl") == [
        "DATASET=a.jsonl: is named twice; write a.jsonl*2x to train each row twice"
    ]
    assert problems(dataset="a.jsonl,./a.jsonl*0.5") == [
        "DATASET=./a.jsonl: is named twice, as a.jsonl before; write ./a.jsonl*2x to train each row twice"
    ]


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("a.jsonl b.jsonl", "separate data sets by commas: a.jsonl,b.jsonl"),
        ("a.jsonl; b.jsonl*0.5", "separate data sets by commas: a.jsonl,b.jsonl"),
        ("org/set#500", "write a share behind *, as in org/set*500"),
        ("a.jsonl:0.5,b.jsonl", "write a share behind *, as in a.jsonl*0.5"),
    ],
)
def test_the_notations_of_other_trainers_are_known(text, remedy):
    (line,) = problems(dataset=text)
    assert line.endswith(f"; {remedy}")


def test_a_configuration_is_that_of_its_data_set():
    parts = parts_of(load(None, dataset="openai/gsm8k*0.5,org/set"))
    assert [part.settings.dataset_config for part in parts] == ["main", ""]


# DATASETS

MIX = """
[[datasets]]
dataset = "a.jsonl"
share = 0.5

[[datasets]]
dataset = "org/set"
dataset_config = "hard"
train_split = "train[:10%]"
columns = { ask = "prompt", reply = "response" }
system_prompt = "Be brief."
share = "3x"

[[datasets]]
dataset = "org/set"
share = 2000
"""


def mixed(folder, text=MIX, **given):
    (folder / "mix.toml").write_text(text)
    return load(None, datasets="mix.toml", **given)


def test_the_file_gives_each_data_set_settings_of_its_own(folder):
    first, second, third = parts_of(mixed(folder, prompt_column="ask"))
    assert [(part.name, str(part.share)) for part in (first, second, third)] == [
        ("a.jsonl", "0.5"), ("org/set (1)", "3x"), ("org/set (2)", "2000"),
    ]  # fmt: skip
    assert json.loads(second.settings.columns) == {"ask": "prompt", "reply": "response"}
    assert (second.settings.dataset_config, third.settings.dataset_config) == ("hard", "")
    assert (second.settings.system_prompt, third.settings.system_prompt) == ("Be brief.", "")
    assert {part.settings.prompt_column for part in (first, second, third)} == {"ask"}
    assert not first.settings.datasets


def test_a_run_needs_the_file_no_more(folder):
    settings = mixed(folder)
    (folder / "mix.toml").unlink()
    frozen = decided(**settings.freeze())
    assert isinstance(again := thaw(frozen.freeze()), Decided)
    assert parts_of(again)[1].settings.dataset_config == "hard"
    assert load(None, defaults=settings.freeze()).datasets == settings.datasets


def test_a_change_of_the_file_is_a_change_of_the_settings(folder):
    settings = mixed(folder)
    assert mixed(folder, "# a comment\n" + MIX).datasets == settings.datasets
    assert mixed(folder, MIX.replace("2000", "2001")).datasets != settings.datasets


def test_a_run_with_another_file_is_refused_by_what_has_changed(folder):
    before = decided(datasets=mixed(folder).datasets)

    def lines(text):
        return rules.differences(decided(datasets=mixed(folder, text).datasets), before)

    assert lines(MIX) == []
    (line,) = lines(MIX.replace("0.5", "0.25").replace('"hard"', '"easy"'))
    assert "([1].share: 0.25, was 0.5, [2].dataset_config: easy, was hard); undo that to resume, or" in line
    (line,) = lines(MIX[: MIX.rindex("[[")])
    assert "(2 data sets, it has 3)" in line


def test_everything_that_is_wrong_with_the_file_is_named(folder):
    text = """
[[datasets]]
dataset = "./no.jsonl"
colums = { ask = "prompt" }
share = 1

[[datasets]]
path = "a.jsonl"
use_columns = "perhaps"
system_prompt = 5
"""
    with pytest.raises(SettingsError) as caught:
        mixed(folder, text, batch_size=0)
    assert caught.value.problems == [
        "DATASETS=mix.toml: [1].colums: is not a key of a data set; did you mean columns?",
        "DATASETS=mix.toml: [1].dataset=./no.jsonl: no such file or folder; check the path, or give a hub name such as "
        "openai/gsm8k",
        "DATASETS=mix.toml: [1].share=1: may mean rows or times; use 1x for times, and at least 10 rows",
        "DATASETS=mix.toml: [2].path: is not a key of a data set; did you mean dataset?",
        "DATASETS=mix.toml: [2].dataset: is missing; name a file, a folder or a data set on the hub",
        "DATASETS=mix.toml: [2].use_columns=perhaps: is not one of the choices; use 'refuse' or 'warn'",
        "DATASETS=mix.toml: [2].system_prompt=5: input should be a valid string; correct it",
        "BATCH_SIZE=0: is out of range; use at least 1",
    ]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ('[[dataset]]\ndataset = "a.jsonl"', "dataset: is not a key of the file; did you mean datasets?"),
        ("datasets = 3", "describes no data set"),
        ("", "describes no data set"),
        ("x =", "is not valid TOML"),
        ("[" * 100_000, "is not valid TOML"),
        ('[[datasets]]\ndataset = "a.jsonl,b.jsonl"', "[1].dataset=a.jsonl,b.jsonl: no such file"),
        ('[[datasets]]\ndataset = "a.jsonl"\n[[datasets]]\ndataset = "a.jsonl"', "is named twice"),
    ],
    ids=range(7),
)
def test_files_of_another_form(folder, text, what):
    with pytest.raises(SettingsError) as caught:
        mixed(folder, text)
    assert what in str(caught.value) and "\n" not in str(caught.value)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
                    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(
                        st.sampled_from(["dataset", "share", "columns", "train_split", "x"]), inner, max_size=3),
                    max_leaves=6))  # fmt: skip
@settings(max_examples=80, deadline=None)
def test_every_content_is_read_or_refused(content):
    try:
        parts_of(load(None, datasets=json.dumps([content])))
    except SettingsError as error:
        assert all(line.startswith(("DATASETS=", "DATASET=")) for line in error.problems)


def test_the_later_of_dataset_and_datasets_wins_and_both_at_once_are_refused(folder, monkeypatch):
    (folder / "mix.toml").write_text(MIX)
    (folder / ".env").write_text("DATASET=b.jsonl\n")
    assert title(load(folder / ".env", datasets="mix.toml")).startswith("a.jsonl*0.5")
    (folder / ".env").write_text("DATASETS=mix.toml\n")
    assert title(load(folder / ".env", dataset="b.jsonl")) == "b.jsonl"
    assert problems(dataset="b.jsonl", datasets="mix.toml") == [
        "DATASETS=mix.toml: DATASET=b.jsonl is set too; leave one of them out"
    ]
    (folder / ".env").write_text("DATASETS=mix.toml\nDATASET=b.jsonl\n")
    with pytest.raises(SettingsError, match="DATASETS=mix.toml: DATASET=b.jsonl is set too"):
        load(folder / ".env")


# What takes the settings of one data set


def test_local_files_of_all_data_sets_are_checked_before_a_run(folder):
    (folder / "a.jsonl").write_text('{"question": "x", "answer": " "}\n')
    (folder / "b.jsonl").write_text('{"question": " ", "answer": "y"}\n')
    settings = load(None, model_name="tiny", dataset="a.jsonl,b.jsonl*0.5")
    with pytest.raises(SettingsError) as caught:
        inputs.check(settings)
    assert [line.split(":")[0] for line in str(caught.value).splitlines()] == ["a.jsonl", "b.jsonl"]


def test_containers_must_see_every_data_set(folder):
    lines = compose_files.unseen_files(load(None, dataset="a.jsonl,demo,b.jsonl*0.5"))
    assert [line.split(":")[0] for line in lines] == ["DATASET=a.jsonl", "DATASET=b.jsonl"]


def test_the_plan_knows_the_sum():
    one, other = workload.TYPICAL["openai/gsm8k"], workload.TYPICAL["demo"]
    found = workload.rows_of(load(None, dataset="openai/gsm8k*0.5,demo*2x"))
    assert found.rows == 3737 + 2 * other.rows  # half of GSM8K's 7,473
    tokens = 3737 * one.tokens_per_row + 2 * other.rows * other.tokens_per_row
    assert found.tokens_per_row == pytest.approx(tokens / found.rows)
    assert found.longest == one.longest


def test_commits_become_the_revisions_of_their_data_sets():
    pinned = with_commits(load(None, dataset="org/a,a.jsonl*0.5,org/b*3x"), {"org/b": "c" * 40})
    assert [(part.name, part.settings.dataset_revision, str(part.share)) for part in parts_of(pinned)] == [
        ("org/a", "main", "1x"), ("a.jsonl", "main", "0.5"), ("org/b", "c" * 40, "3x"),
    ]  # fmt: skip
    assert with_commits(load(None, dataset="org/a"), {"org/a": "c" * 40}).dataset_revision == "c" * 40
