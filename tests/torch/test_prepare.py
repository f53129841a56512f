"""Data is prepared whole or not at all, and all rows that cannot be used are named."""

import json
import shutil

import pytest
import transformers

from sft.errors import DataError, SettingsError
from sft.run import lifecycle
from sft.settings.load import load
from sft.settings.stages import resolve
from sft.trainer.data import prepare, prepared_data
from tests.settings import decided

GOOD = {"question": "1 + 1?", "answer": "2"}


@pytest.fixture
def settings(tmp_path):
    (tmp_path / "rows").mkdir()
    return load(None, dataset=str(tmp_path / "rows"), data_path=tmp_path / "data", max_length=32)


def write(settings, name, *rows):
    path = f"{settings.dataset}/{name}"
    with open(path, "w") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return path


def test_all_bad_rows_of_all_files_are_named(settings, tiny):
    long = GOOD | {"question": "1" * 40}
    train = write(settings, "train.jsonl", GOOD, long, GOOD, {"question": "a"}, *[GOOD, long] * 6)
    held_out = write(settings, "validation.jsonl", GOOD, GOOD | {"answer": " "}, long, long)
    with pytest.raises(DataError) as caught:
        prepared_data.prepared_data(settings, tiny)
    *named, more = str(caught.value).splitlines()
    numbers = [(train, i) for i in (2, 4, 6, 8, 10, 12, 14, 16)] + [(held_out, i) for i in (2, 3)]
    assert [line.split(": ")[0] for line in named] == [f"{path}:{i}" for path, i in numbers]
    assert named[0].endswith(": no target token is left within MAX_LENGTH=32; raise MAX_LENGTH or remove the row")
    assert more == "and 1 more row that cannot be used"
    assert not list((settings.data_path / "prepared").iterdir())


@pytest.mark.parametrize("cores", [1, 2])
def test_columns_are_counted_in_every_process(cores, settings, tiny, monkeypatch):
    monkeypatch.setattr("sft.resources.cores", lambda: cores)
    rows = [{"instruction": "1 + 1?", "output": "2", "id": i, "notes": "x" * (i % 2)} for i in range(2500)]
    write(settings, "train.jsonl", *rows, *[GOOD] * 7)
    write(settings, "validation.jsonl", GOOD | {"source": "me"})
    _, found = prepared_data.prepared_data(settings, tiny)
    assert found.train.used_columns == {'["instruction", "output"]': 2500, '["question", "answer"]': 7}
    assert found.train.unused_columns == {"id": 2500, "notes": 1250}
    assert (found.validation.used_columns, found.validation.unused_columns) == (
        {'["question", "answer"]': 1},
        {"source": 1},
    )
    with pytest.raises(DataError, match=r"train.jsonl:2: `notes` is not used; give it a role with COLUMNS"):
        prepared_data.prepared_data(settings.model_copy(update={"use_columns": "refuse"}), tiny)


def test_prepared_data_is_found_again(settings, tiny):
    write(settings, "train.jsonl", *[GOOD] * 20)
    folder, found = prepared_data.prepared_data(settings, tiny)
    assert found.train.rows + found.validation.rows == 20
    assert prepared_data.prepared_data(settings, tiny) == (folder, found)
    write(settings, "train.jsonl", *[GOOD] * 21)
    assert prepared_data.prepared_data(settings, tiny)[0] != folder


def test_a_run_needs_the_file_of_its_ds_config_no_more(settings, tiny, tmp_path, monkeypatch):
    """A container does not see it, and it may be removed once the run is opened."""
    monkeypatch.chdir(tmp_path)
    config = tmp_path / "mine.json"
    config.write_text(json.dumps({"zero_optimization": {"stage": 2, "reduce_bucket_size": 5000}}))
    write(settings, "train.jsonl", *[GOOD] * 20)
    own = {"ds_config": "mine.json", "model_name": str(tiny), "precision": "fp32", "runs_path": tmp_path / "runs"}
    run = lifecycle.create(decided(**settings.model_dump() | own), "")
    config.unlink()
    assert prepare.prepare(run.settings(), run).train.rows == 19
    assert resolve(run.settings(), "cpu", "local", with_file=False).ds_config == "mine.json"
    broken = json.loads(run.ds_config.read_text())
    broken["zero_optimization"]["reduce_bucket_size"] = "many"
    run.ds_config.write_text(json.dumps(broken))
    with pytest.raises(SettingsError, match="DS_CONFIG=mine.json: DeepSpeed refuses it"):
        prepare.prepare(run.settings(), run)


def test_stops_that_the_model_does_not_have_are_no_stops(tiny, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(tiny, folder)
    configured = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps(configured | {"eos_token_id": [50256, 3, -1]}))
    found = prepared_data.tokeniser_of(decided(model_name=str(folder)), folder)
    eos = transformers.AutoTokenizer.from_pretrained(folder).eos_token_id
    assert found.probe.stops == sorted({3, eos})
