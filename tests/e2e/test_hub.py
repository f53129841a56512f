"""Data sets on a hub, real HTTP and real files: what is found, downloaded and refused, each refusal in one line."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import pytest

from tests.hub import content
from tests.hub.content import DATASET, OTHER_TOKEN, TOKEN, WRONG_TOKEN, jsonl, rows
from tests.hub.server import Fault, running

from .project import ROOT

# Reads data sets one after the other, as a run does before it loads torch, and prints what became of each.
READ = """
import json, sys
from sft.errors import SftError
from sft.settings.load import load
from sft.trainer.data import hub, sources
for case in json.load(sys.stdin):
    try:
        settings = load(None, **case)
        hub.check(settings)
        found = {purpose: [row["question"] for _, row in rows] for purpose, rows in sources.readers(settings).items()}
        found["said"] = sources.data_files(settings).lines()
    except SftError as error:
        found = {"error": str(error), "exit": error.exit_code}
    print(json.dumps(found))
"""
PEOPLE = {TOKEN, OTHER_TOKEN}


@pytest.fixture
def hub():
    with running() as found:
        found.users |= PEOPLE
        found.add("datasets", DATASET, content.with_configs("main", "socratic"))
        yield found


def read(
    hub, home: Path, *cases: dict[str, str], offline: bool = False, data: Path | None = None
) -> list[dict[str, object]]:
    """Return what a process makes of data sets on the hub."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGINGFACE"))}
    places = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(home / "huggingface")}
    if offline:
        places["HF_HUB_OFFLINE"] = "1"
    given = json.dumps([case | {"data_path": str(data or home / "data")} for case in cases])
    done = subprocess.run(
        [sys.executable, "-c", READ], input=given, env=kept | places, cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr and not any(
        token in done.stdout + done.stderr for token in (TOKEN, WRONG_TOKEN)
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def questions(name: str, *numbers: int) -> list[str]:
    return [rows(name, 100)[number]["question"] for number in numbers]


def test_each_refusal_is_one_line_that_says_what_to_do(hub, tmp_path):
    one = {"train.jsonl": jsonl(rows("row", 5))}
    hub.add("datasets", "org/several", content.with_configs("en", "de"))
    hub.add("datasets", "org/gated", one, gated=True, readers={TOKEN})
    hub.add("datasets", "org/private", one, private=True, readers={TOKEN})
    hub.add("datasets", "org/disabled", one, disabled=True)
    hub.add("datasets", "org/script", {"script.py": "import datasets", "README.md": "# Rows"})
    hub.add("datasets", "org/pictures", {"train.jsonl": '{"image": "a.png", "caption": "b"}\n'})
    hub.add("datasets", "org/nothing", {"README.md": "# Soon", "notes.txt": "soon"})
    hub.add("datasets", "org/columns", {"train.jsonl": '{"a": "x", "b": "y"}\n'})
    hub.add(
        "datasets", "org/images", {"train/metadata.jsonl": '{"file_name": "1.png", "text": "a"}\n', "train/1.png": "x"}
    )
    hub.add("datasets", "org/huge", one, sizes={"train.jsonl": 10**16})
    for status in (403, 429, 500):
        hub.add("datasets", f"org/status-{status}", one)
        hub.faults.append(Fault(f"api/datasets/org/status-{status}", status, {"Retry-After": "1"}))
    wanted = [
        ({"dataset": "org/several"}, "DATASET_CONFIG=: org/several has the configurations en, de; name one of them"),
        ({"dataset": "org/several", "dataset_config": "main"}, "DATASET_CONFIG=main: .* has the configurations en, de"),
        ({"dataset": "org/columns", "dataset_config": "en"}, "DATASET_CONFIG=en: .* has no configurations; leave it"),
        ({"train_split": "all"}, "TRAIN_SPLIT=all: openai/gsm8k has no split all, but train, test; name one of them"),
        ({"eval_split": "train[:5]"}, "EVAL_SPLIT=train.:5.: rows of train.:5. are trained too"),
        ({"dataset_revision": "v9"}, "DATASET=openai/gsm8k: has no revision DATASET_REVISION=v9; check it"),
        ({"dataset": "org/gated"}, "DATASET=org/gated: is gated; ask for access on its page, and set HUGGING"),
        ({"dataset": "org/gated", "huggingface_api_key": OTHER_TOKEN}, "org/gated: is gated; .* with the account"),
        ({"dataset": "org/gated", "huggingface_api_key": WRONG_TOKEN},
         "HUGGINGFACE_API_KEY=...: is not a token that the hub knows; make one"),
        ({"dataset": "org/private"}, "DATASET=org/private: .* no such data set on the hub; .* HUGGINGFACE_API_KEY"),
        ({"dataset": "org/private", "huggingface_api_key": OTHER_TOKEN}, "no such data set .* a token that may"),
        ({"dataset": "org/none"}, "DATASET=org/none: no such folder here and no such data set on the hub; check"),
        ({"dataset": "org/disabled"}, "DATASET=org/disabled: is disabled on the hub; take another"),
        ({"dataset": "org/script"}, r"DATASET=org/script: is a Python script \(script.py\), .*=refs/convert/parquet"),
        ({"dataset": "org/pictures"}, "image"),
        ({"dataset": "org/images"}, "DATASET=org/images: is a data set of pictures, sound or films, such as train/1"),
        ({"dataset": "org/huge"}, r"DATA_PATH=.*: org/huge needs 10000000.0 GB, but only .* TRAIN_SPLIT=train\[:1"),
        ({"dataset": "org/nothing"}, "DATASET=org/nothing: holds no training file"),
        ({"dataset": "org/columns"}, "COLUMNS=.*: no row of org/columns has a prompt or a response but a, b;"),
        ({"dataset": "org/status-403"}, r"DATASET=org/status-403: may not be read without a token \(HTTP 403\)"),
        ({"dataset": "org/status-429"}, r"DATASET=org/status-429: .* so many requests \(HTTP 429\); start again later"),
        ({"dataset": "org/status-500"}, r"DATASET=org/status-500: the hub has failed \(HTTP 500\); start again later"),
    ]  # fmt: skip
    found = read(hub, tmp_path, *(case for case, _ in wanted))
    for (_, line), said in zip(wanted, found, strict=True):
        with pytest.raises(ValueError, match=line):
            raise ValueError(said.get("error", said))
        assert said["exit"] == 2 and "\n" not in said["error"]


def test_what_is_asked_for_is_read(hub, tmp_path):
    hub.add("datasets", "org/one", {"README.md": "# Rows", "data/train-00000-of-00001.jsonl": jsonl(rows("one", 30))})
    hub.add("datasets", "org/new", {"dev.csv": "question,answer\na?,b\n", "train.csv": "question,answer\nc?,d\n"})
    hub.renamed["org/old"] = "org/new"
    hub.add("datasets", "org/gated", {"train.jsonl": jsonl(rows("gated", 1))}, gated=True, readers={TOKEN})
    sft = {f"data/{split}_{kind}-00000-of-00001.parquet": content.parquet(rows(split + kind, 2))
           for split in ("train", "test") for kind in ("sft", "prefs")}  # fmt: skip
    hub.add("datasets", "org/chat", sft)
    of_script = hub.add("datasets", "org/script", {"script.py": "import datasets"})
    of_script.push({"default/train/0000.parquet": content.parquet(rows("script", 3))}, "refs/convert/parquet")
    got = read(
        hub, tmp_path,
        {},
        {"train_split": "train[:3]", "eval_split": "train[-5%:]"},
        {"train_split": "test[4:]+train[:1]", "eval_split": "test[:1]"},
        {"dataset_config": "socratic"},
        {"dataset": "org/one"},
        {"dataset": "org/old"},
        {"dataset": "org/gated", "huggingface_api_key": TOKEN},
        {"dataset": "org/chat"},
        {"dataset": "org/script", "dataset_revision": "refs/convert/parquet"},
    )  # fmt: skip
    assert [(one.get("train"), one.get("validation")) for one in got] == [
        (questions("train", *range(40)), questions("test", *range(6))),
        (questions("train", 0, 1, 2), questions("train", 38, 39)),
        (questions("test", 4, 5) + questions("train", 0), questions("test", 0)),
        (questions("socratic", 0, 1, 2), []),
        (questions("one", *range(30)), []),
        (["c?"], ["a?"]),
        (questions("gated", 0), []),
        (questions("trainsft", 0, 1), questions("testsft", 0, 1)),
        (questions("script", 0, 1, 2), []),
    ], got
    assert got[0]["said"] == [
        "main/train-00000-of-00001.parquet for training; main/test-00000-of-00001.parquet for evaluation",
        "not used (the data set does not name it): socratic/train-00000-of-00001.parquet",
    ]
    assert len(hub.downloads("main/train-00000-of-00001.parquet")) == 1, "what is there is not downloaded again"


def test_of_a_slice_only_the_files_that_hold_it_are_downloaded(hub, tmp_path):
    shards = {f"data/train-{i:05}-of-00020.parquet": content.parquet(rows(f"shard{i}", 10)) for i in range(20)}
    hub.add("datasets", "org/large", shards)
    (got,) = read(hub, tmp_path, {"dataset": "org/large", "train_split": "train[5:25]"})
    assert len(got["train"]) == 20 and got["train"][-1] == questions("shard2", 4)[0]
    assert [bool(hub.downloads(name)) for name in sorted(shards)] == [True] * 3 + [False] * 17


def test_a_hub_that_is_gone_is_not_needed_for_what_is_here(hub, tmp_path):
    (before,) = read(hub, tmp_path, {})
    hub.stop()
    again, other, part = read(hub, tmp_path, {}, {"dataset": "org/other"}, {"dataset_revision": "other"})
    assert again == before
    assert "DATASET=org/other: is not in" in other["error"] and "cannot be reached (ConnectError)" in other["error"]
    assert f"DATASET={DATASET}: is not whole in" in part["error"]
    again, other = read(hub, tmp_path, {}, {"dataset": "org/other"}, offline=True)
    assert again == before and "HF_HUB_OFFLINE=1 forbids a download; unset it" in other["error"]


def test_a_download_that_breaks_goes_on_where_it_was(hub, tmp_path):
    many = [row | {"answer": "x" * 6000} for row in rows("long", 3000)]
    hub.add("datasets", "org/long", {"train.jsonl": jsonl(many)})
    chunk = 10 * 2**20  # which huggingface_hub keeps of what has come
    hub.faults.append(Fault("blobs", cut_at=chunk + 50_000, times=1))
    (got,) = read(hub, tmp_path, {"dataset": "org/long"})
    assert got["train"] == [row["question"] for row in many]
    assert [request.range for request in hub.downloads("train.jsonl")] == ["", f"bytes={chunk}-"]
    assert all(request.token is None for request in hub.requests if "/blobs/" in request.path)


def test_a_hub_that_fails_for_a_moment_is_asked_again(hub, tmp_path):
    hub.faults += [Fault("resolve/.*train", 429, {"Retry-After": "1"}, times=1), Fault("resolve/.*test", 503, times=1)]
    (got,) = read(hub, tmp_path, {})
    assert len(got["train"]) == 40 and len(got["validation"]) == 6
    assert {429, 503} <= {request.status for request in hub.requests}


def test_names_may_have_any_characters(hub, tmp_path):
    names = ["train/[1] *.jsonl", "train/50%25.jsonl", "train/größe?.jsonl", "train/a+b&c#d.jsonl"]
    hub.add("datasets", "org/odd", {name: jsonl(rows(name, 2)) for name in names} | {".train.jsonl": "no rows"})
    (got,) = read(hub, tmp_path, {"dataset": "org/odd"})
    assert sorted(got["train"]) == sorted(row["question"] for name in names for row in rows(name, 2))


def test_a_token_that_was_left_by_a_login_is_used(hub, tmp_path):
    hub.add("datasets", "org/gated", {"train.jsonl": jsonl(rows("gated", 1))}, gated=True, readers={TOKEN})
    kept = tmp_path / "huggingface" / "token"
    kept.parent.mkdir()
    kept.write_text(TOKEN)
    (got,) = read(hub, tmp_path, {"dataset": "org/gated"})
    assert got["train"] == questions("gated", 0)
    kept.write_text(WRONG_TOKEN)
    (got,) = read(hub, tmp_path, {"dataset": "org/gated", "dataset_revision": "v2"})
    assert got["error"].startswith(
        "HUGGINGFACE_API_KEY=: the token that HF_TOKEN or `hf auth login` gives is not a token"
    )


def test_what_killed_downloads_have_left_is_removed(hub, tmp_path):
    blobs = tmp_path / "data" / "hub" / "datasets--openai--gsm8k" / "blobs"
    blobs.mkdir(parents=True)
    old, new = (blobs / f"{name}.incomplete" for name in ("old", "new"))
    for path in (old, new):
        path.write_text("half a file")
    os.utime(old, (0, 0))
    read(hub, tmp_path, {})
    assert not old.exists() and new.exists(), "another process may be writing the new one"


def test_a_bad_row_is_named_by_its_file_on_the_hub(hub, tmp_path):
    hub.add("datasets", "org/bad", {"train.jsonl": jsonl(rows("row", 2)) + '{"question": \n'})
    names = "import sys; from sft.settings.load import load; from sft.trainer.data import sources\n"
    names += "for where, row in sources.readers(load(None))['train']: print(where, row)"
    places = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path), "DATA_PATH": str(tmp_path), "DATASET": "org/bad"}
    done = subprocess.run(
        [sys.executable, "-c", names], env=os.environ | places, cwd=ROOT, capture_output=True, text=True, check=True
    )
    *_, last = done.stdout.splitlines()
    assert last.startswith("org/bad/train.jsonl:3 org/bad/train.jsonl:3: is not valid JSON")


