"""The plan against what was measured (benchmarks/README.md), and what it decides and refuses."""

import io
import json
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from sft import resources
from sft.errors import SettingsError, UserError
from sft.host import gpus
from sft.host.commands import train
from sft.host.launch.decide import decide
from sft.host.launch.launcher import LAUNCHERS
from sft.host.launch.local import Local
from sft.host.plan import advice, alternatives, cards, planner, shapes, view, workload
from sft.host.plan.conditions import Options, conditions
from sft.host.plan.job import GIB, Job
from sft.host.plan.memory import gpu_memory, host_memory, tokens_that_fit
from sft.host.plan.plan import Plan
from sft.host.plan.shapes import Shape
from sft.host.plan.timing import step_timing
from sft.run import records, typed_json
from sft.run.directory import Run
from sft.settings.load import load
from sft.settings.stages import resolve
from tests.e2e.project import free_port
from tests.settings import decided

ROOT = Path(__file__).resolve().parents[2]
ONE_B, THREE_B, EIGHT_B = (Shape.of(config, name) for name, config in list(shapes.BUILT_IN.items())[:3])
H100 = cards.need("H100")
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """A folder without models and data, a machine without GPUs and with 64 GiB to spare."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(gpus, "visible", lambda: [])
    monkeypatch.setattr(resources, "available_bytes", lambda: 64 * GIB)


def planned(gpu="4090", number=4, **settings):
    names = ("host_gib", "gpu_gib", "tokens_per_row", "rows", "shape")
    options = {name: settings.pop(name) for name in names if name in settings}
    return planner.plan_with(load(None, **settings), Options(gpu, number, **options))


# Measured


MEASURED = [  # tokens and number of micro-steps, ranks, settings, not Liger, not persistent: peak GiB, tokens/s
    (660, 1, 1, {}, 24.08, 3_725),
    (16_353, 1, 1, {}, 38.79, 51_914),
    (12_150, 4, 1, {}, 34.42, 60_521),
    (16_257, 4, 1, {}, 39.05, 62_288),
    (16_257, 4, 1, {"compile": True}, 39.2, 64_097),
    (32_376, 4, 1, {"compile": True}, 57.7, 69_626),
    (16_353, 1, 1, {"fused": False}, 47.8, 41_771),
    (16_257, 4, 2, {}, 32.17, 120_497),
    (16_257, 4, 2, {"persistent": False}, 33.07, 110_905),
    (16_290, 1, 2, {"persistent": False}, 33.1, 87_495),
    (16_257, 4, 2, {"ds_config": "zero2"}, 31.03, 118_074),
]


@pytest.mark.parametrize(("tokens", "micro_steps", "ranks", "settings", "peak_gib", "speed"), MEASURED)
def test_the_plan_is_near_what_was_measured(tokens, micro_steps, ranks, settings, peak_gib, speed):
    chosen = dict(settings)
    persistent, fused = chosen.pop("persistent", ranks > 1), chosen.pop("fused", True)
    chosen |= {"nodes": 1, "gpus_per_node": ranks, "precision": "bf16"}
    job = Job.of(load(None, **chosen), ONE_B, H100, fused=fused)
    job = replace(job, persistent=persistent and job.stage == 3, sub_group=1_000_000_000)  # as it was then
    job = replace(job, bucket=job.trained if ranks == 1 else job.bucket)
    work = workload.Work(1, tokens * micro_steps * ranks, tokens * micro_steps, micro_steps, tokens, tokens)
    found = gpu_memory(job, tokens, workload.GSM8K.target_share, micro_steps)
    assert found.allocated / GIB == pytest.approx(peak_gib, rel=0.02)
    assert step_timing(job, work, workload.GSM8K).tokens_per_second == pytest.approx(speed, rel=0.18)


HALF_B = Shape.of(
    {"vocab_size": 151936, "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24}
    | {"num_attention_heads": 14, "num_key_value_heads": 2, "head_dim": 64, "tie_word_embeddings": True},
    "0.5B",
)
WHOLE = 10**12  # one bucket for the whole model, as it was on one GPU
SINCE = [  # shape, rows a step, settings, budget, recompute, bucket: peak GiB, tokens/s
    (ONE_B, 4, {}, 2304, 0, WHOLE, 23.08, 3_766),
    (ONE_B, 256, {}, 4096, 0, WHOLE, 25.06, 29_164),
    (ONE_B, 256, {}, 16384, 0, WHOLE, 38.66, 60_641),
    (ONE_B, 256, {}, 16384, 1, WHOLE, 23.08, 51_426),
    (ONE_B, 256, {"ds_config": "zero2"}, 8192, 0, WHOLE, 32.79, 47_492),
    (ONE_B, 256, {"ds_config": "zero2"}, 16384, 1, WHOLE, 25.94, 51_127),
    (ONE_B, 256, {"precision": "fp16"}, 8192, 0, WHOLE, 29.57, 49_288),
    (ONE_B, 256, {"lora_rank": 16}, 16384, 0, 0, 22.28, 54_587),
    (ONE_B, 256, {"compile": 1}, 32768, 0, WHOLE, 47.86, 64_042),
    (ONE_B, 256, {}, 20224, 1, 0, 21.58, 50_171),
    (HALF_B, 256, {}, 16384, 0, WHOLE, 23.69, 69_453),
    (HALF_B, 256, {"ds_config": "zero2"}, 32768, 1, WHOLE, 11.60, 75_532),
    (HALF_B, 256, {"ds_config": "zero2"}, 13824, 0, WHOLE, 20.47, 51_847),
    (ONE_B, 720, {"gpus_per_node": 2}, 16384, 0, 0, 32.07, 121_868),
    (ONE_B, 720, {"gpus_per_node": 2, "ds_config": "zero2"}, 16384, 0, 0, 30.93, 122_576),
    (THREE_B, 64, {"lora_rank": 16, "ds_config": "zero2"}, 6144, 0, 0, 22.39, 17_377),
    (THREE_B, 64, {"lora_rank": 16, "ds_config": "zero2", "lora_base_bits": 4}, 7680, 0, 0, 18.49, 12_343),
    (THREE_B, 64, {"ds_config": "zero3_offload"}, 5888, 0, 0, 22.06, 2_953),
    (EIGHT_B, 64, {"lora_rank": 16, "ds_config": "zero2"}, 14848, 1, 0, 20.82, 9_344),
    (EIGHT_B, 64, {"lora_rank": 16, "ds_config": "zero2", "lora_base_bits": 4}, 3328, 0, 0, 20.13, 5_320),
]


@pytest.mark.parametrize(
    ("shape", "sequences", "settings", "budget", "recompute", "bucket", "peak_gib", "speed"), SINCE
)
def test_peak_and_speed_are_near_what_was_measured_since(
    shape, sequences, settings, budget, recompute, bucket, peak_gib, speed
):
    chosen = {"nodes": 1, "gpus_per_node": 1, "precision": "bf16", "global_batch_size": sequences} | settings
    chosen |= {"max_tokens_per_micro_step": budget, "gradient_checkpointing": recompute, "max_length": 561}
    settings = load(None, **chosen)
    job = Job.of(settings, shape, H100)
    job = replace(job, bucket=bucket or job.bucket)
    work = workload.work(settings, workload.GSM8K, budget)
    found = gpu_memory(job, work.largest, workload.GSM8K.target_share, work.micro_steps)
    assert found.allocated / GIB == pytest.approx(peak_gib, rel=0.1)
    assert step_timing(job, work, workload.GSM8K).tokens_per_second == pytest.approx(speed, rel=0.25)


def test_memory_of_one_layer_by_hand():
    job = Job.of(load(None, precision="bf16"), ONE_B, H100)
    # input, normalised, query, attention's output, second input, normalised: 6; key and value; gate, up, product
    assert job.layer_bytes == 2 * (6 * 2048 + 2 * 512 + 3 * 8192)
    few, many = (gpu_memory(job, tokens, 0.5, 1).moments["forward"].activations for tokens in (1000, 2000))
    assert many == 2 * few


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_states_are_sharded_as_zero_says(stage):
    settings = load(None, precision="bf16", ds_config=f"zero{stage}")
    parts = gpu_memory(Job.of(settings, EIGHT_B, H100), 1000, 0.5, micro_steps=2).moments["forward"]
    weights = EIGHT_B.weights
    assert parts.weights == 2 * weights / (4 if stage == 3 else 1)
    assert parts.gradients == 2 * weights / (1 if stage == 1 else 4)
    assert parts.optimizer == 12 * weights / 4
    assert (parts.buckets > 0) == (stage == 3)  # gathered for a while


def test_offload_and_lora_need_less():
    def peak(ds_config="zero3", lora_rank=0):
        job = Job.of(load(None, precision="bf16", ds_config=ds_config, lora_rank=lora_rank), THREE_B, H100)
        return gpu_memory(job, 2000, 0.6, 1).peak, host_memory(job).offloaded / THREE_B.weights

    full, offloaded, adapted = peak(), peak("zero3_offload"), peak(lora_rank=16)
    assert offloaded[0] < full[0] and adapted[0] < full[0]
    assert (full[1], offloaded[1], adapted[1]) == (0, 18, 0)


@pytest.mark.parametrize(
    ("settings", "bytes_a_weight"),
    [  # measured: 12.0 bytes a weight under ZeRO-3, with and without offload, 14.0 under ZeRO-2
        ({"ds_config": "zero3"}, 12),
        ({"ds_config": "zero3_offload"}, 12),
        ({"ds_config": "zero2"}, 14),
        ({"ds_config": "zero1"}, 14),
    ],
)
def test_a_save_copies_weights_and_optimizer_to_the_machines_memory(settings, bytes_a_weight):
    found = planned(model_name="meta-llama/Llama-3.1-8B", host_gib=300, **settings)
    assert found.host.save == bytes_a_weight * EIGHT_B.weights
    assert found.host.export == 2 * EIGHT_B.weights
    assert found.summary().host_gib == pytest.approx(
        (found.host.offloaded + bytes_a_weight * EIGHT_B.weights) / GIB, abs=0.001
    )


def test_of_an_adapters_run_the_adapter_is_saved_and_the_merged_model_exported():
    found = planned(model_name="meta-llama/Llama-3.1-8B", lora_rank=16, ds_config="zero2")
    assert found.host.save == 14 * EIGHT_B.lora_weights(16) and found.host.export == 2 * EIGHT_B.weights
    assert found.fits and found.saves_beside_training


def test_without_room_for_the_copy_training_waits_and_without_room_for_the_export_nothing_starts():
    settings = {"model_name": "meta-llama/Llama-3.1-8B", "gpu": "H100", "tokens_per_row": 180}
    roomy, tight, small = (planned(host_gib=gib, **settings) for gib in (100, 50, 12))
    waits = "no room for the copy: training waits while a checkpoint is written"
    assert roomy.fits and roomy.saves_beside_training and waits not in "\n".join(view.whole(roomy))
    assert tight.fits and not tight.saves_beside_training and waits in "\n".join(view.whole(tight))
    assert not advice.problem(tight) and not tight.summary().saves_beside_training
    assert not small.fits
    assert advice.problem(small) == (
        "does not fit: meta-llama/Llama-3.1-8B: its export needs 15.0 GiB of the machine's memory, 12.0 GiB can be "
        "used; use a smaller model, or end what fills the memory"
    )


def test_a_quantised_base_is_the_layers_matrices():
    settings = {"precision": "bf16", "lora_rank": 16, "ds_config": "zero2", "nodes": 1, "gpus_per_node": 1}
    adapted, quantised = (Job.of(load(None, lora_base_bits=bits, **settings), EIGHT_B, H100) for bits in (16, 4))
    matrices = 32 * (4096 * (4096 + 1024) * 2 + 3 * 4096 * 14336)
    saved = adapted.weight_bytes - quantised.weight_bytes
    assert saved == pytest.approx(matrices * (2 - 0.516), rel=1e-3)
    before, after = (gpu_memory(job, 1000, 0.6, 1) for job in (adapted, quantised))
    unpacked = 4096 * 14336 * (2 + 1 / 16)
    assert before.peak - after.peak == pytest.approx(saved - unpacked)
    work = workload.Work(1, 8000, 8000, 1, 8000, 8000)
    slower, faster = (step_timing(job, work, workload.GSM8K).step_s for job in (quantised, adapted))
    assert 1 < slower / faster < 1.2


def test_a_mixtures_experts_are_not_quantised():
    config = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
    shape = Shape.of(SIZES | HEADS | config | {"model_type": "qwen3_moe", "head_dim": 8}, "")
    assert shape.linear_weights == 2 * shape.attention_weights


def test_recomputing_costs_time_and_saves_memory():
    work = workload.Work(1, 8000, 8000, 1, 8000, 8000)
    kept, recomputed = (
        Job.of(load(None, precision="bf16", gradient_checkpointing=value), ONE_B, H100) for value in (0, 1)
    )
    assert gpu_memory(recomputed, 8000, 0.6, 1).peak < gpu_memory(kept, 8000, 0.6, 1).peak
    ratio = (
        step_timing(recomputed, work, workload.GSM8K).computing_s / step_timing(kept, work, workload.GSM8K).computing_s
    )
    assert 1.2 < ratio < 1.45


def test_the_most_tokens_that_fit_are_the_most():
    job = Job.of(load(None, precision="bf16"), ONE_B, cards.need("4090"))
    found = tokens_that_fit(job, 20 * GIB, 0.6, 32768)
    assert found % 256 == 0
    assert gpu_memory(job, found, 0.6, 2).peak <= 20 * GIB < gpu_memory(job, found + 256, 0.6, 2).peak
    assert tokens_that_fit(job, 1 * GIB, 0.6, 32768) == 0


# Shapes, cards, rows


SIZES = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "pad_token_id": 0}


def test_a_shape_is_found_in_a_folder_and_in_the_cache(tmp_path):
    config = json.dumps(shapes.BUILT_IN["tiny"])
    snapshot = tmp_path / "models" / "models--a--b" / "snapshots" / "1234"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text(config)
    (tmp_path / "models" / "models--a--b" / "refs").mkdir()
    (tmp_path / "models" / "models--a--b" / "refs" / "main").write_text("1234")
    assert shapes.need(load(None, model_name="a/b")).layers == 2
    assert shapes.find(load(None, model_name="a/c")) is None
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "config.json").write_text(config)
    assert shapes.need(load(None, model_name="./own")).hidden == 128


@pytest.mark.parametrize(
    ("name", "card"),
    [
        ("4090", "RTX 4090"), ("rtx4090", "RTX 4090"), ("NVIDIA GeForce RTX 4090", "RTX 4090"), ("h100", "H100"),
        ("NVIDIA H100 80GB HBM3", "H100"), ("NVIDIA H100 PCIe", "H100 PCIe"), ("a100-40", "A100 40GB"),
        ("NVIDIA A100-SXM4-80GB", "A100 80GB"), ("NVIDIA RTX 6000 Ada Generation", "RTX 6000 Ada"),
        ("Quadro RTX 6000", "Quadro RTX 6000"), ("Tesla T4", "T4"), ("Tesla V100-PCIE-32GB", "V100 32GB"),
        ("NVIDIA A100 80GB PCIe", "A100 80GB"), ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", "A100 40GB"),
        ("3060", "RTX 3060"), ("rtx4070tisuper", "RTX 4070 Ti SUPER"), ("4060 Ti 16", "RTX 4060 Ti 16GB"),
        ("2080", "RTX 2080"), ("NVIDIA GeForce RTX 4090 D", "RTX 4090 D"), ("A10", "A10"), ("A10G", "A10G"),
        ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", "RTX PRO 6000 Blackwell"),
    ],
)  # fmt: skip
def test_cards_are_found_by_the_names_that_people_and_drivers_use(name, card):
    assert cards.need(name).name == card


def test_every_card_is_found_by_its_own_name():
    for card in cards.CARDS:
        assert cards.need(card.name) == cards.need(f"NVIDIA {card.name}") == card


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("RTX 6000", "3 cards have this name; use Quadro RTX 6000 or RTX 6000 Ada or RTX PRO 6000 Blackwell"),
        ("A100", "2 cards have this name; use A100 40GB or A100 80GB"),
        ("V100", "2 cards have this name; use V100 16GB or V100 32GB"),
        ("4060 Ti", "2 cards have this name; use RTX 4060 Ti 8GB or RTX 4060 Ti 16GB"),
        ("4900", "is not a card that the plan knows; did you mean RTX 4090 or RTX 4090 D or Quadro RTX 4000? "),
        ("RTX 3050", "is not a card that the plan knows; did you mean RTX 3060 or RTX 3060 Ti or RTX 3070? "),
        ("RTX 4090 Laptop GPU", "is not a card that the plan knows; did you mean RTX 4090 or RTX 4090 D? "),
        ("P4", "is not a card that the plan knows; GPU_GIB=N plans for any card with that much memory"),  # never L4
        ("P100", "is not a card that the plan knows; GPU_GIB=N plans for any card with that much memory"),
        ("", "is not a card that the plan knows; GPU_GIB=N plans for any card with that much memory"),
    ],
)
def test_a_name_that_may_mean_several_cards_or_none_is_asked_back(name, said):
    with pytest.raises(UserError) as caught:
        cards.need(name)
    assert str(caught.value).startswith(f"GPU={name}: {said}")


def test_a_card_that_is_here_is_known_by_its_memory_where_its_name_is_not_enough():
    assert cards.find("NVIDIA GeForce RTX 4060 Ti", 15.99).name == "RTX 4060 Ti 16GB"
    assert cards.find("NVIDIA GeForce RTX 4060 Ti", 8.0).name == "RTX 4060 Ti 8GB"
    assert cards.find("NVIDIA GeForce RTX 4090 Laptop GPU", 16.0) is None


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


# What is decided


def test_the_seeds_defaults_on_four_4090s():
    found = planned()
    assert found.fits and not found.settings.gradient_checkpointing
    assert found.settings.max_tokens_per_micro_step == 2304  # four rows as long as the longest, 561
    assert found.work.steps == 936 and found.work.micro_steps == 1


def test_auto_takes_the_largest_budget_that_fits_and_at_most_what_a_step_needs():
    found = planned(global_batch_size=512)
    budget = found.settings.max_tokens_per_micro_step
    assert 8192 < budget < 16384
    at_budget = gpu_memory(found.job, budget, found.conditions.rows.target_share, 2).peak
    assert 0.97 < at_budget / found.conditions.limit_bytes <= 1
    assert planned("H200", 1, global_batch_size=512).settings.max_tokens_per_micro_step == 32768


def test_auto_takes_what_is_fastest_of_what_fits():
    for settings in (
        {"number": 1, "global_batch_size": 512},
        {"number": 4, "global_batch_size": 512},
        {"model_name": "meta-llama/Llama-3.2-3B", "ds_config": "zero2", "max_length": 2048, "batch_size": 8},
        {"model_name": "meta-llama/Llama-3.1-8B", "number": 2, "lora_rank": 16, "global_batch_size": 64},
        {"gpu": "3060", "number": 4, "max_length": 512},
        {"gpu": "H100", "number": 1, "global_batch_size": 512, "packing": 0},
    ):
        found = planned(**settings)
        ways = [planned(**settings, gradient_checkpointing=recompute) for recompute in (0, 1)]
        fitting = [way for way in ways if way.fits]
        assert fitting and found.fits
        assert found.timing.total_s == min(way.timing.total_s for way in fitting), settings
        of_its_kind = [plan for name, plan in plan_of_kind(found) if plan.fits]
        assert found.timing.total_s <= min(other.timing.total_s for other in of_its_kind)


def plan_of_kind(chosen):
    """Return the table's ways to train as chosen, with its DS_CONFIG."""
    kinds = ("ds_config", "lora_rank", "lora_base_bits")
    same = [getattr(chosen.settings, name) for name in kinds]
    return [way for way in alternatives.variants(chosen) if [getattr(way[1].settings, name) for name in kinds] == same]


