"""A resumed run uses the data, model and DeepSpeed file that it began with, or names what has changed."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from sft import hostfile
from sft.errors import SettingsError
from sft.host import provenance
from sft.host.launch.open import keep_template, open_run
from sft.run import lifecycle, typed_json
from sft.run.records import PreparedData, Split
from sft.settings import deepspeed
from sft.settings.fields import Settings
from sft.settings.load import DEMO_SETTINGS
from sft.settings.stages import Decided
from sft.trainer import prepare
from sft.trainer.data import base_model, identity, prepared_data, sources
from sft.trainer.model import tiny
from tests.settings import decided, decision

from ..unit.test_unfinished import checkpoint

ROWS = [{"question": f"{i} + 1?", "answer": f"{i + 1}"} for i in range(20)]


@pytest.fixture
def settings(tmp_path, tiny):
    """Settings of a run with local data and a local model."""
    (tmp_path / "data").mkdir()
    write(tmp_path / "data", ROWS)
    shutil.copytree(tiny, tmp_path / "model")
    given = {"dataset": str(tmp_path / "data"), "model_name": str(tmp_path / "model"), "run_name": "a"}
    given |= {name: tmp_path / name for name in ("data_path", "model_path", "runs_path")}
    return decided(defaults=DEMO_SETTINGS | given)


def write(folder, rows):
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def run(settings):
    """A run whose first start has noted its inputs."""
    run = lifecycle.create(settings, hostfile.hostfile(2, 1))
    provenance.note_project(run, deepspeed.read(settings))
    start(run)
    return run


def start(run):
    """Make a run's inputs ready and note them, as its node 0 does; return what is said."""
    provenance.note_machine(run)
    prepared = prepare.prepare(run.settings(), run)
    typed_json.write(run.prepared, prepared)
    provenance.note_inputs(run)
    return prepared.said


def edited(settings):
    write(sources.dataset_folder(settings), [{"question": "2 + 2?", "answer": "5"}, *ROWS])


def test_edited_rows_are_refused_by_name_and_the_record_stays(run, settings):
    checkpoint(run, 16)
    before = run.environment.read_bytes()
    edited(settings)
    with pytest.raises(SettingsError) as caught:
        prepare.prepare(run.settings(), run)
    assert str(caught.value) == (
        f"DATASET={settings.dataset}: its rows are not those that the run began with (train.jsonl has "
        "changed); restore them, or start over with FRESH=1"
    )
    assert run.environment.read_bytes() == before
    write(sources.dataset_folder(settings), ROWS)
    assert prepare.prepare(run.settings(), run).said == []


def test_a_held_out_file_that_came_later_is_refused(run, settings):
    checkpoint(run, 16)
    (sources.dataset_folder(settings) / "validation.jsonl").write_text(json.dumps(ROWS[0]) + "\n")
    with pytest.raises(SettingsError, match=r"\(validation\.jsonl is new\)"):
        prepare.prepare(run.settings(), run)


