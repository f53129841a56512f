"""`inv evaluate`: a finished run stays as it is, and its earlier results stay until the new ones are whole."""

import json
import signal

import pytest

from sft.run.directory import Run

from .project import TIMEOUT_S, small, wait_until

FEW = {"EVAL_LIMIT": 4, "MAX_NEW_TOKENS": 2}
MANY = {"EVAL_LIMIT": 200, "MAX_NEW_TOKENS": 2000}  # minutes on a CPU: the tests end it before


@pytest.fixture(scope="module")
def finished(project):
    run = project.train("evaluated", NODES=1, MAX_STEPS=1)
    done = project.inv("evaluate", "--name", run.name, **small(**FEW))
    assert done.returncode == 0, done.stdout
    return run


@pytest.fixture
def kept(finished):
    """Hold a run to what it was, however its evaluation ends."""
    names = ("state.json", "settings.json", "environment.json", "evaluation.json", "answers.jsonl", "logs/node-0.log")
    before = {name: (finished.path / name).read_bytes() for name in names}
    yield finished
    assert {name: (finished.path / name).read_bytes() for name in names} == before
    assert not finished.is_running()


def at_work(project, run):
    """Start an evaluation that takes long, and wait until it generates answers."""
    process = project.start("evaluate", "--name", run.name, **small(**MANY))
    again = Run(run.path / "evaluation")
    wait_until(lambda: run.is_running() and again.state().total_answers > 0, process, again)
    return process


def test_new_results_take_the_place_of_the_old_ones(finished):
    results = json.loads(finished.evaluation.read_text())
    assert [results[name]["answers"] for name in ("before", "after")] == [4, 4]
    answers = [json.loads(line) for line in finished.answers.read_text().splitlines()]
    assert [(answer["moment"], answer["index"]) for answer in answers] == [
        (moment, index) for moment in ("before", "after") for index in range(4)
    ]
    assert [answer["answer"] for answer in answers[4:7]] == [sample["answer"] for sample in results["after"]["samples"]]
    assert finished.state().status == "finished" and finished.state().step == 1
    ended = Run(finished.path / "evaluation").state()
    assert (ended.answers, ended.total_answers) == (4, 4)
    assert not finished.settings().evaluate  # the run's inputs are those that it was trained with


@pytest.mark.parametrize("how", ["make stop", "Ctrl-C"])
def test_a_stopped_evaluation_leaves_the_run_finished_with_its_results(kept, project, how):
    process = at_work(project, kept)
    assert json.loads(project.inv("monitor", "--json", "--name", kept.name).stdout)["state"]["status"] == "evaluating"
    if how == "make stop":
        asked = project.inv("stop")
        assert asked.returncode == 0 and f"stopping {kept.name}/evaluation" in asked.stdout, asked.stdout
    else:
        process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, output
    assert f"stopped: the earlier results are kept; `make evaluate NAME={kept.name}` evaluates the run" in output


def test_other_data_than_the_runs_is_refused_and_not_left_out_without_a_word(kept, project):
    asked = small(**FEW, MAX_STEPS=7) | {"MAX_LENGTH": 64, "EVAL_SPLIT": "train", "PRECISION": "bf16"}
    done = project.inv("evaluate", "--name", kept.name, **asked)
    assert done.returncode == 2, done.stdout
    for line in (
        f"MAX_LENGTH=64: {kept.name} is evaluated with its own, 128; leave it out, or give it to a new run: "
        f"`make train MODEL_NAME=runs/{kept.name}/final` evaluates that model before its first step",
        f"EVAL_SPLIT=train: {kept.name} is evaluated without; leave it out",
        f"PRECISION=bf16: {kept.name} is evaluated with its own, fp32; leave it out",
    ):
        assert line in done.stdout, done.stdout
    assert "MAX_STEPS" not in done.stdout  # of no matter to an evaluation


def test_a_finished_run_whose_model_has_gone_is_not_sent_to_resume_and_back(kept, project):
    aside = kept.final.rename(kept.path / "aside")
    told = {task: project.inv(task, "--name", kept.name, **small(**FEW)) for task in ("evaluate", "resume")}
    aside.rename(kept.final)
    again = f"`make train FROM={kept.name}`"
    assert f"{kept.name}/final: is gone, though the run is finished; put it back, or {again}" in told["evaluate"].stdout
    assert again in told["resume"].stdout and "make evaluate" not in told["resume"].stdout
    assert {done.returncode for done in told.values()} == {2}


def test_a_killed_evaluation_leaves_the_run_finished_with_its_results(kept, project):
    process = at_work(project, kept)
    process.kill()
    process.wait()
    project.wait_for_no_process()


def test_an_evaluation_that_fails_leaves_the_run_finished_with_its_results(kept, project):
    hostfile = kept.hostfile.read_text()
    kept.hostfile.write_text("llm-master slots=3\n")
    done = project.inv("evaluate", "--name", kept.name, **small(**FEW))
    kept.hostfile.write_text(hostfile)
    assert done.returncode == 2 and "the hostfile says llm-master slots=3" in done.stdout, done.stdout