def test_auto_recomputes_only_where_needed():
    assert planned("4090", 4).job.recompute is False
    assert planned("4090", 1).job.recompute is False  # few tokens fit, and a step has few
    assert planned("4090", 1, global_batch_size=512).job.recompute is False  # smaller micro-steps, and faster
    tight = planned("4090", 4, model_name="meta-llama/Llama-3.2-3B", ds_config="zero2", max_length=2048, batch_size=8)
    assert tight.job.recompute is True and tight.settings.max_tokens_per_micro_step >= 2048
    assert planned("4090", 4, gradient_checkpointing=1).job.recompute is True


def test_a_budget_of_the_users_own_stays():
    found = planned(max_tokens_per_micro_step=2000, max_length=512)
    assert found.settings.max_tokens_per_micro_step == 2000


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (
            {"max_tokens_per_micro_step": 32768, "global_batch_size": 512, "gradient_checkpointing": 0},
            r"MAX_TOKENS_PER_MICRO_STEP=32768: does not fit: meta-llama/Llama-3.2-1B-Instruct needs 37.\d GiB of each "
            r"GPU, 22.7 GiB can be used on RTX 4090; "
            r"use MAX_TOKENS_PER_MICRO_STEP=1\d{4}$",
        ),
        (
            {"packing": 0, "batch_size": 64, "gradient_checkpointing": 0},
            r"GRADIENT_CHECKPOINTING=0: does not fit: .*; use GRADIENT_CHECKPOINTING=1$",
        ),
        (
            {"model_name": "meta-llama/Llama-3.2-3B", "ds_config": "zero1", "gradient_accumulation_steps": 16},
            r"DS_CONFIG=zero1: does not fit: .*; use DS_CONFIG=zero3$",
        ),
        (
            {"ds_config": "zero3_offload", "host_gib": 8},
            r"DS_CONFIG=zero3_offload: does not fit: needs 23.0 GiB of the machine's .*, 8.0 .*use DS_CONFIG=zero3$",
        ),
        (
            {"model_name": "meta-llama/Llama-3.1-8B"},
            r"does not fit: meta-llama/Llama-3.1-8B needs 37.\d GiB of each GPU, 22.7 .*; use LORA_RANK=16 "
            r"DS_CONFIG=zero2, or all weights with DS_CONFIG=zero3 on 8 GPUs or DS_CONFIG=zero3_offload in 150 GiB of "
            r"memory$",
        ),
        (
            {"model_name": "meta-llama/Llama-3.1-8B", "number": 1, "gpu": "4080"},
            r"does not fit: .* needs 123.\d GiB .*; use LORA_RANK=16 LORA_BASE_BITS=4 DS_CONFIG=zero2, or all weights ",
        ),
        (
            {"model_name": "meta-llama/Llama-3.1-8B", "host_gib": 256},
            r"does not fit: .*; use DS_CONFIG=zero3_offload, or LORA_RANK=16 DS_CONFIG=zero2, or DS_CONFIG=zero3 on 8 "
            r"GPUs$",
        ),
        (
            {"model_name": "meta-llama/Llama-3.1-8B", "number": 1, "gpu": "4080", "host_gib": 192},
            r"does not fit: .*; use DS_CONFIG=zero3_offload_all, or LORA_RANK=16 LORA_BASE_BITS=4 DS_CONFIG=zero2, or "
            r"DS_CONFIG=zero3 on 16 GPUs$",
        ),
        (
            {"model_name": "meta-llama/Llama-3.1-8B", "number": 1, "gpu": "2080"},
            r"does not fit: .*; use DS_CONFIG=zero3_offload_all in 165 GiB of memory, or a smaller model$",
        ),
        ({"gpu": "T4", "number": 1}, r"does not fit: .* 14.1 GiB can be used on T4; use DS_CONFIG=zero3_offload, or "),
        (
            {"host_gib": 1},
            r"does not fit: .* its export needs 2.3 GiB of the machine's memory, 1.0 GiB can be used; use ",
        ),
        (
            {"model_name": "meta-llama/Llama-3.1-8B", "gpu": "4080", "lora_rank": 8, "ds_config": "zero2"},
            r"DS_CONFIG=zero2: does not fit: .*; use DS_CONFIG=zero3$",
        ),
        (
            {"model_name": "meta-llama/Llama-3.1-8B", "number": 1, "gpu": "4080", "lora_rank": 8},
            r"does not fit: .*; use LORA_BASE_BITS=4 DS_CONFIG=zero2$",
        ),
    ],
)
def test_what_cannot_fit_is_said_with_the_nearest_that_does(settings, line):
    problem = advice.problem(planned(**settings))
    assert re.match(line, problem), problem
    assert "\n" not in problem


