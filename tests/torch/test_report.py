"""What people are told of a run: by rank 0 alone, and the same numbers everywhere."""

import json

import pytest
import torch

from sft import hostfile
from sft.run import budget, lifecycle
from sft.run.records import AnswerLine, Results
from sft.steps import Steps
from sft.trainer.distributed import Pending, World
from sft.trainer.evaluation.generate import Progress
from sft.trainer.report import Reporter, StepResult
from sft.trainer.trackers import trackers
from tests.settings import decided

STEPS = Steps(rows=40, global_batch_size=10, per_epoch=4, total=8, warmup=0)


@pytest.fixture
def run(tmp_path):
    settings = decided(runs_path=tmp_path, run_name="a", wandb_mode="disabled", logging_steps=3)
    return lifecycle.create(settings, hostfile.hostfile(1, 2))


def reporter_of(run, rank):
    return Reporter(run, budget.effective(run, run.settings()), World(rank, rank, 2, torch.device("cpu")))


def result(done, stop=False):
    norm = Pending(torch.tensor([0.5]))
    return StepResult(done, 2.0 / done, 1e-3, norm, tokens=100, target_tokens=60, skipped_steps=None, stop=stop)


def whole_run(reporter):
    """Report a run of eight steps, with everything that there is to report."""
    reporter.add_seconds({"starting": 2.0})
    with reporter.phase("evaluation before"):
        reporter.begin_evaluation("before")
        reporter.tell(answers=3, total_answers=6)
        reporter.results("before", 0, Results(loss=3.0, rows=6, answers=6, exact_match=0.5))
    reporter.begin_training(0, STEPS)
    reporter.begin_steps(0)
    for done in range(1, 9):
        if done == 5:
            with reporter.validation():
                pass
            reporter.log(4, {"val/loss": 1.5})
        reporter.step(result(done), STEPS)
        if done == 4:
            reporter.flush()
            with reporter.pause("saving"):
                reporter.print("saved")
    reporter.close()


def answer(moment):
    return AnswerLine(
        moment=moment, index=0, prompt="2 + 3?", reference="5", answer="6", generated="6", tokens=1, ended=True,
        expected="5", found="6",
        found_flexible="6", correct=False, correct_flexible=False,
    )  # fmt: skip


def test_answers_that_cannot_be_written_do_not_end_the_run(run, capsys):
    reporter_of(run, 1).write_answers("before", [answer("before")])
    assert not run.answers.exists()
    reporter_of(run, 0).write_answers("before", [answer("before")])
    assert AnswerLine.from_json(json.loads(run.answers.read_text())) == answer("before")
    run.answers.unlink()
    run.answers.mkdir()
    (run.answers / "in the way").touch()
    reporter_of(run, 0).write_answers("after", [answer("after")])
    assert f"{run.answers}: could not be written" in capsys.readouterr().out


def test_rank_0_tells_the_metrics_the_state_and_the_console(run, capsys):
    whole_run(reporter_of(run, 0))
    lines = list(run.read_metrics())
    assert [line.step for line in lines] == [0, 3, 4, 6, 8]  # every LOGGING_STEPS, and the last
    assert lines[0].values == {"val/loss": 3.0, "eval/exact_match": 0.5}
    logged = lines[1].values
    assert (logged["train/loss"], logged["train/grad_norm"], logged["epoch"]) == (2 / 3, 0.5, 0.75)
    assert "train/skipped_steps" not in logged and "mem/peak_gib" not in logged
    assert lines[2].values == {"val/loss": 1.5}
    state = run.state()
    assert (state.status, state.step, state.loss, state.time_left_s, state.answers) == ("training", 8, 0.25, 0.0, 0)
    assert state.seconds["starting"] == 2.0 and state.total_steps == 8
    assert run.results().before.exact_match == 0.5
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith('evaluation before training: {"loss": 3.0')
    assert said[1] == "step 0 of 8: started" and "saved" in said
    assert said[-1].startswith("step 8/8  loss 0.2500  lr 0.001  ")


def test_another_rank_tells_nothing(run, capsys):
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    whole_run(reporter_of(run, 1))
    assert {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()} == before
    assert capsys.readouterr().out == ""


def test_a_stop_is_shown_at_once_and_ends_the_time_of_training(run, capsys):
    reporter = reporter_of(run, 0)
    reporter.begin_steps(0)
    reporter.step(result(1), STEPS)
    reporter.step(result(2, stop=True), STEPS)
    assert run.state().step == 2 and "step 2/8" in capsys.readouterr().out
    assert set(run.state().seconds) >= {"first step", "training"}


def test_a_tracker_of_ones_own_gets_every_line_of_this_attempt_once(run, monkeypatch):
    class Mine:
        def __init__(self, logged):
            self.lines, self.logged, self.is_closed = [], logged, False

        def log(self, line):
            self.lines.append(line)

        def close(self):
            self.is_closed = True

    mine = []
    monkeypatch.setattr(
        trackers, "STARTERS", (lambda run, settings, logged: mine.append(Mine(logged)) or mine[-1], lambda *_: None)
    )
    whole_run(reporter_of(run, 0))
    assert len(mine) == 1 and mine[0].is_closed
    assert mine[0].logged == 0 and mine[0].lines == list(run.read_metrics())

    again = reporter_of(run, 0)
    assert again.begin_steps(4) is True  # step 4 was validated
    again.close()
    assert mine[1].logged == 3 and mine[1].lines == []  # steps 6 and 8 are lost
    assert [line.step for line in run.read_metrics()] == [0, 3, 4]


def test_the_progress_of_an_evaluation_counts_the_rows_that_are_asked_and_not_the_ranks_shares_made_equal(run):
    progress = Progress(run, 4, 15, reporter_of(run, 0))  # of 15 rows, four ranks have 4, 4, 4 and 3
    progress.batch = (10, 20)
    progress(torch.zeros((4, 20), dtype=torch.long), None)  # half of the new tokens
    assert (run.state().answers, run.state().total_answers) == (7, 15)
