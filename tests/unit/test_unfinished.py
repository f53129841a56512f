"""Which run is resumed, from where, and which command says so."""

import _thread
import io
import json
import os
import signal
import threading
import time

import pytest
from rich.console import Console

from sft import hostfile
from sft.errors import SettingsError, UserError
from sft.host.commands import ending, stop
from sft.host.launch.open import open_run
from sft.run import checkpoints, find, lifecycle, unfinished
from sft.run import directory as runs
from sft.settings import rules
from sft.settings.fields import Settings
from sft.settings.load import DEMO_SETTINGS, resume
from tests.settings import decided, decision


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    """Work in an empty project: `runs/` is where hints expect it."""
    monkeypatch.chdir(tmp_path)
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)


def settings_of(**given):
    return decided(defaults=DEMO_SETTINGS, **given)


def made(name, status="stopped", step=0, saved=(), age=0, **given):
    """Return a run that ended as `status` after `step` steps, with checkpoints of the steps `saved`."""
    settings = settings_of(run_name=name, **given)
    run = lifecycle.create(settings, hostfile.hostfile(settings.nodes, settings.gpus_per_node))
    started = run.state().attempt_started_at - age
    run.update_state(status, step=step, total_steps=250, epoch=step / 125, attempt_started_at=started)
    run.update_state(loss=0.1, tokens_per_second=9.0, time_left_s=1.0)
    run.metrics.write_text("".join(f'{{"step": {i + 1}}}\n' for i in range(step)))
    for at in saved:
        checkpoint(run, at)
    return run


def checkpoint(run, step):
    folder = run.checkpoints / checkpoints.name_of(step)
    folder.mkdir()
    (folder / "shard.pt").write_bytes(b"weights")
    content = {"step": step, "world_size": 1, "files": {"shard.pt": {"bytes": 7, "blake2b": "x"}}}
    (folder / "manifest.json").write_text(json.dumps(content | {"blake2b": checkpoints.seal(content)}))
    return folder


def opened(settings):
    """Return what is said when a run is opened with these settings, and its name."""
    said = []
    with open_run(decision(settings), said.append) as run:
        return said, run


def test_the_newest_whole_checkpoint_counts_not_the_last_step():
    run = made("a", step=101, saved=(50, 60))
    assert ending.stopped(run, run.command("resume")) == (
        "stopped after step 101 of 250; `make resume NAME=a` continues from its newest checkpoint, after step 60"
    )
    said, again = opened(settings_of(run_name="a"))
    assert said == ["resuming runs/a after step 60 (FRESH=1 starts over)"]
    state = again.state()
    assert (state.step, round(state.epoch, 6), state.total_steps) == (60, 0.48, 250)
    assert (state.loss, state.tokens_per_second, state.time_left_s) == (None, None, None)


def test_a_checkpoint_of_the_last_step_is_named():
    run = made("a", step=60, saved=(60,))
    assert ending.stopped(run, run.command("resume")) == (
        "stopped after step 60 of 250, saved as step-000060; `make resume NAME=a` continues from there"
    )


@pytest.mark.parametrize(
    "harm",
    [
        lambda folder: folder.rename(folder.with_name("step-000060.damaged")),
        lambda folder: (folder / "manifest.json").unlink(),
        lambda folder: (folder / "manifest.json").write_text("{"),
        lambda folder: (folder / "shard.pt").unlink(),
        lambda folder: (folder / "shard.pt").write_bytes(b"weight"),
    ],
    ids=["set aside", "no manifest", "half a manifest", "a shard is gone", "a shard is cut"],
)
def test_a_damaged_checkpoint_is_no_place_to_go_on_from(harm):
    run = made("a", step=101, saved=(50, 60))
    harm(run.checkpoints / "step-000060")
    assert run.saved_step() == 50 and run.last_checkpoint() == "checkpoint step-000050"
    (run.checkpoints / "step-000050" / "shard.pt").unlink()
    assert run.saved_step() is None and not run.is_saved and run.last_checkpoint() == "the start"
    said, _ = opened(settings_of(run_name="a"))
    assert said == ["resuming runs/a: no checkpoint is left: starting over"]


