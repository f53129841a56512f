"""What the monitor shows, read from a run directory."""

import io
import json
import os
import re
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from sft import hostfile
from sft.host.commands import describe, ending, metrics_reader, monitor, report, snapshot
from sft.host.gpus import Gpu
from sft.run import files, lifecycle, typed_json
from sft.run.records import Inputs, Prepared, RowCounts, Split, TemplateFacts
from tests.settings import decided


@pytest.fixture
def run(tmp_path):
    return lifecycle.create(decided(runs_path=tmp_path, run_name="a"), hostfile.hostfile(2, 2))


def shown(run, width=100):
    text = io.StringIO()
    console = Console(file=text, width=width, force_terminal=True, color_system=None)
    monitor.monitor(run, console, once=True, as_json=False)
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
    assert "it is not running" in text
    assert f"`make resume NAME=a RUNS_PATH={run.path.parent}` starts it over: it has no checkpoint" in text


@pytest.mark.parametrize("skew", [-120, 120])
def test_a_clock_two_minutes_off_makes_no_run_silent(run, monkeypatch, skew):
    with run.lock():
        run.update_state("training", step=30, total_steps=60)
        real = time.time
        monkeypatch.setattr(snapshot.time, "time", lambda: real() + skew)
        text = " ".join(shown(run).split())
        assert re.search(r"elapsed 0:0\d", text) and re.search(r"last update 0:0\d ago", text) and "silent" not in text
        os.utime(run.state_file, (real() - 600, real() - 600))
        snapshot.signs.clear()
        assert re.search(r"last update 10:0\d ago - silent, see", " ".join(shown(run).split()))
    assert not list(run.path.glob(".state*"))


def test_of_a_failed_run_the_name_and_the_reason_are_the_last_on_a_small_screen(run, monkeypatch):
    monkeypatch.setattr(
        snapshot.gpus, "visible", lambda: [Gpu(i, "RTX 4090", 50, 10, 24, 60, 300, "580.1") for i in range(8)]
    )
    (run.logs / "node-0.log").write_text("".join(f"line {i} {'x' * 300}\n" for i in range(100)))
    (run.logs / "node-1.log").write_text("the other one\n")
    run.update_state("failed", error="rank 1: RuntimeError: boom", step=30, total_steps=60)
    lines = shown(run, 80).splitlines()
    text = "\n".join(line.rstrip() for line in lines)
    last = text.split("\n\n")[-1]
    assert last.startswith("a  failed\nrank 1: RuntimeError: boom\n") and last.count("\n") < 20
    command = f"the whole logs: `make logs NAME=a RUNS_PATH={run.path.parent} LINES=0`"
    assert "".join(last.split()).endswith(command.replace(" ", ""))  # the path may be longer than the screen is wide
    assert "the other one" in text and "  line 99 x" in text and "line 95" in text and "line 94" not in text
    assert max(map(len, lines)) <= 80 and len([line for line in lines if line.startswith("  line")]) == 5


def test_a_file_has_whole_lines(run):
    (run.logs / "node-0.log").write_text(f"{'x' * 300} the end\n")
    run.update_state("failed", error=f"rank 1: RuntimeError: {'boom ' * 100}at last", step=30, total_steps=60)
    text = io.StringIO()
    monitor.monitor(run, Console(file=text, width=80), once=True, as_json=False)
    lines = [line.strip() for line in text.getvalue().splitlines()]
    assert f"rank 1: RuntimeError: {'boom ' * 100}at last" in lines and f"{'x' * 300} the end" in lines
    assert max(map(len, text.getvalue().splitlines())) < 600


def test_a_finished_run_shows_what_it_achieved(run):
    scores = {"before": {"loss": 6.08, "exact_match": 0.0}, "after": {"loss": 0.0305, "exact_match": 0.99}}
    run.evaluation.write_text(json.dumps(scores))
    run.update_state("finished", step=60, total_steps=60)
    text = shown(run, 60)
    assert "6.0800 before, 0.0305 after training" in text and "0.0% before, 99.0% after training" in text