def test_an_adapter_that_gathers_frozen_weights_for_nothing_is_told():
    settings = {"model_name": "meta-llama/Llama-3.1-8B", "lora_rank": 16}
    assert re.match(r"DS_CONFIG=zero2 is \d+\.\d times as fast: ", advice.faster(planned(**settings)))
    assert advice.faster(planned(**settings)) in [line.strip() for line in view.before(planned(**settings))]
    assert not advice.faster(planned(number=1, **settings))  # nothing to gather
    assert not advice.faster(planned("4080", **settings))  # no room
    assert not advice.faster(planned(ds_config="zero2", **settings)) and not advice.faster(planned())


def test_a_setting_that_makes_a_run_clearly_slower_is_told():
    slow = planned(global_batch_size=512, max_tokens_per_micro_step=1024, gradient_checkpointing=1)
    auto = "MAX_TOKENS_PER_MICRO_STEP=auto GRADIENT_CHECKPOINTING=auto"
    assert re.match(rf"{auto} is \d\.\d times as fast$", advice.faster(slow))
    offloaded = planned(ds_config="zero3_offload", host_gib=128)
    assert re.match(r"DS_CONFIG=zero3 is \d\.\d times as fast$", advice.faster(offloaded))
    assert not advice.faster(planned(global_batch_size=512))