def test_removed_folders_are_made_again():
    run = made("a", step=101)
    run.checkpoints.rmdir()
    run.logs.rmdir()
    said, _ = opened(settings_of(run_name="a"))
    assert said == ["resuming runs/a: no checkpoint is left: starting over"]
    assert run.checkpoints.is_dir() and run.logs.is_dir()


@pytest.mark.parametrize("content", [b"", b"llm-master slots=x\n", b"\xff\xfe", None])
def test_a_spoilt_hostfile_is_written_anew_and_said(content):
    run = made("a", step=10, saved=(10,))
    run.hostfile.unlink()
    if content is not None:
        run.hostfile.write_bytes(content)
    said, _ = opened(settings_of(run_name="a"))
    assert said[0] == "resuming runs/a after step 10 (FRESH=1 starts over)"
    assert said[1].startswith("warning: runs/a/hostfile") and said[1].endswith("; writing a new one from the settings")
    assert hostfile.read_hostfile(run.hostfile) == {"llm-master": 1, "llm-worker": 1}


@pytest.mark.parametrize("content", ["", "{", None])
def test_a_spoilt_deepspeed_configuration_is_written_anew_and_said(content):
    run = made("a", step=10, saved=(10,))
    before = json.loads(run.ds_config.read_text())
    run.ds_config.unlink()
    if content is not None:
        run.ds_config.write_text(content)
    said, _ = opened(settings_of(run_name="a"))
    assert said[1] == "warning: runs/a/ds_config.json: cannot be read; writing a new one from the settings"
    assert json.loads(run.ds_config.read_text()) == before


# make train


def test_the_run_that_fits_goes_on_though_another_is_newer():
    """Stopped with 400 steps, then another one with 500: the first one fits exactly."""
    made("s1", step=7, saved=(7,), max_steps=400, age=10)
    made("s2", step=9, saved=(9,), max_steps=500)
    said, run = opened(settings_of(max_steps=400))
    assert run.name == "s1" and said == ["resuming runs/s1 after step 7 (FRESH=1 starts over)"]
    assert find.latest(run.path.parent).name == "s1"


def test_a_run_that_does_not_fit_is_named_with_the_command_that_goes_on_with_it():
    made("s2", step=9, saved=(9,), max_steps=500)
    said, run = opened(settings_of(max_steps=400))
    assert said == [
        "runs/s2 is unfinished and has other settings (MAX_STEPS=500, here 400)",
        "  a new run begins; `make resume NAME=s2` resumes that one",
        f"run {run.path}",
    ]


def test_a_finished_run_of_the_same_settings_hides_older_ones():
    made("given-up", step=7, saved=(7,), age=10)
    made("done", "finished", step=250)
    said, run = opened(settings_of())
    assert run.name not in ("given-up", "done") and said == [f"run {run.path}"]


def test_a_run_that_failed_before_its_first_step_hides_no_older_one():
    made("older", step=7, saved=(7,), age=10)
    made("typo", "failed")
    assert opened(settings_of())[1].name == "older"


def test_settings_that_may_change_are_said():
    made("a", step=7, saved=(7,), save_steps=50)
    said, _ = opened(settings_of(run_name="a", save_steps=10))
    assert said == ["resuming runs/a after step 7 (FRESH=1 starts over)", "  SAVE_STEPS=10, which was 50"]


def test_a_run_that_never_trained_a_step_makes_room_for_other_settings():
    made("gsm", "failed", max_length=64)
    said, run = opened(settings_of(run_name="gsm", max_length=128))
    assert said == ["runs/gsm had not trained a step and is replaced (MAX_LENGTH=128, not 64)", "run runs/gsm"]
    assert run.settings().max_length == 128 and run.state().attempt == 1


