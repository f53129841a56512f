"""What breaks ends the run as `failed` with the reason, and leaves no process and nothing half-written behind."""

import json
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
import transformers
from wandb.util import get_core_path

from sft.run.directory import Run
from sft.trainer import batching

from . import harm
from .project import TIMEOUT_S, Hold, small, wait_until

pytestmark = pytest.mark.real


@pytest.mark.parametrize(
    ("victim", "reason"),
    [
        (("sft.trainer.main", "--local_rank=0"), "was killed by signal 9 (often because memory ran out"),
        (("sft.host.launch.deepspeed_launcher", "--node_rank=1"), "node 1: the launcher was killed by signal 9 before"),
        (("sft.host.launch.node", "0"), "node 0: its program was killed by signal 9"),
    ],
    ids=["rank", "launcher", "node"],
)
def test_a_killed_process_ends_the_run(project, victim, reason):
    run = Run(project.path / "runs" / f"killed-{victim[0]}")
    process = project.start("train", **small(RUN_NAME=run.name, MAX_STEPS=0, MAX_EPOCHS=1000, SAVE_STEPS=3))
    wait_until(lambda: run.state().step >= 5 and run.saved_step() is not None, process, run)
    project.running(*victim)[0].kill()
    output, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 1, output
    assert run.state().status == "failed"
    assert reason in run.state().error
    assert run.failure().kind == "killed" and run.failure().reason == run.state().error
    assert output.strip().splitlines()[-1].startswith(f"runs/{run.name}: failed: ")
    project.wait_for_no_process()
    assert (run.checkpoints / (run.checkpoints / "latest").read_text().strip() / "manifest.json").is_file()
    assert not run.final.exists()
    shown = project.inv("monitor", "--once", "--name", run.name).stdout
    assert "failed" in shown and f"the whole logs: `make logs NAME={run.name} LINES=0`" in shown


def test_a_killed_rank_is_started_again_where_restarts_are_asked_for(project, tmp_path):
    run, hold = Run(project.path / "runs" / "restarted"), Hold(tmp_path, step=6)
    settings = small(RUN_NAME=run.name, MAX_STEPS=12, SAVE_STEPS=3, RESTARTS=1)
    process = project.start("train", **settings, **hold.settings)
    hold.wait(process, run)
    wait_until(lambda: run.saved_step() is not None, process, run)  # a node writes what the ranks have handed over
    project.running("sft.trainer.main", "--local_rank=0")[0].kill()
    hold.release()
    output, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, output
    state = run.state()
    assert (state.status, state.step, state.attempt) == ("finished", 12, 2) and run.failure() is None
    assert len(state.earlier_errors) == 1 and "was killed by signal 9" in state.earlier_errors[0]
    assert "starting again from checkpoint step-" in output and "(1 of RESTARTS=1)" in output
    assert [run.rank_end(rank).status for rank in (0, 1)] == ["finished", "finished"]
    assert [run.rank_exit(rank).code for rank in (0, 1)] == [0, 0]  # of this attempt alone
    project.wait_for_no_process()


def test_a_killed_service_of_wandb_is_said_and_ends_nothing(project, tmp_path):
    hold = Hold(tmp_path, step=6)
    settings = small(RUN_NAME="without-wandb", NODES=1, MAX_STEPS=200, LOGGING_STEPS=1, WANDB_MODE="offline")
    process = project.start("train", **settings, **hold.settings)
    run = Run(project.path / "runs" / "without-wandb")
    hold.wait(process, run)
    wait_until(lambda: list(run.path.glob("wandb/offline-run-*/*.wandb")), process, run)
    project.running(get_core_path())[0].kill()
    hold.release()
    output, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0 and run.state().status == "finished", output
    assert [line.step for line in run.read_metrics()] == list(range(1, 201))
    told = run.state().wandb
    assert told.startswith("not logging there (")
    assert f"W&B: {told}" in output
    assert run.log_files()[0].read_text().count(f"W&B: {told}") == 1
    assert told in " ".join(project.inv("monitor", "--once", "--name", run.name, COLUMNS=200).stdout.split())
    project.wait_for_no_process()


