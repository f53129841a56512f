"""The run directory and the hostfile."""

import json

import pytest

from sft import cluster
from sft import run as runs
from sft.errors import UserError
from sft.settings import Settings


@pytest.fixture
def run(tmp_path):
    return runs.create(Settings.load(None, runs_path=tmp_path, run_name="a"), cluster.hostfile(2, 2))


def test_created_run_is_latest_and_frozen(run, tmp_path):
    assert runs.latest(tmp_path).path == run.path
    assert run.state()["status"] == "launching"
    assert json.loads(run.ds_config.read_text())["zero_optimization"]["stage"] == 3
    assert cluster.read_hostfile(run.hostfile) == {"llm-master": 2, "llm-worker": 2}
    assert run.settings().run_name == "a"


def test_a_name_is_taken_once(run, tmp_path):
    with pytest.raises(UserError, match="RUN_NAME=a"):
        runs.create(Settings.load(None, runs_path=tmp_path, run_name="a"), "")


def test_half_a_line_is_no_metric(run):
    run.metrics.write_text('{"step": 1}\n{"st')
    assert list(run.read_metrics()) == [{"step": 1}]


def test_stop_request(run):
    assert run.stop_reason() is None
    run.request_stop("asked by the user")
    assert run.stop_reason() == "asked by the user"
    run.clear_stop()
    assert run.stop_reason() is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "names no node"),
        ("a slots=2\nb slots=1\n", "unequal slots"),
        ("a slots=2\na slots=2\n", "twice"),
        ("a 2\n", "no hostfile line"),
    ],
)
def test_bad_hostfile(tmp_path, text, message):
    path = tmp_path / "hostfile"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        cluster.read_hostfile(path)


def test_missing_hostfile_is_an_error(tmp_path):
    with pytest.raises(UserError, match="missing"):
        cluster.read_hostfile(tmp_path / "none")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"batch_size": "x"}', '{"unheard_of": 1}', "\x00"])
def test_settings_of_a_run_that_cannot_be_read_are_one_line(run, content):
    run.update_state("stopped")
    run.settings_file.write_text(content)
    with pytest.raises(UserError, match=r"a/settings.json: holds no settings that this version reads \(.*\); start a"):
        runs.resumable(Settings.load(None, runs_path=run.path.parent, run_name="a"))


def test_a_reopened_run_has_the_hostfile_of_its_ranks_of_now(run):
    run.hostfile.write_text("mine slots=2\nyours slots=2\n")
    runs.reopen(run, run.settings())
    assert cluster.read_hostfile(run.hostfile) == {"mine": 2, "yours": 2}  # the same ranks: it stays
    runs.reopen(run, run.settings().model_copy(update={"nodes": 1, "gpus_per_node": 3, "batch_size": 7}))
    assert cluster.read_hostfile(run.hostfile) == {"llm-master": 3}
    assert json.loads(run.ds_config.read_text())["train_micro_batch_size_per_gpu"] == 7


def test_the_hours_of_a_start_go_on_over_its_restarts(run):
    started = run.state()["hours_from"]
    runs.reopen(run, run.settings(), again=True)
    assert run.state()["hours_from"] == started
    runs.reopen(run, run.settings())
    assert run.state()["hours_from"] > started


def test_a_named_run_that_was_killed_before_it_saved_anything_goes_on(run, tmp_path):
    run.update_state("failed", error="killed")
    named = Settings.load(None, runs_path=tmp_path, run_name="a")
    assert runs.resumable(named)[0].path == run.path
    assert runs.resumable(named.model_copy(update={"run_name": ""}))[0] is None  # the latest: a new one loses nothing