def test_a_file_that_changes_no_row_is_no_other_data(run, settings):
    checkpoint(run, 16)
    write(sources.dataset_folder(settings), [{"answer": row["answer"], "question": row["question"]} for row in ROWS])
    assert prepare.prepare(run.settings(), run).said == []


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
def test_another_model_in_the_same_folder_is_refused_by_file(run, settings, name):
    checkpoint(run, 16)
    path = base_model.base_model(settings) / name
    text = bytearray(path.read_bytes())
    if name == "model.safetensors":
        text[len(text) // 2] ^= 1  # of the same size
    path.write_bytes(bytes(text) if name == "model.safetensors" else bytes(text) + b"\n")
    with pytest.raises(SettingsError, match=rf"it is not the model that the run began with \({name} has changed"):
        prepare.prepare(run.settings(), run)


def test_notes_beside_a_model_are_no_other_model(run, settings):
    checkpoint(run, 16)
    (base_model.base_model(settings) / "README.md").write_text("mine")
    assert prepare.prepare(run.settings(), run).said == []


def test_a_matrix_in_the_middle_of_a_large_file_is_seen(tmp_path):
    path = tmp_path / "model.safetensors"
    with path.open("wb") as file:
        file.truncate(3 * identity.STRIDE_BYTES)
    before = identity.sampled_hash(path)
    with path.open("r+b") as file:
        file.seek(identity.STRIDE_BYTES // 2)
        file.write(b"\1" * identity.STRIDE_BYTES)
    assert identity.sampled_hash(path) != before


def test_without_a_checkpoint_a_run_starts_over_with_the_rows_of_now_and_says_so(run, settings):
    run.evaluation.write_text('{"before": {}}')
    edited(settings)
    said = []
    with open_run(decision(settings), said.append):
        said += start(run)
    assert said[1:] == [
        f"DATASET={settings.dataset}: its rows are not those that the run began with (train.jsonl has "
        "changed): without a checkpoint, the run starts over with what is there now"
    ]
    assert not run.evaluation.exists()  # of the base model on other rows
    noted = provenance.read(run)
    assert noted.began.inputs.data_hash != noted.earlier_starts[0].inputs.data_hash
    assert noted.later_starts == []
    checkpoint(run, 16)
    assert prepare.prepare(run.settings(), run).said == []


def test_a_trained_model_is_evaluated_on_other_rows_only_with_a_word(run, settings):
    run.final.mkdir()
    edited(settings)
    (line,) = prepare.prepare(run.settings(), run).said
    assert line.endswith("(train.jsonl has changed): so the evaluation is of other rows or another model")


def test_an_evaluation_has_the_chat_template_of_the_run_whatever_became_of_the_file(settings, tmp_path):
    file = tmp_path / "mine.jinja"
    file.write_text(tiny.CHAT_TEMPLATE.replace("<user>", "<user>Please: "))
    run = lifecycle.create(Decided.of(settings, chat_template=str(file), run_name="b"), hostfile.hostfile(2, 1))
    keep_template(run, run.settings())
    trained = prepare.prepare(run.settings(), run)
    run.final.mkdir()
    file.write_text(tiny.CHAT_TEMPLATE)
    again = lifecycle.evaluate_again(run, run.settings())
    assert prepare.prepare(again.settings(), again).inputs.data_hash == trained.inputs.data_hash
    file.unlink()
    again = lifecycle.evaluate_again(run, run.settings())
    assert prepare.prepare(again.settings(), again).inputs.data_hash == trained.inputs.data_hash


def test_a_trained_model_is_not_asked_in_the_tokens_of_another_tokenizer(run, settings):
    checkpoint(run, 16)
    run.final.mkdir()
    model = Path(settings.model_name)
    model.joinpath("generation_config.json").write_text('{"max_length": 7}')
    (line,) = start(run)
    assert line.endswith("so the evaluation is of other rows or another model")
    file = model / "tokenizer.json"
    file.write_text(file.read_text() + " ")
    with pytest.raises(SettingsError) as caught:
        start(run)
    (line,) = caught.value.problems
    assert line.startswith(f"MODEL_NAME={model}: its tokenizer is not the one that the run's model was trained with ")
    assert f"(tokenizer.json has changed); restore it; `make train MODEL_NAME={run.final}` evaluates" in line


def test_a_resumed_run_keeps_the_record_of_its_first_start(run, settings):
    checkpoint(run, 16)
    first = provenance.read(run)
    with open_run(decision(settings), lambda line: None):
        start(run)
    noted = provenance.read(run)
    (later,) = noted.later_starts
    assert noted == replace(first, later_starts=[later])
    assert later.opened_at > first.began.opened_at and later.inputs == first.began.inputs


def test_versions_that_differ_from_the_first_start_are_said(run, settings):
    checkpoint(run, 16)
    noted = provenance.read(run)
    torch = noted.began.packages["torch"]
    noted.began.packages["torch"] = "2.0.0"
    provenance.write(run, noted)
    with open_run(decision(settings), lambda line: None):
        start(run)
    assert provenance.since_it_began(run) == [f"packages.torch was 2.0.0, is {torch}"]


@pytest.mark.parametrize("spoilt", ["", "{", "[]", None])
def test_a_lost_record_is_said(run, spoilt):
    checkpoint(run, 16)
    run.environment.unlink() if spoilt is None else run.environment.write_text(spoilt)
    (line,) = prepare.prepare(run.settings(), run).said
    assert line == f"{run.environment} does not say what the run began with, so nothing can be compared"


# DS_CONFIG


@pytest.fixture
def own_file(settings, tmp_path):
    """Settings with a DeepSpeed file of the user's own, and a run that began with it."""
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"zero_optimization": {"stage": 2, "reduce_bucket_size": 1000}}))
    settings = settings.model_copy(update={"ds_config": str(path)})
    run = lifecycle.create(settings, hostfile.hostfile(2, 1))
    provenance.note_project(run, deepspeed.read(settings))
    run.update_state("stopped", step=20)
    path.write_text(json.dumps({"zero_optimization": {"stage": 1, "reduce_bucket_size": 1000}, "steps_per_print": 7}))
    return settings, run