def test_a_full_disk_is_the_reason_given(project, tmp_path):
    runs = tmp_path / "small"
    runs.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(runs)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system needs root: run the tests as root")
    try:
        settings = small(
            RUN_NAME="full", RUNS_PATH=runs, NODES=1, MAX_STEPS=0, MAX_EPOCHS=1000, SAVE_STEPS=2, KEEP_CHECKPOINTS=50
        )
        refused = project.inv("train", **settings)
        assert (
            refused.returncode == 2 and f"RUNS_PATH={runs}: 12.6 MB are free, this run needs 0.3 GB" in refused.stdout
        )
        assert not (runs / "full").exists()
        settings |= {"PLAN": "warn"}
        done = project.inv("train", **settings)
        run = Run(runs / "full")
        assert done.returncode == 1, done.stdout
        assert run.state().status == "failed"
        assert "No space left on device" in run.state().error
        assert run.failure().kind == "disk_full"
        project.wait_for_no_process()
        whole = [path for path in run.checkpoints.iterdir() if path.name.startswith("step-")]
        assert whole and all((path / "manifest.json").is_file() for path in whole)
    finally:
        subprocess.run(["umount", "-l", str(runs)], check=True)


def test_a_run_without_a_sign_fails_with_the_stacks_in_the_logs(project):
    run = Run(project.path / "runs" / "silent")
    # In the order of the defaults: ranks meet sooner than a step may take.
    settings = small(RUN_NAME="silent", MAX_STEPS=0, MAX_EPOCHS=1000, RENDEZVOUS_TIMEOUT_S=45, STEP_TIMEOUT_S=50)
    process = project.start("train", **settings)
    wait_until(lambda: run.state().step >= 5, process, run)
    rank = next(found for found in project.running("sft.trainer.main") if found.environ().get("RANK") == "0")
    rank.suspend()
    output, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 1, output
    assert "no sign of the ranks within STEP_TIMEOUT_S=50 seconds, after step " in run.state().error
    assert run.failure().kind == "hang"
    stacks = (run.logs / "stacks-rank-1.txt").read_text()  # a suspended rank writes none
    assert "most recent call first" in stacks and "in optimizer_step" in stacks
    project.wait_for_no_process()


def test_a_rank_that_breaks_is_the_reason_and_the_stacks_tell_where_the_others_hang(project):
    run = Run(project.path / "runs" / "hanging")
    delays = {"PYTHONPATH": Path(__file__).parent / "delays", "HANG_AT": 5}
    done = project.inv("train", **small(RUN_NAME="hanging", NODES=1, GPUS_PER_NODE=2, **delays))
    assert done.returncode == 1, done.stdout
    assert run.state().error == "rank 1: ArithmeticError: one rank's own error"
    assert run.failure() == run.rank_end(1).failure and run.rank_end(0) is None
    ended = run.rank_exit(1)  # its launcher may have been ended before it had written this
    assert ended is None or ended.code == 1
    stacks = (run.logs / "stacks-rank-0.txt").read_text()
    assert "most recent call first" in stacks and "in hanging_step" in stacks
    project.wait_for_no_process()


def test_an_export_may_take_longer_than_ranks_wait_to_meet(project):
    delays = {"PYTHONPATH": Path(__file__).parent / "delays", "EXPORT_DELAY_S": 32}
    run = project.train("slow-export", RENDEZVOUS_TIMEOUT_S=30, **delays)
    assert run.state().seconds["saving"] > 32
    assert not list(run.logs.glob("stacks-*"))


@pytest.mark.parametrize("settings", [{}, {"LORA_RANK": 2, "NODES": 1}])
def test_an_export_that_fails_costs_no_step(project, settings):
    name = f"failed-export{'-lora' * bool(settings)}"
    asked = small(RUN_NAME=name, SAVE_STEPS=0, MAX_STEPS=3, **settings)
    failing = {"PYTHONPATH": Path(__file__).parent / "delays", "EXPORT_FAILS": 1}
    done = project.inv("train", **asked, **failing)
    run = Run(project.path / "runs" / name)
    assert done.returncode == 1 and "a model that this version cannot write" in run.state().error, done.stdout
    assert (run.checkpoints / "latest").read_text() == "step-000003\n"
    lines = run.metrics.read_text()
    done = project.inv("train", **asked)
    assert done.returncode == 0, done.stdout
    assert "step 3 of 3: resumed" in run.log_files()[0].read_text() and run.metrics.read_text() == lines
    assert (run.final / "model.safetensors").is_file()
    assert not list(run.checkpoints.glob("*step-*"))  # SAVE_STEPS=0