def test_a_deepspeed_file_that_sets_the_batch_gets_no_advice_against_it(tmp_path):
    path = tmp_path / "own.json"
    path.write_text(json.dumps({"zero_optimization": {"stage": 3}, "train_batch_size": 16}))
    found = planned(ds_config=str(path))
    assert found.fits and advice.larger_batch(found) is None and advice.larger_batch(planned())
    assert any(line.startswith("> own.json") for line in view.whole(found))


def test_small_steps_are_told_what_a_larger_batch_would_give():
    found = planned(number=1)
    larger = advice.larger_batch(found)
    assert larger.timing.tokens_per_second > 1.5 * found.timing.tokens_per_second and larger.fits
    (line,) = view.better(found)
    size = (
        f"GLOBAL_BATCH_SIZE={larger.settings.global_batch_size} gives {larger.timing.tokens_per_second:,.0f} tokens/s"
    )
    assert line.startswith(f"small steps: {size}: ") and line in [line.strip() for line in view.whole(found)]
    assert line in [line.strip() for line in view.before(found)]
    as_said = planned(number=1, global_batch_size=larger.settings.global_batch_size)
    assert as_said.timing == larger.timing
    assert advice.larger_batch(planned(number=1, global_batch_size=512)) is None
    assert advice.larger_batch(planned(number=1, rows=4)) is None  # a step has them all already
    assert advice.larger_batch(planned(number=1, packing=0)) is None  # more micro-steps, none of them larger


