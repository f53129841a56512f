"""`make demo`: from nothing to a model that has learnt, as the README's first command promises."""

import json
import shutil
import subprocess

import pytest
import transformers

from sft.run.directory import Run

from .project import ROOT

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def demo(project):
    process = project.start("make", "demo", RUN_NAME="demo")
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    return Run(project.path / "runs" / "demo"), output


def test_it_finishes_and_has_learnt(demo):
    run, _ = demo
    assert run.state().status == "finished"
    found = json.loads(run.evaluation.read_text())
    assert found["before"]["exact_match"] < 0.05
    assert found["after"]["exact_match"] >= 0.9
    assert found["after"]["loss"] < found["before"]["loss"]
    logged = [line for line in run.read_metrics() if "eval/exact_match" in line.values]
    assert [(line.step, line.values["val/loss"]) for line in logged] == [
        (0, found["before"]["loss"]),
        (250, found["after"]["loss"]),
    ]


def test_it_says_what_a_person_wants_to_know(demo):
    run, output = demo
    assert "16 sequences x 2 processes = 32 per step" in output
    assert "4,000 rows / 32 = 125 steps an epoch, x 2 epochs = 250 steps" in output
    assert "tokens/s" in output and "left" in output
    assert "exact match" in output and output.count("answered:") == 3
    assert f"runs/{run.name}/final" in output


def test_the_final_model_loads_by_itself_and_answers(demo):
    run, _ = demo
    model = transformers.AutoModelForCausalLM.from_pretrained(run.final)
    tokenizer = transformers.AutoTokenizer.from_pretrained(run.final)
    question = [{"role": "user", "content": "Eva has 3 eggs and finds 2 more. How many eggs does Eva have now?"}]
    prompt = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    answer = model.generate(**prompt, max_new_tokens=24, do_sample=False, pad_token_id=tokenizer.pad_token_id)
    assert "3 + 2 = 5" in tokenizer.decode(answer[0], skip_special_tokens=True)


def test_the_run_directory_is_as_documented(demo):
    run, _ = demo
    described = (ROOT / "docs" / "run-directory.md").read_text()
    for path in run.path.iterdir():
        if not path.name.startswith("."):
            assert f"`{path.name}" in described, path.name
    assert sorted(path.name for path in run.final.iterdir()) == [
        "chat_template.jinja", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
        "tokenizer_config.json",
    ]  # fmt: skip


def test_wandb_is_logged_offline_without_a_key(demo):
    run, _ = demo
    assert list((run.path / "wandb").glob("offline-run-*/*.wandb"))


def test_no_process_is_left(demo, project):
    project.wait_for_no_process()


def test_monitor_and_logs_show_the_finished_run(demo, project):
    seen = json.loads(project.inv("monitor", "--json", "--name", "demo").stdout)
    assert seen["state"]["status"] == "finished" and not seen["running"]
    assert seen["metrics"]["train/loss"] < 0.1 and len(seen["losses"]) > 10
    once = project.inv("monitor", "--name", "demo").stdout  # without a terminal it prints once
    assert "250 of 250" in once and "loss" in once
    logs = project.inv("logs", "--name", "demo", "--lines", "0").stdout
    assert "node-0 | rank 0: done" in logs and "node-1 | rank 1: done" in logs


def test_evaluate_again_with_other_limits(demo, project):
    run = Run(demo[0].path.with_name("demo-again"))  # the other tests look at the results of the run itself
    shutil.copytree(demo[0].path, run.path, symlinks=True)
    done = project.inv("evaluate", "--name", run.name, EVAL_LIMIT=20, MAX_NEW_TOKENS=24)
    assert done.returncode == 0, done.stdout
    assert json.loads(run.evaluation.read_text())["after"]["answers"] == 20
    assert run.state().status == "finished"


def test_inv_list_and_monitor_load_no_training_package(demo, project):
    for command in (["--list"], ["monitor", "--once", "--name", "demo"]):
        code = (
            "import sys, invoke.main\n"
            "try: invoke.main.program.run(['inv', *sys.argv[1:]])\n"
            "except SystemExit: pass\n"
            "print(sorted({'torch', 'deepspeed', 'transformers', 'pydantic'} & set(sys.modules)))"
        )
        python = f"{project.path}/.venv/bin/python"
        done = subprocess.run([python, "-c", code, *command], cwd=project.path, capture_output=True, text=True)
        assert done.stdout.splitlines()[-1] == "[]", done.stdout + done.stderr