def test_a_disk_without_room_for_a_last_checkpoint_still_takes_the_model(project, tmp_path):
    try:
        with harm.small_disk(tmp_path / "small", "6m") as runs:  # a checkpoint has 5.6 MB, and the model 1.4
            done = project.inv("train", **small(RUN_NAME="no-room", RUNS_PATH=runs, MAX_STEPS=3, PLAN="warn"))
            run = Run(runs / "no-room")
            assert done.returncode == 0 and run.state().status == "finished", done.stdout
            assert "no checkpoint before the export: " in run.log_files()[0].read_text()
            assert (run.final / "model.safetensors").is_file() and not list(run.checkpoints.glob("*step-*"))
    except PermissionError as error:
        pytest.skip(str(error))


def test_a_row_that_makes_the_loss_infinite_is_named(project, tokenizer, tmp_path):
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=1,
            num_attention_heads=2, num_key_value_heads=2, tie_word_embeddings=False,
        )
    )  # fmt: skip
    model.get_input_embeddings().weight.data[tokenizer("~", add_special_tokens=False).input_ids] = float("nan")
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    rows = tmp_path / "train.jsonl"
    lines = [json.dumps({"question": f"{i} + 1?", "answer": f"{i + 1}"}) for i in range(64)]
    lines[40] = json.dumps({"question": "~", "answer": "1"})
    rows.write_text("\n".join(lines) + "\n")
    (tmp_path / "validation.jsonl").write_text(lines[0] + "\n")
    run = Run(project.path / "runs" / "infinite")
    settings = small(RUN_NAME="infinite", MODEL_NAME=tmp_path / "model", DATASET=tmp_path, BATCH_SIZE=2, SAVE_STEPS=1)
    done = project.inv("train", RESTARTS=2, **(settings | {"MAX_STEPS": 16, "KEEP_CHECKPOINTS": 50}))
    assert done.returncode == 1, done.stdout
    error = run.state().error
    step = next(i for i in range(16) if 40 in batching.rows_of_step(i, 64, 4, run.settings().seed))
    assert error.startswith(f"step {step + 1}: the loss is not finite; its rows: ")
    assert error.count(f"{rows}:") == 4 and f"{rows}:41" in error
    assert run.failure().kind == "not_finite"
    assert "starting again" not in done.stdout  # the same rows would break it again
    assert max(run.checkpoints.glob("step-*")).name == f"step-{step:06d}"
    assert [line.step for line in run.read_metrics()] == list(range(1, step + 1))
    project.wait_for_no_process()


