"""Data is prepared whole or not at all, and all rows that cannot be used are named."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import transformers

from sft.errors import DataError, SettingsError
from sft.run import lifecycle
from sft.run.records import RowCounts
from sft.settings.load import load
from sft.settings.stages import resolve
from sft.trainer import prepare
from sft.trainer.data import prepared_data, rows
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
    refusing = settings.model_copy(update={"long_rows": "refuse"})
    with pytest.raises(DataError) as caught:
        prepared_data.prepared_data(refusing, tiny)
    *named, more = str(caught.value).splitlines()
    numbers = [(train, i) for i in (2, 4, 6, 8, 10, 12, 14, 16)] + [(held_out, i) for i in (2, 3)]
    assert [line.split(": ")[0] for line in named] == [f"{path}:{i}" for path, i in numbers]
    assert named[0].endswith(" tokens are more than MAX_LENGTH=32; raise MAX_LENGTH, or set LONG_ROWS to cut or drop")
    assert more == "and 1 more row that cannot be used"
    assert not list((settings.data_path / "prepared").iterdir())


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def cut_short(path):
    path.write_bytes(path.read_bytes()[:-4])


@pytest.mark.parametrize("harm", [flip_a_bit, cut_short, Path.unlink])
def test_prepared_data_that_is_not_as_it_was_written_is_prepared_again(harm, settings, tiny, capsys):
    """Another token was trained on without a word, or memory ran out at an offset of a billion."""
    write(settings, "train.jsonl", *[GOOD] * 4)
    write(settings, "validation.jsonl", GOOD)
    folder, found = prepared_data.prepared_data(settings, tiny)
    names = sorted(path.relative_to(folder) for path in folder.rglob("*/*"))
    before = {name: (folder / name).read_bytes() for name in names}
    assert prepared_data.prepared_data(settings, tiny) == (folder, found)
    assert "is not as it was written" not in capsys.readouterr().err
    for name in names:
        harm(folder / name)
        assert prepared_data.prepared_data(settings, tiny) == (folder, found), name
        assert f"{folder}: is not as it was written; the rows are prepared again" in capsys.readouterr().err
        assert {name: (folder / name).read_bytes() for name in names} == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


@pytest.mark.parametrize("cores", [1, 2])
@pytest.mark.parametrize("long_rows", ["cut", "drop"])
def test_every_row_is_trained_held_out_or_dropped_and_keeps_its_number(long_rows, cores, settings, tiny, monkeypatch):
    monkeypatch.setattr("sft.resources.cores", lambda: cores)
    monkeypatch.setattr("sft.trainer.data.workers.MANY_ROWS", 50)
    settings = settings.model_copy(update={"long_rows": long_rows})
    kinds = [GOOD, GOOD | {"question": "1" * 40}, GOOD | {"answer": "1" * 40}]
    numbers = np.random.default_rng(1).choice(3, 400, p=[0.6, 0.2, 0.2])
    write(settings, "train.jsonl", *(kinds[i] for i in numbers))
    write(settings, "validation.jsonl", *(kinds[i] for i in numbers[:50]))
    folder, found = prepared_data.prepared_data(settings, tiny)
    kept = {"cut": (0, 2), "drop": (0,)}[long_rows]
    splits = {"train": (found.train, numbers), "validation": (found.validation, numbers[:50])}
    for name, (split, drawn) in splits.items():
        assert rows.Rows(folder / name).row_of.tolist() == np.flatnonzero(np.isin(drawn, kept)).tolist()
        assert split.conversations == np.isin(drawn, kept).sum() and split.read == len(drawn)
        assert split.cut_rows == (np.sum(drawn == 2) if long_rows == "cut" else 0)
    reason = {"cut": "no target is left within MAX_LENGTH", "drop": "longer than MAX_LENGTH"}[long_rows]
    assert list(found.train.dropped) == [reason]
    dropped = found.train.dropped_rows + found.validation.dropped_rows
    trained, held_out = found.train.conversations, found.validation.conversations
    assert found.row_counts == RowCounts(read=450, trained=trained, dropped=dropped, held_out=held_out)
    assert found.train.holds_all == found.train.holds_most > 32
    assert found.train.too_long == found.train.cut_rows + found.train.dropped_rows


def test_a_split_of_which_no_row_is_left_is_an_error_before_training(settings, tiny, tmp_path):
    long = GOOD | {"question": "1" * 40}
    write(settings, "train.jsonl", *[long] * 3)
    held_out = write(settings, "validation.jsonl", GOOD)
    settings = settings.model_copy(update={"model_name": str(tiny), "model_path": tmp_path / "models"})
    with pytest.raises(DataError) as caught:
        prepare.prepare(settings)
    what = "no training row is left (3 dropped: no target is left within MAX_LENGTH); raise it: "
    assert str(caught.value).startswith(f"MAX_LENGTH=32: {what}") and str(caught.value).endswith(" holds all of them")
    write(settings, "train.jsonl", GOOD)
    Path(held_out).write_text(json.dumps(long) + "\n")
    for _ in range(2):  # also from the cache
        with pytest.raises(DataError, match="no held-out row is left .*, or set EVALUATE=0 and EVAL_STEPS=0"):
            prepare.prepare(settings)
    found = prepare.prepare(settings.model_copy(update={"evaluate": False}))
    assert found.row_counts == RowCounts(read=2, trained=1, dropped=1, held_out=0)


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


def test_a_row_that_changes_what_the_model_computes_for_those_beside_it_is_refused(tmp_path):
    rope = {"rope_type": "longrope", "original_max_position_embeddings": 64}
    (tmp_path / "config.json").write_text(json.dumps({"rope_parameters": rope}))
    beside, alone = (load(None, model_name=str(tmp_path), batch_size=n, packing=n > 1) for n in (2, 1))
    prepare.check_frequencies(beside, tmp_path, 64)
    prepare.check_frequencies(alone, tmp_path, 65)
    with pytest.raises(
        SettingsError, match="^MAX_LENGTH=1024: beyond 64 tokens .* a row of 65 would .*; use 64 or less"
    ):
        prepare.check_frequencies(beside, tmp_path, 65)


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