def test_what_does_not_even_fit_in_four_bits_is_sharded_in_sixteen():
    sizes = {"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64}
    Path("large.json").write_text(json.dumps(shapes.LLAMA | sizes))
    found = planned(number=1, shape="large.json", lora_rank=8, lora_base_bits=4, ds_config="zero2")
    assert re.match(
        r"does not fit: large needs 4\d.\d GiB .*; use DS_CONFIG=zero3 LORA_BASE_BITS=16 on \d+ GPUs and 13\d GiB "
        r"of memory or DS_CONFIG=zero3_offload_all LORA_BASE_BITS=16 in 26\d GiB of memory, or a smaller model$",
        advice.problem(found),
    ), advice.problem(found)


def test_a_model_that_trains_in_four_bits_may_be_too_large_to_be_evaluated():
    sizes = {"hidden_size": 5120, "intermediate_size": 13824, "num_hidden_layers": 48, "num_attention_heads": 40}
    Path("14b.json").write_text(json.dumps(shapes.LLAMA | sizes))
    settings = {"shape": "14b.json", "lora_rank": 16, "lora_base_bits": 4, "ds_config": "zero2"}
    found = planned(number=1, **settings)
    assert found.fits and re.match(
        r"does not fit: evaluation needs 2\d.\d GiB for the model whole on each GPU, 22.7 GiB can be used on RTX 4090; "
        r"use EVALUATE=0 ",
        advice.problem(found),
    )
    assert advice.problem(found) in [line.strip() for line in view.before(found)]
    assert not advice.problem(planned(number=1, evaluate=0, **settings))


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
    with pytest.raises(UserError, match="nowhere.json: No such file"):
        planned(shape="nowhere.json")
    Path("empty").mkdir()
    with pytest.raises(SettingsError, match=r"MODEL_NAME=./empty: holds no config.json"):
        planned(model_name="./empty")
    Path("half.json").write_text('{"vocab_size": 3}')
    with pytest.raises(
        UserError, match="half.json: has no hidden_size; give the config.json of a causal language model"
    ):
        planned(shape="half.json")


def card_here(name="NVIDIA GeForce RTX 4090", used_gib=0.5):
    """Return four GPUs of this machine."""
    return [gpus.Gpu(index, name, 0, used_gib, 24.0, 40, 50.0, "580.1", f"GPU-{index}") for index in range(4)]


def test_a_run_gets_the_plans_numbers():
    settings, found = planner.plan_run(resolve(load(None), "cuda", "local"), card_here())
    assert (settings.max_tokens_per_micro_step, settings.gradient_checkpointing) == (2304, False)
    assert found.conditions.card.name == "GeForce RTX 4090" and found.conditions.free_gib == 23.5
    lines = view.before(found)
    assert lines[0].startswith("      plan: ") and {line[:11] for line in lines[1:]} == {" " * 11}


def test_a_run_that_cannot_fit_is_refused_or_warned_of():
    line = "^does not fit: .* needs .* of each GPU, 3.8 GiB can be used on GeForce RTX 4090; end what has 20.0 GiB"
    here = card_here(used_gib=20)
    with pytest.raises(SettingsError, match=line):
        planner.plan_run(resolve(load(None), "cuda", "local"), here)
    settings, found = planner.plan_run(resolve(load(None, plan="warn"), "cuda", "local"), here)
    assert settings.max_tokens_per_micro_step == 1024
    assert any("does not fit" in line for line in view.before(found))


def test_no_plan_on_a_cpu_or_of_an_unknown_model():
    settings, found = planner.plan_run(decided(device="cpu"), [])
    assert (settings.max_tokens_per_micro_step, settings.gradient_checkpointing, found) == (8192, False, None)
    settings, found = planner.plan_run(resolve(load(None, model_name="a/b"), "cuda", "local"), card_here())
    assert (settings.max_tokens_per_micro_step, settings.gradient_checkpointing, found) == (8192, False, None)
    assert view.before(None) == []


def test_a_card_that_is_not_in_the_table_is_planned_with_its_own_memory(monkeypatch):
    monkeypatch.setattr(gpus, "visible", lambda: card_here("NVIDIA Something 1"))
    found = Plan.of(resolve(load(None), "cuda", "local"), conditions(load(None), gpus.visible()))
    assert found.conditions.notes[0] == "NVIDIA Something 1 is not in the plan's table: times are those of RTX 4090"


# What is shown


def test_a_model_of_a_shape_has_its_own_name():
    config = json.dumps(shapes.BUILT_IN["meta-llama/Llama-3.1-8B"])
    cached = Path("hub/models--Qwen--Qwen2.5-7B/snapshots/abc")
    for folder in (cached, Path("mine/Mistral-7B")):
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(config)
    Path("llama31-8b.json").write_text(config)
    names = {"llama31-8b.json": "llama31-8b", "mine/Mistral-7B/config.json": "Mistral-7B"}
    for path, name in (names | {f"{cached}/config.json": "Qwen/Qwen2.5-7B"}).items():
        found = planned(shape=path)
        assert next(view.whole(found)) == f"{name}: 8.03 billion weights, bf16"
        assert found.summary().model == name


def test_a_plan_for_gpus_of_a_run_on_the_cpu_says_so():
    lines = list(view.whole(planned("", device="cpu", model_name="tiny", dataset="demo")))
    assert lines[0] == "tiny: 427 thousand weights, bf16"
    said = " ".join(line.strip() for line in lines[:6])
    assert "DEVICE=cpu: a run trains on the CPU, which needs no plan; this is what RTX 4090 would do" in said


def test_the_plan_is_readable_on_80_columns():
    for found in (planned(), planned(ds_config="zero3_offload"), planned(model_name="meta-llama/Llama-3.1-8B")):
        lines = list(view.whole(found))
        assert max(map(len, lines)) <= 80, max(lines, key=len)
        assert sum(line.startswith("> ") for line in lines) == 1


def test_the_plan_beside_what_was_measured(tmp_path):
    run = Run(tmp_path)
    assert view.beside_measured(run) == []
    planner.freeze(planned("H100", 1), run)
    assert view.beside_measured(run) == []
    frozen = json.loads(run.plan.read_text())
    measured = {"step": 9, "mem/peak_gib": frozen["allocated_gib"] / 1.1, "perf/tokens_per_second": 1000.0}
    run.metrics.write_text(json.dumps(measured) + "\n")
    (line,) = view.beside_measured(run)
    assert line.startswith("   planned: ") and "(+10%)" in line


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_the_task_starts_at_once_and_imports_no_torch(options):
    code = (
        "import sys, runpy; sys.argv = ['inv', 'plan', '--gpu', '4090', '--gpus', '4', *sys.argv[1:]]\n"
        "from invoke import main\n"
        "try: main.program.run()\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "assert not {'torch', 'transformers', 'deepspeed', 'numpy'} & set(sys.modules)"
    )
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code, *options], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - started < 5  # under a second on a machine that does nothing else
    if options:
        found = json.loads(done.stdout)
        assert found["fits"] and found["gpus"] == 4 and len(found["variants"]) == 16


