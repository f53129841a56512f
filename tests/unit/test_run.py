"""The run directory and the hostfile."""

import errno
import json
import os
import shutil
from pathlib import Path

import pytest

from sft import hostfile
from sft.errors import UserError
from sft.host.commands import ending, metrics_reader, progress, snapshot
from sft.run import budget, files, find, lifecycle, metrics, typed_json, unfinished
from sft.run.metrics import Line
from sft.run.records import Evaluation, Results
from sft.settings.load import load
from tests.settings import decided

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def run(tmp_path):
    return lifecycle.create(decided(runs_path=tmp_path, run_name="a"), hostfile.hostfile(2, 2))


def test_created_run_is_latest_and_frozen(run, tmp_path):
    assert find.latest(tmp_path).path == run.path
    assert run.state().status == "launching"
    assert json.loads(run.ds_config.read_text())["zero_optimization"]["stage"] == 3
    assert hostfile.read_hostfile(run.hostfile) == {"llm-master": 2, "llm-worker": 2}
    assert run.settings().run_name == "a"


def test_without_the_latest_run_the_one_opened_before_it_is_looked_at(run, tmp_path):
    aside = lifecycle.create(decided(runs_path=tmp_path, run_name="b.old-1"), hostfile.hostfile(2, 2))
    last = lifecycle.create(decided(runs_path=tmp_path, run_name="c"), hostfile.hostfile(2, 2))
    assert find.find(tmp_path) == last
    shutil.rmtree(last.path)  # as the README says how to remove a run
    assert find.find(tmp_path) == run and aside.path.is_dir()
    shutil.rmtree(run.path)
    with pytest.raises(UserError, match="latest: no such run"):
        find.find(tmp_path)


def test_a_wrong_name_is_told_the_newest_runs(run, tmp_path):
    for name in "bcd":
        lifecycle.create(decided(runs_path=tmp_path, run_name=name), hostfile.hostfile(2, 2))
    with pytest.raises(UserError, match="/x: no such run; the newest: d, c, b$"):
        find.find(tmp_path, "x")
    with pytest.raises(UserError, match="/x: no such run; start one with `make train` or `make demo`$"):
        find.find(tmp_path / "none", "x")


def test_a_name_is_taken_once(run, tmp_path):
    with pytest.raises(UserError, match="RUN_NAME=a"):
        lifecycle.create(decided(runs_path=tmp_path, run_name="a"), "")


def test_how_an_attempt_ends_is_flushed_and_what_is_told_meanwhile_is_not(run, monkeypatch):
    flushed = []
    own = os.fsync
    monkeypatch.setattr(os, "fsync", lambda descriptor: flushed.append(descriptor) or own(descriptor))
    run.tell(step=3, loss=0.5)
    run.tell("evaluating", answers=1)
    assert not flushed and run.state().step == 3 and run.state().status == "evaluating"
    for status in ("finished", "stopped", "failed"):
        flushed.clear()
        run.update_state(status)
        assert len(flushed) == 2  # the content and the name


def test_a_disk_that_does_not_take_the_status_ends_no_training_but_no_run_ends_unsaid(run, monkeypatch, capsys):
    with monkeypatch.context() as broken:

        def fails(*_):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        broken.setattr(Path, "replace", fails)
        for step in (1, 2):
            run.tell(step=step)
        with pytest.raises(OSError, match="Input/output error"):
            run.update_state("finished")
    assert capsys.readouterr().out == (
        f"{run.path}/state.json: could not be written (Input/output error); continuing without\n"
    )
    run.tell(step=3)
    assert run.state().step == 3 and run.state().status == "launching"
    assert not list(run.path.glob("*.tmp")) + list(run.path.glob(".state*"))


def test_a_stop_is_asked_for_even_by_a_file_that_cannot_be_read_and_a_broken_disk_is_asked_again(run, monkeypatch):
    run.request_stop("me")
    for number, reason in ((errno.EACCES, "a request that this user may not read"), (errno.EIO, None)):
        with monkeypatch.context() as broken:

            def fails(*_, number=number, **__):
                raise OSError(number, os.strerror(number))

            broken.setattr(Path, "read_text", fails)
            assert run.stop_reason() == reason
    assert run.stop_reason() == "me"


def test_an_evaluation_before_the_first_step_is_no_training(run):
    run.metrics.write_text('{"step": 0, "val/loss": 2.0, "eval/exact_match": 0.1}\n')
    assert not run.has_trained
    run.metrics.write_text(run.metrics.read_text() + '{"step": 1, "train/loss": 2.0}\n')
    assert run.has_trained


