"""What the monitor shows, read from a run directory."""

import io
import json

import pytest
from rich.console import Console

from sft import cluster, files
from sft import run as runs
from sft.host import monitor
from sft.host.gpus import Gpu
from sft.settings import Settings


@pytest.fixture
def run(tmp_path):
    return runs.create(Settings.load(None, runs_path=tmp_path, run_name="a"), cluster.hostfile(2, 2))


def shown(run):
    text = io.StringIO()
    monitor.monitor(run, Console(file=text, width=100), once=True, as_json=False)
    return text.getvalue()


def test_a_run_that_trains(run):
    lock = run.lock()
    rates = {"loss": 1.5, "tokens_per_second": 1234.5, "time_left_s": 125}
    run.update_state("training", step=30, total_steps=60, epoch=1.0, wandb="https://wandb.example/run", **rates)
    lines = [
        {
            "step": i,
            "train/loss": 3 - i / 20,
            "train/lr": 1e-6,
            "train/grad_norm": 2.5,
            "perf/tokens_per_second": 1234.5,
        }
        for i in range(31)
    ]
    run.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    text = shown(run)
    for part in (
        "training",
        "30 of 60 (50%), epoch 1.00",
        "1.5000",
        "1e-06",
        "2.500",
        "1,234",
        "2:05",
        "wandb.example",
    ):
        assert part in text, text
    assert "█" in text and "▁" in text and "nothing is at work" not in text
    lock.close()
    text = " ".join(shown(run).split())
    assert "nothing is at work on it" in text
    assert f"`make resume NAME=a RUNS_PATH={run.path.parent}` starts it over: it has no checkpoint" in text


def test_a_failed_run_shows_the_reason_and_the_ends_of_the_logs(run):
    (run.logs / "node-0.log").write_text("".join(f"line {i}\n" for i in range(100)))
    (run.logs / "node-1.log").write_text("the other one\n")
    run.update_state("failed", error="rank 1: RuntimeError: boom")
    text = shown(run)
    assert "rank 1: RuntimeError: boom" in text and "the other one" in text
    assert "line 99" in text and "line 80" not in text


def test_metrics_are_read_as_they_grow_and_anew_after_a_resume(run):
    reader = monitor.MetricsReader(run)
    assert reader.read() == []
    with run.metrics.open("w") as file:
        file.write('{"step": 1}\n{"step"')
        file.flush()
        assert [line["step"] for line in reader.read()] == [1]
        file.write(": 2}\n")
    assert [line["step"] for line in reader.read()] == [1, 2]
    files.write_whole(run.metrics, '{"step": 1}\n')
    assert [line["step"] for line in reader.read()] == [1]


def test_a_long_curve_is_drawn_in_its_means():
    assert monitor.curve([1.0, 2.0, 3.0]) == [1.0, 2.0, 3.0]
    drawn = monitor.curve([float(i) for i in range(6000)])
    assert len(drawn) == monitor.CURVE_WIDTH and drawn[0] == 49.5
    assert monitor.blocks([0.0, 1.0]) == "▁█" and monitor.blocks([2.0, 2.0]) == "▁▁"


def test_both_nodes_and_whose_gpus_they_are(run, monkeypatch):
    cards = [Gpu(i, "RTX 4090", 50, 10.0, 24.0, 60, 300.0, "580.1", uuid=f"GPU-{i}") for i in range(4)]
    monkeypatch.setattr(monitor.gpus, "visible", lambda: cards)
    for rank, name in enumerate(("llm-master", "llm-worker")):
        mine = [2 * rank, 2 * rank + 1]
        about = {"name": name, "host": name, "ranks": mine, "gpus": [f"GPU-{i}" for i in mine]}
        run.node_file(rank).write_text(json.dumps(about))
    seen = monitor.snapshot(run, [])
    assert [gpu["node"] for gpu in seen["gpus"]] == ["llm-master", "llm-master", "llm-worker", "llm-worker"]
    lines = [line for line in shown(run).splitlines() if "llm-worker" in line]
    assert "ranks 2, 3 on llm-worker" in lines[0] and "3 RTX 4090" in lines[-1]