def test_a_directory_that_was_killed_while_it_was_made_is_made_again(tmp_path):
    (tmp_path / "runs" / "gsm" / "logs").mkdir(parents=True)
    assert opened(settings_of(run_name="gsm"))[0] == ["run runs/gsm"]


def test_a_folder_that_is_no_run_stays_until_fresh_sets_it_aside(tmp_path):
    (tmp_path / "runs" / "gsm").mkdir(parents=True)
    (tmp_path / "runs" / "gsm" / "notes.txt").write_text("mine")
    with pytest.raises(SettingsError, match="RUN_NAME=gsm: runs/gsm already exists and holds no run; use another"):
        opened(settings_of(run_name="gsm"))
    opened(settings_of(run_name="gsm", fresh=True))
    assert (tmp_path / "runs" / "gsm.old-1" / "notes.txt").read_text() == "mine"


def test_a_run_that_trained_makes_no_room_without_fresh():
    made("gsm", "failed", step=5, max_length=64)
    with pytest.raises(SettingsError) as caught:
        opened(settings_of(run_name="gsm", max_length=128))
    assert caught.value.problems == [
        "MAX_LENGTH=128: the unfinished run gsm has 64; set it to 64 to resume, or FRESH=1 to start a new run",
        "runs/gsm: `make resume NAME=gsm` resumes it with its own settings",
    ]


@pytest.mark.parametrize("status", ["stopped", "finished", "failed"])
def test_fresh_sets_the_old_run_of_that_name_aside(status):
    old = made("gsm", status, step=5, saved=(5,), max_length=64)
    for number in (1, 2):
        said, run = opened(settings_of(run_name="gsm", max_length=128, fresh=True))
        aside = old.path.with_name(f"gsm.old-{number}")
        assert said == [f"FRESH=1: runs/gsm is set aside as {aside}", "run runs/gsm"]
        assert run.saved_step() is None and find.latest(run.path.parent).path == run.path
    assert runs.Run(run.path.with_name("gsm.old-1")).saved_step() == 5


def test_a_run_makes_no_room_for_one_that_is_trained_on_its_own_model():
    run = made("gsm", status="finished", step=250)
    run.final.mkdir()
    said = "RUN_NAME=gsm: FRESH=1 would set aside the run that MODEL_NAME=runs/gsm/final belongs to; use another name"
    with pytest.raises(SettingsError, match=said):
        opened(settings_of(run_name="gsm", fresh=True, model_name="runs/latest/final"))
    assert run.is_there()


def test_fresh_sets_no_run_aside_that_is_at_work():
    run = made("gsm", "training", step=5)
    with run.lock(), pytest.raises(UserError, match="is running"):
        opened(settings_of(run_name="gsm", fresh=True))
    assert run.path.is_dir() and not run.path.with_name("gsm.old-1").exists()


def test_what_was_set_aside_goes_on_only_by_its_name():
    made("gsm", step=5, saved=(5,))
    _, run = opened(settings_of(run_name="gsm", fresh=True))
    run.update_state("finished")
    with pytest.raises(UserError, match="no unfinished run"):
        unfinished.to_resume(run.path.parent, "")
    assert opened(settings_of())[1].name not in ("gsm", "gsm.old-1")
    assert unfinished.to_resume(run.path.parent, "gsm.old-1")[0].saved_step() == 5


def test_a_finished_run_is_not_overwritten():
    made("gsm", "finished", step=250)
    with pytest.raises(SettingsError, match="RUN_NAME=gsm: that run is finished; use another name, or FRESH=1, which"):
        opened(settings_of(run_name="gsm"))


# make stop


def test_a_stop_without_a_name_is_for_the_only_run_at_work():
    latest, other = made("p2", "finished"), made("p1", "training", step=9, age=10)
    with other.lock():
        assert stop.run_to_stop(latest).name == "p1"
    with latest.lock(), other.lock():
        assert stop.run_to_stop(latest).name == "p2"


