"""What a plan is made for: shapes, rows, and cards that are here or imagined."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from sft.errors import SettingsError, UserError
from sft.host import gpus
from sft.host.launch.decide import decide
from sft.host.plan import lookup, view, workload
from sft.host.plan.conditions import Options, conditions
from sft.host.plan.plan import Plan
from sft.host.plan.shapes import Shape
from sft.run import records, typed_json
from sft.settings.load import load
from sft.settings.stages import resolve
from tests.unit.plan.planning import card_here, planned


def test_a_shape_is_found_in_a_folder_and_in_the_cache(tmp_path):
    config = json.dumps(lookup.BUILT_IN["tiny"])
    snapshot = tmp_path / "models" / "models--a--b" / "snapshots" / "1234"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text(config)
    (tmp_path / "models" / "models--a--b" / "refs").mkdir()
    (tmp_path / "models" / "models--a--b" / "refs" / "main").write_text("1234")
    assert lookup.need(load(None, model_name="a/b")).layers == 2
    assert lookup.find(load(None, model_name="a/c")) is None
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "config.json").write_text(config)
    assert lookup.need(load(None, model_name="./own")).hidden == 128


def test_any_card_is_planned_for_by_its_memory():
    found = planned("", 1, gpu_gib=16)
    assert found.conditions.free_gib == pytest.approx(15.65) and found.conditions.card.name == "GPU of 16 GiB"
    assert found.conditions.notes == ("times are those of RTX 4090 (`make plan GPU=NAME` plans for another)",)
    laptop = planned("RTX 4090 Laptop", 1, gpu_gib=16)
    assert laptop.conditions.notes == ("RTX 4090 Laptop is not in the plan's table: times are those of RTX 4090",)
    assert planned("V100", 1, gpu_gib=32).conditions.card.name == "V100 32GB"
    smaller = planned("3060", 1, gpu_gib=8)
    assert smaller.conditions.card.bandwidth_gb_s == 360 and smaller.conditions.free_gib == pytest.approx(7.65)
    with pytest.raises(UserError, match="GPU_GIB=nan: is not a number above 0; use one such as 24"):
        Options.of(gpu_gib="nan")


@pytest.mark.parametrize("gpu", ["T4", "V100 16GB", "2080 Ti"])
def test_cards_without_bf16_train_in_fp16(gpu):
    found = planned(gpu, 1)
    assert found.settings.precision == "fp16" and not found.job.fused
    assert any(
        "has no bf16: PRECISION=auto is fp16, with dynamic loss scaling" in note for note in found.conditions.notes
    )
    in_fp32 = planned(gpu, 1, precision="fp32")
    assert in_fp32.settings.precision == "fp32" and not any("bf16" in note for note in in_fp32.conditions.notes)
    with pytest.raises(SettingsError, match="PRECISION=bf16: these GPUs have no bf16: .*; use fp16, fp32, or auto"):
        planned(gpu, 1, precision="bf16")


def test_a_run_on_cards_without_bf16_is_in_fp16(monkeypatch):
    old = [replace(card, name="Tesla T4", capability=(7, 5)) for card in card_here()]
    monkeypatch.setattr(gpus, "visible", lambda: old)
    settings = decide(load(None, launcher="local")).settings
    assert settings.precision == "fp16"
    assert conditions(settings, old).card.has_bf16 is False


def test_a_card_that_is_not_in_the_table_is_planned_with_its_own_memory(monkeypatch):
    monkeypatch.setattr(gpus, "visible", lambda: card_here("NVIDIA Something 1"))
    found = Plan.of(resolve(load(None), "cuda", "local"), conditions(load(None), gpus.visible()))
    assert found.conditions.notes[0] == "NVIDIA Something 1 is not in the plan's table: times are those of RTX 4090"


def test_prepared_rows_are_found_by_the_settings_that_they_were_made_for(tmp_path):
    settings = load(None)
    folder = tmp_path / "data" / "prepared" / "abc"
    folder.mkdir(parents=True)
    part = records.Split(rows=10, tokens=500, target_tokens=100, longest=90, cut_rows=0)
    manifest = records.PreparedData(train=part, validation=part, hash="", commit=None, settings=settings.of_data())
    typed_json.write(folder / "manifest.json", manifest)
    found = workload.rows_of(settings)
    assert (found.rows, found.tokens_per_row, found.target_share, found.longest) == (10, 50, 0.2, 90)
    assert found.source == "counted in data/prepared/abc"
    assert workload.rows_of(load(None, max_length=512)).rows == 7473


def test_rows_that_nobody_counted():
    typical = workload.rows_of(load(None, dataset="a/b", max_length=128))
    assert (typical.tokens_per_row, typical.longest) == (128, 128)
    assert typical.source == "GSM8K's usual figures, as a/b is not prepared yet (`make setup`)"
    given = workload.rows_of(load(None, dataset="a/b"), tokens_per_row=700, rows=1000)
    assert (given.rows, given.tokens_per_row, given.longest) == (1000, 700, 1024)


@pytest.mark.parametrize(
    ("sequences", "budget", "largest"), [(16, 4096, 940), (512, 4096, 4062), (450, 4096, 4096), (16, 600, 600)]
)
def test_the_largest_micro_step_to_expect(sequences, budget, largest):
    assert workload.largest(workload.GSM8K, sequences, 4, budget) == largest


def test_a_model_of_a_shape_has_its_own_name():
    config = json.dumps(lookup.BUILT_IN["meta-llama/Llama-3.1-8B"])
    cached = Path("hub/models--Qwen--Qwen2.5-7B/snapshots/abc")
    for folder in (cached, Path("mine/Mistral-7B")):
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(config)
    Path("llama31-8b.json").write_text(config)
    names = {"llama31-8b.json": "llama31-8b", "mine/Mistral-7B/config.json": "Mistral-7B"}
    for path, name in (names | {f"{cached}/config.json": "Qwen/Qwen2.5-7B"}).items():
        found = planned(shape=path)
        assert next(view.full_lines(found)) == f"{name}: 8.03 billion weights, bf16"
        assert found.summary().model == name


def test_errors_are_one_line():
    with pytest.raises(
        SettingsError, match=r"MODEL_NAME=a/b: its config.json is not in MODEL_PATH=models; `make setup`"
    ):
        planned(model_name="a/b")
    with pytest.raises(UserError) as caught:
        Options.of("4090", gpus="-1", rows="many", host_gib="10.5")
    assert str(caught.value).splitlines() == [
        "GPUS=-1: is not a number above 0; use one such as 4",
        "ROWS=many: is not a number above 0; use one such as 4",
    ]
    with pytest.raises(UserError, match="GPUS=65: is out of range; use at most 64"):
        planned(number=65)
    with pytest.raises(UserError, match="^SHAPE=nowhere.json: No such file"):
        planned(shape="nowhere.json")
    Path("empty").mkdir()
    with pytest.raises(SettingsError, match=r"MODEL_NAME=./empty: is an empty folder"):
        planned(model_name="./empty")
    Path("half.json").write_text('{"vocab_size": 3}')
    with pytest.raises(
        UserError, match="half.json: has no hidden_size; give the config.json of a causal language model"
    ):
        planned(shape="half.json")


FAMILIES = {
    "mpt": {"d_model": 64, "n_layers": 2, "n_heads": 4, "vocab_size": 100},
    "xglm": {"d_model": 64, "num_layers": 2, "attention_heads": 4, "ffn_dim": 256, "vocab_size": 100},
    "mamba": {"hidden_size": 64, "num_hidden_layers": 2, "state_size": 16, "expand": 2, "vocab_size": 100},
    "dbrx": {"d_model": 64, "n_layers": 2, "n_heads": 4, "vocab_size": 100},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_familys_names_are_read_and_a_guess_says_so(family):
    found = Shape.of(FAMILIES[family] | {"model_type": family}, "config.json")
    assert (found.layers, found.hidden, found.vocabulary) == (2, 64, 100)
    assert bool(found.doubt) is (family == "mamba") and found.weights > 2 * 12 * 64 * 64 / 2