def test_half_a_line_is_no_metric(run):
    run.metrics.write_text('{"step": 1}\n{"st')
    assert list(run.read_metrics()) == list(metrics.from_the_end(run.metrics)) == [Line(1, {})]
    run.metrics.write_text('{"st')
    assert not list(metrics.from_the_end(run.metrics))
    run.metrics.write_text("")
    assert not list(metrics.from_the_end(run.metrics))
    run.metrics.unlink()
    assert not list(metrics.from_the_end(run.metrics))


def test_stop_request(run):
    assert run.stop_reason() is None
    run.request_stop("asked by the user")
    assert run.stop_reason() == "asked by the user"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no nodes"),
        ("a slots=2\nb slots=1\n", "unequal slots"),
        ("a slots=2\na slots=2\n", "twice"),
        ("a 2\n", "not a hostfile line"),
    ],
)
def test_bad_hostfile(tmp_path, text, message):
    path = tmp_path / "hostfile"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        hostfile.read_hostfile(path)


def test_missing_hostfile_is_an_error(tmp_path):
    with pytest.raises(UserError, match="missing"):
        hostfile.read_hostfile(tmp_path / "none")


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"version": 2}', '{"batch_size": "x"}', '{"unheard_of": 1}', "\x00"]
)
def test_settings_of_a_run_that_cannot_be_read_are_one_line(run, content):
    run.update_state("stopped")
    run.settings_file.write_text(content)
    with pytest.raises(UserError, match=r"a/settings.json: .*; start a new run, with FRESH=1"):
        unfinished.resumable(decided(runs_path=run.path.parent, run_name="a"))


def test_a_reopened_run_has_the_hostfile_of_its_ranks_of_now(run):
    run.hostfile.write_text("mine slots=2\nyours slots=2\n")
    lifecycle.reopen(run, run.settings())
    assert hostfile.read_hostfile(run.hostfile) == {"mine": 2, "yours": 2}  # the same ranks: it stays
    before = run.settings()
    lifecycle.reopen(run, before, before.model_copy(update={"nodes": 1, "gpus_per_node": 3, "batch_size": 7}))
    assert hostfile.read_hostfile(run.hostfile) == {"llm-master": 3}
    assert json.loads(run.ds_config.read_text())["train_micro_batch_size_per_gpu"] == 7


def test_before_and_after_training_the_same_is_asked_and_scored(run):
    """A run that was stopped and resumed with more rows to answer compared 8 answers before with 200 after."""
    typed_json.write(run.evaluation, Evaluation(before=Results(answers=8)))
    run.answers.write_text("")
    before = run.settings()
    assert lifecycle.reopen(run, before, before.model_copy(update={"eval_batch_size": 3})) == []
    assert run.results().before is not None and run.answers.exists()
    (line,) = lifecycle.reopen(run, before, before.model_copy(update={"eval_limit": before.eval_limit + 1}))
    assert "the base model is evaluated again" in line
    assert run.results().before is None and not run.answers.exists()


def test_the_hours_of_a_start_go_on_over_its_restarts(run):
    started = run.state().hours_from
    lifecycle.reopen(run, run.settings(), again=True)
    assert run.state().hours_from == started
    lifecycle.reopen(run, run.settings())
    assert run.state().hours_from > started


def test_a_run_with_a_file_in_place_of_its_checkpoints_hides_no_other(run, tmp_path):
    """Every task that looks for a run ended with a traceback."""
    run.update_state("stopped", step=7)
    other = lifecycle.create(decided(runs_path=tmp_path, run_name="b"), hostfile.hostfile(2, 2))
    other.update_state("stopped", step=7)
    run.checkpoints.rmdir()
    run.checkpoints.touch()
    found, said = unfinished.to_resume(tmp_path, "")
    assert found.path == other.path and "a (step 0)" in said[0]


ZEROS = b"\0" * 100
WRONG = {"step": "x", "before": 1, "model": 1, "cuts": 1, "name": 1, "opened_at": "x"}  # a wrong type in every record


def test_unreadable_lines_of_the_metrics_are_left_out_and_counted(run):
    lines = [b'{"step": 1, "train/loss": 2.5}', ZEROS, b'{"step": 2, "train/loss": "x"}', b"[]", b'{"train/loss": 1.0}']
    run.metrics.write_bytes(b"\n".join([*lines, b'{"step": 3, "train/loss": NaN}', b'{"step": 4}', b'{"st']))
    assert list(run.read_metrics()) == [Line(1, {"train/loss": 2.5}), Line(3, {}), Line(4, {})]
    assert list(metrics.from_the_end(run.metrics)) == list(run.read_metrics())[::-1]
    (line,) = run.unreadable()
    what = "4 of 7 lines cannot be read (the first is line 2); they are left out"
    assert line == f"{run.metrics}: {what}"