@pytest.mark.parametrize("memory", [False, True])
def test_the_user_s_own_cache_is_used_instead_of_a_second_download(hub, tmp_path, memory):
    """Also if it is on another disk, such as the one in memory."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if memory else tmp_path) as folder:
        theirs = Path(folder)
        fetch = "import huggingface_hub as h; h.snapshot_download('openai/gsm8k', repo_type='dataset')"
        places = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(theirs / "huggingface")}
        subprocess.run([sys.executable, "-c", fetch], env=os.environ | places, check=True, capture_output=True)
        hub.requests.clear()
        (got,) = read(hub, theirs, {}, data=tmp_path / "data")
        assert read(hub, theirs, {}, data=tmp_path / "data") == [got]
        assert len(got["train"]) == 40
        assert not [request for request in hub.requests if "resolve" in request.path and request.method == "GET"]
        (here,) = (tmp_path / "data").rglob("main/train-*.parquet")
        (there,) = theirs.rglob("main/train-*.parquet")
        assert here.stat().st_ino == there.stat().st_ino, "a second name, not a second copy"
        assert here.resolve().is_relative_to(theirs if memory else tmp_path / "data")


WITHOUT_HEADER = """---
configs:
- config_name: default
  data_files: [{split: train, path: a.csv}, {split: test, path: b.csv}]
  sep: "|"
  header: null
  names: [question, answer]