@pytest.mark.parametrize("width", [60, 80])
def test_the_curve_has_room_for_its_ends_and_shows_late_changes(run, width):
    losses = [6 * 0.9**i + 0.02 for i in range(100)]
    run.metrics.write_text("".join(json.dumps({"step": i, "train/loss": loss}) + "\n" for i, loss in enumerate(losses)))
    (line,) = [line for line in shown(run, width).splitlines() if "█" in line]
    assert line.startswith("loss 5.") and line.rstrip().endswith(" 0.0202") and len(line) <= width
    drawn = line.split()[2]
    assert len(set(drawn[len(drawn) // 3 :])) > 3


def test_a_validation_between_steps_is_part_of_training(run):
    lock = run.lock()
    run.update_state("evaluating", evaluating="during", answers=0, total_answers=0, step=30, total_steps=60)
    text = shown(run, 80)
    assert "validating  " in text and "━" in text and "30/60" in text and text.count("evaluating") == 1
    lock.close()


def test_metrics_are_read_as_they_grow_and_anew_after_a_resume(run):
    reader = metrics_reader.MetricsReader(run)
    assert reader.read() == metrics_reader.Metrics()
    with run.metrics.open("w") as file:
        file.write('{"step": 1, "train/loss": 3}\n{"step"')
        file.flush()
        assert reader.read() == metrics_reader.Metrics({"step": 1, "train/loss": 3}, [3])
        file.write(': 2, "train/loss": 2}\n')
    assert reader.read() == metrics_reader.Metrics({"step": 2, "train/loss": 2}, [3, 2])
    files.write_whole(run.metrics, '{"step": 1, "train/loss": 3}\n')
    assert reader.read().losses == [3]


def test_the_metrics_of_many_steps_are_a_curve_in_little_memory_and_no_large_file_is_read_whole(run, monkeypatch):
    steps = 30_000
    lines = (json.dumps({"step": i, "train/loss": float(i)}) + "\n" for i in range(steps))
    run.metrics.write_text("".join(lines))
    whole = metrics_reader.MetricsReader(run)
    drawn = whole.read().losses
    assert drawn == pytest.approx([500 * i + 250 for i in range(60)], abs=steps / metrics_reader.POINTS * 2)
    assert len(whole.curve.means) < metrics_reader.POINTS and len(whole.last) == metrics_reader.NEWEST
    monkeypatch.setattr(metrics_reader, "WHOLE_BYTES", 100_000)
    monkeypatch.setattr(metrics_reader, "PLACE_BYTES", 500)
    sampled = metrics_reader.MetricsReader(run)
    found = sampled.read()
    assert found.newest["step"] == steps - 1
    assert found.losses == pytest.approx(drawn, abs=steps / 50)
    with run.metrics.open("a") as file:
        file.writelines(json.dumps({"step": steps + i, "train/loss": float(steps + i)}) + "\n" for i in range(steps))
    assert sampled.read().losses == pytest.approx([1000 * i + 500 for i in range(60)], abs=2000)


def test_a_long_curve_is_drawn_in_its_means():
    assert metrics_reader.curve([1.0, 2.0, 3.0]) == [1.0, 2.0, 3.0]
    drawn = metrics_reader.curve([float(i) for i in range(6000)])
    assert len(drawn) == metrics_reader.CURVE_POINTS and drawn[0] == 49.5
    assert monitor.blocks([0.0, 1.0]) == "▁█" and monitor.blocks([2.0, 2.0]) == "▁▁"


def test_both_nodes_and_whose_gpus_they_are(run, monkeypatch):
    cards = [Gpu(i, "RTX 4090", 50, 10.0, 24.0, 60, 300.0, "580.1", uuid=f"GPU-{i}") for i in range(4)]
    monkeypatch.setattr(snapshot.gpus, "visible", lambda: cards)
    for rank, name in enumerate(("llm-master", "llm-worker")):
        mine = [2 * rank, 2 * rank + 1]
        about = {"name": name, "host": name, "ranks": mine, "gpus": [f"GPU-{i}" for i in mine]}
        run.node_file(rank).write_text(json.dumps(about))
    seen = snapshot.Snapshot.of(run, metrics_reader.Metrics()).to_json()
    assert [gpu["node"] for gpu in seen["gpus"]] == ["llm-master", "llm-master", "llm-worker", "llm-worker"]
    lines = [line for line in shown(run).splitlines() if "llm-worker" in line]
    assert "ranks 2, 3 on llm-worker" in lines[0] and "3 RTX 4090" in lines[-1]


def test_many_nodes_are_two_lines_and_their_files_are_read_once(run, monkeypatch):
    files.write_whole(run.hostfile, hostfile.hostfile(512, 8))
    for rank in {*range(512)} - {17, 300}:
        about = {"name": f"n{rank}", "host": f"gpu-{rank:03}", "ranks": [*range(8 * rank, 8 * rank + 8)], "gpus": []}
        run.node_file(rank).write_text(json.dumps(about))
    lines = shown(run, 80).splitlines()
    assert max(map(len, lines)) <= 80 and len(lines) < 20
    text = " ".join(" ".join(lines).split())
    assert "nodes 510 of 512, 4,080 ranks, on 510 hosts, gpu-000 to gpu-511" in text
    assert "not there yet nodes 17, 300" in text
    reads = []
    monkeypatch.setattr(typed_json, "read", lambda path, *_: reads.append(path))
    assert len(run.nodes()) == 510 and reads == []
    run.node_file(17).write_text("broken")
    monkeypatch.undo()
    assert len(run.nodes()) == 510 and any("node-17.json" in line for line in run.unreadable_files())


def test_beside_a_run_that_has_ended_the_one_at_work_is_named(run):
    run.update_state("finished", step=1, total_steps=1)
    assert "at work" not in shown(run)
    other = lifecycle.create(decided(runs_path=run.path.parent, run_name="b"), hostfile.hostfile(2, 2))
    with other.lock():
        text = " ".join(shown(run).split())
    assert f"another run is at work: `make monitor NAME=b RUNS_PATH={run.path.parent}`" in text


OLDER = Path(__file__).parent / "older_run"


def test_the_json_of_the_monitor_keeps_its_keys(run, capsys):
    for path in OLDER.glob("*.json"):
        shutil.copy(path, run.path)
    shutil.copy(OLDER / "metrics.jsonl", run.metrics)
    monitor.monitor(run, Console(), once=True, as_json=True)
    seen = json.loads(capsys.readouterr().out)
    keys = "run path running age_s elapsed_s state problems metrics losses evaluation rows template nodes gpus goes_on"
    assert list(seen) == [*keys.split(), "logs", "job", "others"]
    assert seen["problems"] == [] and seen["state"].items() >= json.loads((OLDER / "state.json").read_text()).items()
    assert seen["nodes"] == [{"name": "llm-master", "host": "machine", "ranks": [0], "gpus": []}]
    before = json.loads((OLDER / "evaluation.json").read_text())["before"]
    kept = {key: value for key, value in before.items() if key != "samples"}
    added = {"answer_form": None, "cut_answers": 0, "perplexity": None, "parts": []}
    assert seen["evaluation"]["before"] == kept | added  # older
    assert seen["metrics"]["step"] == 250 and seen["metrics"]["eval/exact_match"] == 0.99


def test_rows_that_hold_marks_or_a_whole_template_are_warned_of_at_the_start(run):
    split = Split(rows=20, tokens=160, target_tokens=80, longest=12, cut_rows=0, conversations=16)
    lost = {"é": 5, "\n": 4, **dict.fromkeys("abcdefg", 1)}
    marked = replace(
        split, rows_with_marks=7, rows_with_template=3, answers=30, target_answers=24, rows_with_lost=6, lost=lost
    )
    split = replace(split, answers=16, target_answers=16)
    typed_json.write(run.prepared, Prepared(model="m", data="d", train=marked, validation=split, inputs=Inputs()))
    started = io.StringIO()
    describe.describe(run, Console(file=started, width=200))
    marks, characters, template = [line for line in started.getvalue().splitlines() if "warning: train: " in line]
    assert "7 rows hold control marks" in marks and "SPECIAL_TOKENS_IN_TEXT=parse" in marks
    assert "3 rows hold a whole turn of the chat template" in template and "almost always a mistake" in template
    assert "6 rows hold characters that the tokenizer has no token for, or makes others of: " in characters
    assert "of: é, line breaks, a, b, c, d, e, f, …; look at them with" in characters
    assert marks.endswith("look at them with `make rows`") and "warning: validation" not in started.getvalue()
    assert "  24 of 30 answers are targets\n" in started.getvalue()
    assert "  all 16 answers are targets\n" in started.getvalue()
    assert "16 rows, 20 sequences" in started.getvalue()


def test_what_became_of_every_row_is_said_at_the_start_in_the_report_and_by_the_monitor(run, capsys):
    reasons = {"no target is left within MAX_LENGTH": 2, "longer than MAX_LENGTH": 1}
    train = Split(
        rows=17, tokens=160, target_tokens=80, longest=12, cut_rows=4, conversations=17, dropped=reasons,
        messages_left_out=1, too_long=7, holds_all=40, holds_most=30,
    )  # fmt: skip
    held_out = Split(rows=5, tokens=50, target_tokens=20, longest=10, cut_rows=0, conversations=5)
    counts = RowCounts(read=25, trained=17, dropped=3, held_out=5)
    typed_json.write(
        run.prepared,
        Prepared(model="m", data="d", train=train, validation=held_out, inputs=Inputs(), row_counts=counts),
    )
    started, ended = io.StringIO(), io.StringIO()
    describe.describe(run, Console(file=started, width=300))
    report.report(run, Console(file=ended, width=300))
    line = "rows: 25 read = 17 trained + 3 dropped + 5 held out\n"
    assert line in started.getvalue() and line in ended.getvalue()
    assert "4 rows cut at MAX_LENGTH=1024 (20.0%)" in started.getvalue()
    assert "2 rows dropped (10.0%): no target is left within MAX_LENGTH" in started.getvalue()
    assert "1 message after the last answer of a row left out" in started.getvalue()
    warning = "warning: train: 35.0% of the rows (7 of 20) are cut or dropped at MAX_LENGTH=1024: 30 holds 99 %"
    assert warning in started.getvalue() and "warning: validation" not in started.getvalue()
    narrow = io.StringIO()
    report.report(run, Console(file=narrow, width=50, force_terminal=True, color_system=None))
    assert "      rows: 25 read = 17 trained + 3 dropped + 5\n            held out\n" in narrow.getvalue()
    monitor.monitor(run, Console(), once=True, as_json=True)
    assert json.loads(capsys.readouterr().out)["rows"] == {
        "read": 25, "trained": 17, "dropped": 3, "held_out": 5, "not_in_share": 0,
    }  # fmt: skip


def test_the_steps_of_a_run_are_said_where_it_trains_and_not_where_it_is_evaluated_again(run):
    split = Split(rows=16, tokens=160, target_tokens=80, longest=12, cut_rows=0)
    prepared = Prepared(model="m", data="d", train=split, validation=split, inputs=Inputs())
    for place, is_said in ((run, True), (lifecycle.evaluate_again(run, run.settings()), False)):
        typed_json.write(place.prepared, prepared)
        started = io.StringIO()
        describe.describe(place, Console(file=started, width=200))
        assert "16 rows, 160 tokens" in started.getvalue()
        assert (" an epoch, " in started.getvalue()) == is_said


def test_an_evaluation_that_ended_early_is_begun_again_and_nothing_is_left_of_it_to_do(run):
    run.final.mkdir()
    assert ending.how_to_continue(run, "make resume") == "`make resume` does the rest: the final model is written"
    again = lifecycle.evaluate_again(run, run.settings())
    said = ending.how_to_continue(again, "make evaluate")
    assert said == "`make evaluate` evaluates the run from the beginning"


def test_one_step_is_a_step(run, monkeypatch):
    run.update_state("finished", step=1, total_steps=1)
    ended = io.StringIO()
    report.report(run, Console(file=ended, width=100))
    assert "finished: 1 step in " in ended.getvalue()
    monkeypatch.setattr("sft.resources.cores", lambda: 1)
    run.update_state("training", step=1, total_steps=1)
    lock = run.lock()
    assert " on 1 core " in shown(run)
    lock.close()


def test_what_is_unusual_about_the_chat_template_is_shown_by_the_monitor_and_at_the_start(run):
    said = ["<|im_end|> ends its answers: added to the tokens at which final/ stops", "[bold] is no markup"]
    template = TemplateFacts(
        source="the model's", templates={}, end_mark="<|im_end|>", end_is_appended=False, stops=[2, 3],
        added_stops=["<|im_end|>"], said=said,
    )  # fmt: skip
    split = Split(rows=16, tokens=160, target_tokens=80, longest=12, cut_rows=0)
    prepared = Prepared(model="m", data="d", train=split, validation=split, inputs=Inputs(), template=template)
    typed_json.write(run.prepared, prepared)
    started = io.StringIO()
    describe.describe(run, Console(file=started, width=200))
    for text in (shown(run, 200), started.getvalue()):
        assert all(text.count(line) == 1 for line in said), text
    typed_json.write(run.prepared, replace(prepared, template=None))  # of an older version
    assert "template" not in shown(run)