@pytest.mark.parametrize(
    "name", ["state", "evaluation", "prepared", "budget", "node-0", "node-1", "plan", "environment"]
)
@pytest.mark.parametrize("content", [b"", b'{"before": {"lo', ZEROS, b"7", json.dumps(WRONG).encode()])
def test_a_file_of_a_run_that_cannot_be_read_is_named_and_the_run_goes_on(run, name, content):
    run.update_state("stopped", step=7)
    run.metrics.write_text('{"step": 7}\n')
    (run.path / f"{name}.json").write_bytes(content)
    settings = decided(runs_path=run.path.parent, run_name="a")
    found, lines = unfinished.resumable(settings)
    assert found.path == run.path and len(lines) == 1
    assert lines[0].startswith(f"{run.path}/{name}.json: ") and lines[0].endswith("; it is left out")
    assert (budget.cuts(run), run.nodes(), run.record(run.evaluation, Evaluation)) == ([], [], None)
    assert snapshot.Snapshot.of(run, metrics_reader.Metrics(), run.unreadable_files()).problems == lines
    lifecycle.reopen(run, settings)
    assert run.state().status == "launching" and run.state().attempt == 2
    assert run.unreadable() == []  # said once


@pytest.mark.parametrize("name", ["state", "evaluation", "environment", "budget"])
def test_a_folder_in_place_of_a_file_of_a_run_is_named_and_the_run_goes_on(run, name):
    """Every task that looked at the run ended with a traceback."""
    run.update_state("stopped", step=7)
    run.metrics.write_text('{"step": 7}\n')
    path = run.path / f"{name}.json"
    path.unlink(missing_ok=True)
    path.mkdir()
    found, lines = unfinished.resumable(decided(runs_path=run.path.parent, run_name="a"))
    assert found.path == run.path and lines == [f"{path}: is a folder; it is left out"]
    lifecycle.reopen(run, run.settings())
    assert run.state().status == "launching" and run.unreadable() == []


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"zero_optimization": 3}', '{"zero_optimization": {"stage": "x"}}']
)
def test_a_configuration_that_deepspeed_cannot_have_got_is_written_anew(run, content):
    run.ds_config.write_text(content)
    with pytest.raises(files.Unreadable, match=r"ds_config.json: .*; start a new run with FRESH=1"):
        run.deepspeed_config()
    (line,) = lifecycle.reopen(run, run.settings())
    assert line == f"warning: {run.ds_config}: cannot be read; writing a new one from the settings"
    assert run.deepspeed_config().stage == 3


def test_a_loss_that_is_not_finite_leaves_the_state_json(run):
    run.update_state("training", loss=float("nan"), tokens_per_second=10.0, time_left_s=60.0, step=1, total_steps=2)
    json.loads((run.path / "state.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert "loss not finite" in progress.rates(run.state())


def test_what_a_killed_process_left_in_a_run_is_removed_when_it_goes_on(run):
    run.update_state("stopped")
    left = [files.temporary_name(path) for path in (run.metrics, run.path / "latest", run.checkpoints / "latest")]
    left[0].write_text("half")
    left[1].symlink_to("nowhere")
    left[2].write_text("half")
    (final := files.temporary_name(run.final)).mkdir()
    lifecycle.reopen(run, run.settings())
    assert not any(path.exists() or path.is_symlink() for path in (*left, final))
    assert not list(run.path.parent.glob(".latest*"))


@pytest.mark.parametrize(
    ("model", "name"),
    [("tiny", "tiny"), ("Qwen/Qwen3-0.6B", "Qwen3-0.6B"), ("runs/maths/final", "maths"), ("./my model", "my-model")],
)
def test_a_new_run_is_named_after_its_model(model, name):
    settings = load(None).model_copy(update={"model_name": model})
    assert lifecycle.default_name(settings).split("-", 2)[2] == name


def test_settings_from_before_they_had_a_version_are_read_and_written_with_one(run):
    older = Path(__file__).parent / "older_run" / "settings.json"
    run.settings_file.write_text(older.read_text())
    found = run.settings()
    assert (found.max_epochs, found.learning_rate, found.gradient_checkpointing) == (2, 3e-3, False)
    lifecycle.reopen(run, found)
    assert json.loads(run.settings_file.read_text())["version"] == 1 and run.settings().max_epochs == 2


@pytest.mark.parametrize(
    ("status", "evaluating", "what"),
    [
        ("launching", None, ""),
        ("evaluating", "before", ""),
        ("training", "before", ": finishing the step and saving"),
        ("evaluating", "during", ": finishing the step and saving"),
        ("saving", "during", ": finishing what is being saved"),
        ("evaluating", "after", ""),
    ],
)
def test_a_stop_says_what_the_run_does_before(run, status, evaluating, what):
    run.update_state(status, evaluating=evaluating)
    assert ending.stopping(run.state()) == what
