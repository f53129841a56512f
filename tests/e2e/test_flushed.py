"""After a power cut a name stands for all of its content, and a finished run for everything that it says."""

import json
import re
from pathlib import Path

import pytest

from sft.run.directory import ENDED

from .adapters import SETTINGS
from .project import small

RECORDED = Path(__file__).with_name("recorded")


@pytest.fixture(scope="module")
def recorded(project, tmp_path_factory):
    """Every flush and rename of a whole run, of all its processes in their order: its data and model are made too."""
    folder = tmp_path_factory.mktemp("recorded")
    paths = {f"{name}_PATH": folder / name.lower() for name in ("RUNS", "DATA", "MODEL")}
    recording = {"PYTHONPATH": RECORDED, "RECORDED": folder / "lines"}
    settings = {"SAVE_STEPS": 6, "KEEP_CHECKPOINTS": 1, "EVALUATE": 1, "EVAL_LIMIT": 8, "MAX_NEW_TOKENS": 4}
    done = project.inv("train", **small(RUN_NAME="flushed", **(SETTINGS | settings | paths | recording)))
    assert done.returncode == 0, done.stdout
    lines = [json.loads(line) for line in (folder / "lines").read_text().splitlines()]
    return folder, lines


def is_final(path, folder):
    """Tell whether a path is in the run's folders and no part of it is a temporary name.

    What is in ranks/ tells the node programs how the ranks ended, and nobody after a power cut.
    """
    path = Path(path)
    if path.parent.name == "ranks":
        return False
    return path.is_relative_to(folder) and not any(part.startswith(".") for part in path.relative_to(folder).parts)


def test_nothing_has_its_name_before_all_of_it_is_on_disk(recorded):
    folder, lines = recorded
    flushed, named = set(), set()
    for line in lines:
        if "flush" in line:
            flushed.add(tuple(line["version"]))
        elif is_final(line["rename"], folder) and (line["status"] is None or line["status"] in ENDED):
            unflushed = [path for path, version in line["tree"] if tuple(version) not in flushed]
            assert not unflushed, (line["rename"], unflushed)
            named.add(re.sub(r"[0-9a-f]{12,}", "KEY", str(Path(line["rename"]).relative_to(folder))))
    run = "runs/flushed"
    assert named >= {
        "data/demo-KEY", "data/prepared/KEY", "model/tiny-KEY", "runs/latest", f"{run}/state.json",
        f"{run}/settings.json", f"{run}/ds_config.json", f"{run}/prepared.json", f"{run}/checkpoints/step-000006",
        f"{run}/checkpoints/latest", f"{run}/adapter", f"{run}/final", f"{run}/evaluation.json",
        f"{run}/answers.jsonl",
    }  # fmt: skip


def test_finished_is_said_after_everything_else_is_on_disk_with_its_name(recorded):
    folder, lines = recorded
    (finished,) = (at for at, line in enumerate(lines) if line.get("status") == "finished")
    run = folder / "runs" / "flushed"
    later = [line["rename"] for line in lines[finished + 1 :] if "rename" in line and is_final(line["rename"], run)]
    assert later == []
    for at, line in enumerate(lines[:finished]):
        if "rename" in line and is_final(line["rename"], folder) and Path(line["rename"]).name != "state.json":
            parent = str(Path(line["rename"]).parent)
            assert any(found.get("flush") == parent for found in lines[at + 1 : finished]), line["rename"]
    metrics = run / "metrics.jsonl"
    last = [line["version"] for line in lines[:finished] if line.get("flush") == str(metrics)][-1]
    assert last[1:] == [metrics.stat().st_ino, metrics.stat().st_mtime_ns, metrics.stat().st_size]