def test_what_is_wrong_with_the_rows_is_said_at_once_and_leaves_no_run(project, tmp_path):
    """What the tasks see themselves, and what only the run finds: rows longer than MAX_LENGTH."""
    before = sorted((project.path / "runs").glob("[!.]*"))
    rows = tmp_path / "train.jsonl"
    good = {"question": "1 + 1?", "answer": "2"}
    rows.write_text("".join(json.dumps(row) + "\n" for row in (good, {"question": "1 + 2?"}, good | {"answer": " "})))
    done = project.inv("train", **small(DATASET=rows))
    assert done.returncode == 2
    assert done.stdout.splitlines()[-2:] == [
        f"{rows}:2: has no column 'answer' but question; no column is left that could be the response: add one",
        f"{rows}:3: column 'answer' is empty, so no target token; fill it or remove the row",
    ]
    rows.write_text("".join(json.dumps(good if i < 5 else good | {"question": "1" * 40}) + "\n" for i in range(25)))
    done = project.inv("train", **small(DATASET=rows, MAX_LENGTH=32, LONG_ROWS="refuse"))
    assert done.returncode == 2, done.stdout
    lines = done.stdout.splitlines()
    assert lines[-1] == "and 10 more rows that cannot be used"
    for number, line in zip(range(6, 16), lines[-11:-1], strict=True):
        assert line.startswith(f"{rows}:{number}: its ") and line.endswith(
            " tokens are more than MAX_LENGTH=32; raise MAX_LENGTH, or set LONG_ROWS to cut or drop"
        )
    assert sorted((project.path / "runs").glob("[!.]*")) == before
    project.wait_for_no_process()  # the ranks waited for the rows


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"BATCH_SIZE": 0}, "BATCH_SIZE=0: is out of range; use at least 1"),
        ({"DEVICE": "cuda", "CUDA_VISIBLE_DEVICES": ""}, "DEVICE=cuda: no NVIDIA GPU is visible here; run `make demo`"),
        ({"PRECISION": "fp16"}, "PRECISION=fp16: DeepSpeed has no fp16 on the CPU; use bf16, fp32 or auto"),
        ({"DATASET": "./nowhere"}, "DATASET=./nowhere: no such file or folder; check the path"),
        (
            {"DS_CONFIG": "zero9"},
            "DS_CONFIG=zero9: no such file; use zero3, zero2, zero1, zero3_offload, zero3_offload_all or a path",
        ),
        ({"LEARNING_RATE": "nan"}, "LEARNING_RATE=nan: is not a finite number; use a number"),
        ({"BATCH_SIZE": "9" * 30}, "BATCH_SIZE=" + "9" * 30 + ": is out of range; use at most 2147483647"),
        ({"SYSTEM_PROMPT": "\udcff"}, "SYSTEM_PROMPT=\\udcff: "),
        ({"DATA_PATH": "/proc/data"}, "DATA_PATH=/proc/data: cannot be written (No such file or directory); choose"),
        ({"MODEL_NAME": "x" * 300}, "no such file or folder, and not a hub name; give a hub name such as Qwen"),
        ({"GPUS_PER_NODE": 64, "NODES": 1024}, "GPUS_PER_NODE=64: 65536 ranks on"),
        ({"MAKE_SETTINGS": "BATCHSIZE=3"}, "BATCHSIZE: no such setting (from make); did you mean BATCH_SIZE?"),
    ],
)
def test_a_wrong_setting_is_one_line_and_writes_nothing(project, settings, line):
    done = project.inv("train", **small(RUN_NAME="wrong", **settings))
    assert done.returncode == 2
    assert [text for text in done.stdout.splitlines() if line in text]
    assert "Traceback" not in done.stdout
    assert not (project.path / "runs" / "wrong").exists()


def test_a_run_is_not_started_twice(project):
    run = Run(project.path / "runs" / "once")
    settings = small(RUN_NAME="once", NODES=1, MAX_STEPS=0, MAX_EPOCHS=1000)
    process = project.start("train", **settings)
    wait_until(run.is_running, process, run)
    port = json.loads(run.settings_file.read_text())["master_port"]
    second = project.inv("train", **settings, MASTER_PORT=port)
    assert second.returncode == 2
    assert "is running; `make monitor NAME=once` shows it" in second.stdout
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=TIMEOUT_S)
    assert run.state().status == "stopped", output
    project.wait_for_no_process()


def test_of_two_started_at_once_one_trains(project, tmp_path):
    run = Run(project.path / "runs" / "at-once")
    hold = Hold(tmp_path, step=1)
    settings = small(RUN_NAME=run.name, NODES=1, MAX_STEPS=3)
    both = [project.start("train", **settings, **hold.settings) for _ in range(2)]
    deadline = time.monotonic() + TIMEOUT_S
    while all(process.poll() is None for process in both) and time.monotonic() < deadline:
        time.sleep(0.05)
    hold.release()  # the other one is at work until now
    outputs = [process.communicate(timeout=TIMEOUT_S)[0] for process in both]
    assert sorted(process.returncode for process in both) == [0, 2], outputs
    refused = next(output for process, output in zip(both, outputs, strict=True) if process.returncode == 2)
    assert refused.strip().splitlines()[-1].startswith(f"runs/{run.name}: is running; `make monitor NAME=")
    assert run.state().status == "finished" and run.failure() is None
    project.wait_for_no_process()