def test_a_stop_without_a_name_guesses_not_between_two_runs():
    latest, *others = made("p3", "finished"), made("p2", "training"), made("p1", "training", age=10)
    with others[0].lock(), others[1].lock(), pytest.raises(UserError) as caught:
        stop.run_to_stop(latest)
    assert str(caught.value) == (
        "runs/p3: is not running, but 2 others are; stop one of them: `make stop NAME=p2`, `make stop NAME=p1`"
    )


def test_a_stop_of_a_run_that_is_not_running_names_those_that_are():
    run, other = made("p2", "training"), made("p1", "training", age=10)
    with other.lock(), pytest.raises(UserError) as caught:
        stop.stop(run, Console(file=io.StringIO()))
    assert str(caught.value) == (
        "runs/p2: is not running (it was interrupted while training); p1 is: `make stop NAME=p1`"
    )
    with pytest.raises(
        UserError, match=r"runs/p2: is not running \(it was interrupted while training\), and no other run is"
    ):
        stop.run_to_stop(run)
    (run.path / "state.json").write_text("{")
    with pytest.raises(UserError, match=r"\(its state.json is missing or cannot be read\)"):
        stop.run_to_stop(run)


def test_whoever_leaves_make_stop_is_told_that_the_run_stops_all_the_same():
    run, said = made("p1", "training"), io.StringIO()

    def leave():
        while run.stop_reason() is None:
            time.sleep(0.01)
        _thread.interrupt_main()

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a script that goes on beside has it ignored
    threading.Thread(target=leave, daemon=True).start()
    try:
        with run.lock(), pytest.raises(KeyboardInterrupt):
            stop.stop(run, Console(file=said, width=200))
    finally:
        signal.signal(signal.SIGINT, before)
    lines = said.getvalue().splitlines()
    assert lines[0] == "stopping p1: finishing the step and saving"
    assert lines[-1] == "p1 stops all the same; `make monitor NAME=p1` shows whether it has"


# make resume


def test_without_a_name_the_newest_unfinished_run_goes_on_and_others_are_named(tmp_path):
    made("oldest", step=5, saved=(5,), age=40)
    made("older", step=9, saved=(7,), age=30)
    made("middle", step=9, age=20, max_steps=99)
    made("done", "finished", age=10)
    made("typo", "failed")
    run, said = unfinished.to_resume(tmp_path / "runs", "")
    assert run.name == "middle"
    assert said == ["other runs are unfinished too (NAME=… resumes one of them): older (step 7), oldest (step 5)"]


def test_a_run_at_work_is_not_the_one_to_resume(tmp_path):
    made("older", step=9, saved=(7,), age=30)
    working = made("newer", "training", step=9)
    with working.lock():
        assert unfinished.to_resume(tmp_path / "runs", "")[0].name == "older"
        with pytest.raises(UserError, match="runs/newer: is running"):
            unfinished.to_resume(tmp_path / "runs", "newer")


def test_a_run_whose_settings_cannot_be_read_is_passed_over_and_named(tmp_path):
    made("older", step=9, saved=(7,), age=30)
    spoilt = made("newer", step=9, saved=(7,))
    spoilt.settings_file.write_text("{")
    run, said = unfinished.to_resume(tmp_path / "runs", "")
    assert run.name == "older" and said[0].startswith(
        f"not resuming {tmp_path}/runs/newer/settings.json: is not valid JSON"
    )
    said, run = opened(settings_of())
    assert run.name == "older"
    with pytest.raises(UserError, match="runs/newer/settings.json: is not valid JSON"):
        opened(settings_of(run_name="newer"))
    assert "FRESH=1: runs/newer is set aside" in opened(settings_of(run_name="newer", fresh=True))[0][0]
    assert said[-1] == "resuming runs/older after step 7 (FRESH=1 starts over)"


