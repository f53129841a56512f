"""A run on three data sets with shares: the same on one node and on two, stopped and resumed, with a score of each."""

import json

import pytest

from tests.hub import content
from tests.hub.content import jsonl, rows
from tests.hub.server import running

from .project import metrics, stopped

NAMES = ("step", "train/loss", "train/grad_norm", "train/target_tokens")


def write(path, numbers, prompt, response):
    path.parent.mkdir(parents=True, exist_ok=True)
    found = [{prompt: f"What is {i} + {i % 7}?", response: f"{i + i % 7}"} for i in numbers]
    path.write_text("".join(json.dumps(row) + "\n" for row in found))


def curve(run):
    """Return the metrics of all steps of training."""
    return [line for line in metrics(run, *NAMES) if line[1] is not None]


@pytest.fixture(scope="module")
def mixture(project):
    """The settings of the run, in DATASETS' file; the data sets are in the project's data folder, as for containers."""
    write(project.path / "data" / "a.jsonl", range(40), "question", "answer")
    write(project.path / "data" / "b.jsonl", range(100, 200), "ask", "reply")
    (project.path / "mix.toml").write_text(
        '[[datasets]]\ndataset = "data/a.jsonl"\nshare = "2x"\n\n'
        '[[datasets]]\ndataset = "data/b.jsonl"\nshare = 0.2\ncolumns = { ask = "prompt", reply = "response" }\n\n'
        '[[datasets]]\ndataset = "demo"\nshare = 100\n'
    )
    return {"DATASET": "", "DATASETS": "mix.toml", "GLOBAL_BATCH_SIZE": 16, "MAX_STEPS": 0, "MAX_EPOCHS": 1}


@pytest.fixture(scope="module")
def two_nodes(project, mixture):
    return project.train("mix-2", **mixture, EVALUATE=1, MAX_NEW_TOKENS=4, EVAL_LIMIT=20, SAVE_STEPS=5, EVAL_STEPS=10)


def test_an_epoch_has_each_data_set_by_its_share(two_nodes):
    prepared = json.loads(two_nodes.prepared.read_text())
    seen = [(part["name"], part["rows"], part["taken"], part["repeats"]) for part in prepared["parts"]]
    assert seen == [("data/a.jsonl", 38, 38, 2), ("data/b.jsonl", 95, 19, 1), ("demo", 4000, 100, 1)]
    assert prepared["train"]["rows"] == 2 * 38 + 19 + 100
    assert two_nodes.state().total_steps == len(curve(two_nodes)) == 13


def test_the_report_has_a_score_of_each_data_set(two_nodes):
    for results in two_nodes.results().parts().values():
        assert [(part.name, part.rows) for part in results.parts] == [
            ("data/a.jsonl", 2),
            ("data/b.jsonl", 5),
            ("demo", 200),
        ]
        assert sum(part.answers for part in results.parts) == results.answers == 20
        assert min(part.answers for part in results.parts) >= 1
        assert all(part.loss is not None for part in results.parts)
    names = ["val/loss", *(f"val/loss/{name}" for name in ("data/a.jsonl", "data/b.jsonl", "demo"))]
    seen = [values for values in metrics(two_nodes, "step", *names) if values[1] is not None]
    assert [values[0] for values in seen] == [0, 10, 13] and all(None not in values for values in seen)


def test_one_node_trains_the_same(project, mixture, two_nodes):
    one = project.train("mix-1", **mixture, NODES=1)
    for seen, wanted in zip(curve(one), curve(two_nodes), strict=True):
        assert seen == pytest.approx(wanted, rel=2e-5)


def test_a_resumed_run_trains_the_same_and_a_changed_data_set_is_named(project, two_nodes):
    run = stopped(two_nodes, "mix-stopped", 10)
    path = project.path / "data" / "b.jsonl"
    kept = path.read_text()
    path.write_text(kept + '{"ask": "What is 1 + 1?", "reply": "2"}\n')
    refused = project.inv("make", "resume", "NAME=mix-stopped")
    assert refused.returncode == 2 and "(data/b.jsonl has changed)" in refused.stdout, refused.stdout
    path.write_text(kept)
    (project.path / "mix.toml").unlink()  # the run does not need it any more
    done = project.inv("make", "resume", "NAME=mix-stopped")
    assert done.returncode == 0, done.stdout
    assert curve(run) == curve(two_nodes)
    assert done.stdout.count("  exact match") == 3, done.stdout


def test_a_resumed_run_has_the_commits_of_all_data_sets_on_the_hub(project, mixture, tmp_path):
    with running() as hub:
        first = hub.add("datasets", "org/first", {"train.jsonl": jsonl(rows("first", 60))})
        second = hub.add("datasets", "org/second", content.with_configs("hard", "easy"))
        where = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "huggingface")}
        (project.path / "hub.toml").write_text(
            '[[datasets]]\ndataset = "org/first"\nshare = 20\n\n'
            '[[datasets]]\ndataset = "org/second"\ndataset_config = "hard"\n\n'
            '[[datasets]]\ndataset = "data/a.jsonl"\nshare = "2x"\n'
        )
        run = project.train("mix-hub", DATASET="", DATASETS="hub.toml", NODES=1, SAVE_STEPS=5, **where)
        commits = {name: found.commit_of("main") for name, found in (("org/first", first), ("org/second", second))}
        prepared = json.loads(run.prepared.read_text())
        assert prepared["inputs"]["dataset_commits"] == commits
        assert [(part["taken"], part["held_out"]) for part in prepared["parts"]] == [(20, 3), (40, 6), (38, 2)]
        first.push({"train.jsonl": jsonl(rows("moved", 60))}, "main")
        assert first.commit_of("main") != commits["org/first"]
        again = stopped(run, "mix-hub-stopped", 10)
        done = project.inv("make", "resume", "NAME=mix-hub-stopped", **where)
        assert done.returncode == 0, done.stdout
        assert json.loads(again.prepared.read_text())["inputs"]["dataset_commits"] == commits
        assert curve(again) == curve(run)