---
"""


def test_what_is_not_read_here_is_loaded_by_datasets_also_without_the_hub(hub, tmp_path):
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("train.jsonl", jsonl(rows("zip", 4)))
    hub.add("datasets", "org/options", {"README.md": WITHOUT_HEADER, "a.csv": "1+1|2\n2+2|4\n", "b.csv": "3+3|6\n"})
    hub.add("datasets", "org/archive", {"train.zip": archive.getvalue()})
    cases = [
        {"dataset": "org/options"},
        {"dataset": "org/options", "train_split": "train[:1]", "eval_split": "train[1:]"},
        {"dataset": "org/archive", "eval_split": "train[:1]", "train_split": "train[1:]"},
    ]
    options, sliced, packed = read(hub, tmp_path, *cases)
    assert (options["train"], options["validation"]) == (["1+1", "2+2"], ["3+3"])
    assert (sliced["train"], sliced["validation"]) == (["1+1"], ["2+2"])
    assert (packed["train"], packed["validation"]) == (questions("zip", 1, 2, 3), questions("zip", 0))
    assert options["said"] == [
        "train/data-00000-of-00001.arrow for training; test/data-00000-of-00001.arrow for evaluation"
    ]
    hub.add("datasets", "org/broken", {"train.zip": b"no archive"})
    (broken,) = read(hub, tmp_path, {"dataset": "org/broken"})
    assert broken["exit"] == 2 and "DATASET=org/broken: cannot be read by `datasets` (" in broken["error"]
    hub.stop()
    assert read(hub, tmp_path, *cases) == [options, sliced, packed]


def test_setup_names_the_data_set_and_the_model_if_it_can_have_neither(hub, tmp_path):
    """The program that `make setup` starts: first both, then the data set alone, without the weights of the model."""
    hub.add("models", "org/gated", {"config.json": "{}", "model.safetensors": "x"}, gated=True, readers={TOKEN})
    command = [sys.executable, "-m", "sft.trainer.prepare"]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGINGFACE"))}
    places = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "huggingface"), "PYTHONPATH": str(ROOT)}
    places |= {"DATASET": "org/none", "MODEL_NAME": "org/gated"}
    wanted = [(None, ["DATASET=org/none", "MODEL_NAME=org/gated"]), (TOKEN, ["DATASET=org/none"])]
    for token, names in wanted:
        key = {"HUGGINGFACE_API_KEY": token} if token else {}
        done = subprocess.run(command, cwd=tmp_path, env=kept | places | key, capture_output=True, text=True)
        error = json.loads(done.stdout.splitlines()[-1])["error"]
        assert (done.returncode, [line.split(":")[0] for line in error.splitlines()]) == (2, names), error
    assert not any(request.path.endswith("model.safetensors") for request in hub.requests)