@pytest.mark.parametrize("content", ["", "{", "[]"])
def test_a_spoilt_state_costs_no_checkpoint(content):
    run = made("a", step=9, saved=(7,))
    (run.path / "state.json").write_text(content)
    said, _ = opened(settings_of(run_name="a"))
    assert said[-1] == "resuming runs/a after step 7 (FRESH=1 starts over)" and len(said) == 2
    assert said[0].startswith("runs/a/state.json: ")
    assert (run.state().status, run.state().step) == ("launching", 7)


def test_a_finished_run_has_nothing_to_resume(tmp_path):
    made("a", "finished")
    with pytest.raises(UserError, match="a: is finished; `make train FROM=a` repeats it"):
        unfinished.to_resume(tmp_path / "runs", "a")


def test_a_run_goes_on_with_its_own_settings(monkeypatch):
    """What was behind `make` or in the environment is not there any more, and .env is about other runs."""
    before = made("long", step=9, saved=(9,), max_epochs=8, learning_rate=0.01, save_steps=5, fresh=True).settings()
    env_file = before.runs_path.parent / ".env"
    env_file.write_text("MAX_EPOCHS=2\nHUGGINGFACE_API_KEY=hf_abcdefghijklmnopqrstuvwxyz\n")
    settings = resume(before, env_file, run_name="long")
    assert settings.huggingface_api_key.get_secret_value() == "hf_abcdefghijklmnopqrstuvwxyz"
    assert settings.freeze() == before.model_copy(update={"fresh": False}).freeze()
    said, run = opened(settings)
    assert run.name == "long" and said == ["resuming runs/long after step 9 (FRESH=1 starts over)"]
    monkeypatch.setenv("SAVE_STEPS", "7")
    assert resume(before, env_file, run_name="long").save_steps == 7
    monkeypatch.setenv("LEARNING_RATE", "0.5")
    with pytest.raises(SettingsError, match=r"LEARNING_RATE=0\.5: the unfinished run long has 0\.01"):
        opened(resume(before, env_file, run_name="long"))


def test_on_other_ranks_the_global_batch_stays(monkeypatch):
    before = made("a", step=9, saved=(9,)).settings()  # 16 sequences on each of two ranks
    monkeypatch.setenv("NODES", "1")
    settings = resume(before, None, run_name="a")
    assert (settings.world_size, settings.sequences_per_step) == (1, 32)
    assert rules.changed(settings, before) == []


def test_resume_and_fresh_contradict_each_other(monkeypatch):
    before = made("a").settings()
    monkeypatch.setenv("FRESH", "1")
    with pytest.raises(SettingsError, match="FRESH=1: `resume` continues a run; leave it out"):
        resume(before, None)


def test_a_hint_names_the_folder_of_runs_if_env_file_does_not(tmp_path):
    run = made("a", runs_path=tmp_path / "other runs")
    assert run.command("stop") == f"make stop NAME=a RUNS_PATH='{tmp_path}/other runs'"
    (tmp_path / ".env").write_text(f'RUNS_PATH="{tmp_path}/other runs"\n')
    assert run.command("stop") == "make stop NAME=a"
    assert os.path.samefile(tmp_path / "other runs", run.path.parent)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("SIGINT", "Ctrl-C"),
        ("SIGHUP", "its terminal was closed"),
        ("a signal to node 1", "node 1 was asked to end, as `docker compose stop` does"),
        ("the end of what started node 0", "the program that had started node 0 has ended"),
        ("MAX_HOURS=0.01 have passed", "MAX_HOURS=0.01 have passed"),
    ],
)
def test_the_reason_of_a_stop_is_in_plain_words(said, words):
    run = made("a")
    run.request_stop(said)
    assert ending.reason(run) == words


def test_a_stop_before_the_first_step_counts_no_steps():
    run = made("a")
    assert (
        ending.stopped(run, "make resume NAME=a")
        == "stopped before its first step; `make resume NAME=a` starts it again"
    )