def test_a_deepspeed_file_of_the_users_own_is_planned_and_marked(tmp_path):
    path = tmp_path / "a-long-name-of-a-file.json"
    zero = {"stage": 3, "offload_optimizer": {"device": "cpu"}, "offload_param": {"device": "cpu"}}
    path.write_text(json.dumps({"zero_optimization": zero}))
    found = planned(ds_config=str(path), host_gib=200, model_name="meta-llama/Llama-3.1-8B")
    parts = found.memory.moments["backward"]
    assert parts.optimizer == parts.weights == 0 < parts.buckets and found.fits
    assert found.host.offloaded / GIB == pytest.approx(20 * EIGHT_B.weights / GIB)
    lines = list(view.whole(found))
    assert [line[:18] for line in lines if line.startswith("> ")] == ["> a-long-name-of-a"]
    assert max(map(len, lines)) <= 80


def test_a_run_freezes_its_plan_before_it_starts(monkeypatch):
    started = []

    class Ended(Local):
        """Nodes that stop at once."""

        def start(self, run):
            started.extend([run, json.loads(run.settings_file.read_text()), json.loads(run.plan.read_text())])
            run.update_state("stopped")
            return self

        def codes(self):
            return [0, 0]

    monkeypatch.setattr(gpus, "visible", card_here)
    monkeypatch.setitem(LAUNCHERS, "local", Ended)
    console = Console(file=io.StringIO(), width=80, soft_wrap=True)
    local = {"master_port": free_port(), "launcher": "local"}
    train.train(load(None, **local), console)
    run, frozen, plan_then = started
    assert (frozen["max_tokens_per_micro_step"], frozen["gradient_checkpointing"]) == (2304, False)
    assert plan_then["settings"]["max_tokens_per_micro_step"] == 2304
    assert plan_then == json.loads(run.plan.read_text())
    said = console.file.getvalue()
    assert "plan: " in said and "GiB on each GPU" in said and "tokens/s" in said
    with pytest.raises(SettingsError, match="^does not fit: .* needs .* GiB of each GPU"):
        train.train(load(None, model_name="meta-llama/Llama-3.1-8B", run_name="b", **local), console)
    assert not Path("runs/b").exists()


def test_auto_and_numbers_are_the_only_values():
    assert load(None, max_tokens_per_micro_step=" AUTO ").max_tokens_per_micro_step is None
    assert load(None, gradient_checkpointing="1").gradient_checkpointing is True
    with pytest.raises(SettingsError) as caught:
        load(None, max_tokens_per_micro_step="many", gradient_checkpointing="some", plan="maybe")
    assert caught.value.problems == [
        "MAX_TOKENS_PER_MICRO_STEP=many: is not a whole number; use a whole number or auto",
        "GRADIENT_CHECKPOINTING=some: is neither 1 nor 0; use 1 or 0 or auto",
        "PLAN=maybe: is not one of the choices; use 'refuse' or 'warn'",
    ]