def test_an_edited_deepspeed_file_is_refused_by_what_changed(own_file):
    settings, run = own_file
    checkpoint(run, 16)
    before = run.ds_config.read_bytes()
    with pytest.raises(SettingsError) as caught, open_run(decision(settings), print):
        pass
    assert str(caught.value) == (
        f"DS_CONFIG={settings.ds_config}: its file is not what the run began with (zero_optimization.stage was 2, is "
        "1, steps_per_print was None, is 7); restore it, or start over with FRESH=1"
    )
    assert run.ds_config.read_bytes() == before and run.state().status == "stopped"


def test_without_a_checkpoint_the_deepspeed_file_of_now_counts(own_file):
    settings, run = own_file
    said = []
    with open_run(decision(settings), said.append):
        pass
    assert any(line.endswith("no checkpoint is left, and the run starts over with it") for line in said)
    assert json.loads(run.ds_config.read_text())["zero_optimization"]["stage"] == 1


def test_a_file_of_the_project_that_an_update_changed_ends_no_run(settings, run):
    noted = provenance.read(run)
    noted.began.deepspeed_file["zero_optimization"]["reduce_bucket_size"] = 12345
    provenance.write(run, noted)
    checkpoint(run, 16)
    said = []
    with open_run(decision(settings.model_copy(update={"nodes": 1, "batch_size": 32})), said.append):
        pass
    assert any(line.endswith("; the run continues with what it began with") for line in said)
    assert json.loads(run.ds_config.read_text())["zero_optimization"]["reduce_bucket_size"] == 12345


# The hub


def test_a_resumed_run_asks_the_hub_for_the_commits_that_it_began_with(run):
    noted = provenance.read(run)
    inputs = replace(noted.began.inputs, model_commit="c" * 40, dataset_commit="d" * 40)
    provenance.write(run, replace(noted, began=replace(noted.began, inputs=inputs)))
    assert identity.pinned(run, run.settings()) == (run.settings(), {})  # nothing is saved: with those of now
    checkpoint(run, 16)
    settings, commits = identity.pinned(run, run.settings())
    assert (settings.model_revision, commits) == ("c" * 40, {settings.dataset: "d" * 40})


def test_prepared_data_of_another_commit_of_the_branch_is_not_taken(settings, tiny):
    of_hub = Settings.of(settings, dataset="openai/gsm8k", dataset_revision="main")
    for revision, commit in (("main", "e" * 40), ("d" * 40, "d" * 40)):
        key = prepared_data.cache_key(of_hub.model_copy(update={"dataset_revision": revision}), tiny)
        folder = settings.data_path / "prepared" / key
        folder.mkdir(parents=True)
        split = Split(rows=1, tokens=3, target_tokens=1, longest=3, cut_rows=0)
        digest = prepared_data.content_hash(folder)
        made = PreparedData(train=split, validation=split, hash=digest, commit=commit, settings={})
        typed_json.write(folder / "manifest.json", made)
    assert prepared_data.prepared_data(of_hub, tiny)[1].commit == "e" * 40
    for commit in ("d" * 40, "e" * 40):
        assert prepared_data.prepared_data(of_hub, tiny, {"openai/gsm8k": commit})[1].commit == commit
