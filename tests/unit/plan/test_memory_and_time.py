"""The memory and the time of the plan against what was measured (benchmarks/README.md), and against arithmetic."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from sft.host.plan import cards, workload
from sft.host.plan.job import GIB, Job
from sft.host.plan.memory import gpu_memory, host_memory, tokens_that_fit
from sft.host.plan.mixers import mixers
from sft.host.plan.shapes import Shape
from sft.host.plan.timing import step_timing
from sft.settings.load import load
from tests.unit.plan.planning import EIGHT_B, H100, HEADS, ONE_B, SIZES, THREE_B, planned

SHAPES = Path(__file__).parents[3] / "benchmarks" / "shapes"
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
    assert found.allocated / GIB == pytest.approx(peak_gib, rel=0.02 if persistent else 0.03)
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


H200 = cards.need("H200")
ON_FOUR = [  # rows a step, ZeRO stage, GB/s of the link without peer-to-peer copies: peak GiB, tokens/s
    (256, 3, 0, 22.62, 172_435),
    (256, 2, 0, 21.47, 215_143),
    (256, 1, 0, 21.47, 209_637),
    (1024, 3, 0, 26.81, 243_649),
    (1024, 2, 0, 26.18, 253_047),
    (256, 3, 24.3, 22.62, 135_241),
    (256, 2, 25.5, 21.47, 133_637),
    (1024, 1, 0, 28.46, 268_697),
]


@pytest.mark.parametrize(("sequences", "stage", "link_gb_s", "peak_gib", "speed"), ON_FOUR)
def test_peak_and_speed_on_four_cards_are_near_what_was_measured(sequences, stage, link_gb_s, peak_gib, speed):
    card = replace(H200.between_containers(), link_gb_s=link_gb_s) if link_gb_s else H200
    chosen = {"nodes": 2, "gpus_per_node": 2, "precision": "bf16", "global_batch_size": sequences, "max_length": 561}
    chosen |= {"ds_config": f"zero{stage}", "max_tokens_per_micro_step": 16384, "gradient_checkpointing": 0}
    settings = load(None, **chosen)
    job, work = Job.of(settings, ONE_B, card), workload.work(settings, workload.GSM8K, 16384)
    found = gpu_memory(job, work.largest, workload.GSM8K.target_share, work.micro_steps)
    assert found.allocated / GIB == pytest.approx(peak_gib, rel=0.03)
    assert step_timing(job, work, workload.GSM8K).tokens_per_second == pytest.approx(speed, rel=0.10)


LORA = {"lora_rank": 16, "ds_config": "zero2"}
QLORA = LORA | {"lora_base_bits": 4}
SMALL_STEPS = [  # on H200s, 16 rows a rank, shape, ranks, settings, recompute: ms of a step on one or two machines
    (ONE_B, 1, {}, 0, [173, 186]),
    (ONE_B, 1, {}, 1, [250, 198]),
    (ONE_B, 1, {"lora_rank": 16}, 0, [258, 215]),
    (ONE_B, 1, {"lora_rank": 16}, 1, [308, 280]),
    (ONE_B, 1, QLORA, 0, [351, 237]),
    (ONE_B, 1, QLORA, 1, [423]),
    (THREE_B, 1, {}, 0, [302]),
    (THREE_B, 1, {}, 1, [429]),
    (THREE_B, 1, {"lora_rank": 16}, 0, [419]),
    (THREE_B, 1, {"lora_rank": 16}, 1, [545]),
    (THREE_B, 4, {}, 1, [505]),
    (EIGHT_B, 1, {"lora_rank": 16}, 0, [534]),
    (EIGHT_B, 1, {"lora_rank": 16}, 1, [740]),
    (EIGHT_B, 1, QLORA, 0, [531]),
    (EIGHT_B, 1, QLORA, 1, [923]),
    (EIGHT_B, 4, LORA, 1, [516, 602]),
    (EIGHT_B, 4, QLORA, 0, [439]),
    (EIGHT_B, 4, {"optimizer_bits": 16}, 1, [703, 840]),
]


@pytest.mark.parametrize(("shape", "ranks", "settings", "recompute", "measured_ms"), SMALL_STEPS)
def test_the_time_of_python_in_small_steps_is_near_what_was_measured(shape, ranks, settings, recompute, measured_ms):
    """Machines of the same kind are up to half apart."""
    layout = {"nodes": 2 if ranks > 1 else 1, "gpus_per_node": 2 if ranks > 1 else 1, "global_batch_size": 16 * ranks}
    chosen = {"precision": "bf16", "max_length": 561, "max_tokens_per_micro_step": 9216} | layout | settings
    settings = load(None, **chosen, gradient_checkpointing=recompute)
    job = replace(Job.of(settings, shape, H200), persistent=False)  # sharded, as under a cap of 24 GiB
    work = workload.work(settings, workload.GSM8K, 9216)
    found = 1000 * step_timing(job, work, workload.GSM8K).step_s
    assert found == pytest.approx(sum(measured_ms) / len(measured_ms), rel=0.25)


@pytest.mark.parametrize(
    ("shape", "settings", "peak_gib"), [(EIGHT_B, {"optimizer_bits": 16}, 18.76), (THREE_B, {}, 16.72)]
)
def test_what_is_sharded_over_four_cards_of_24_gb_takes_what_was_measured(shape, settings, peak_gib):
    chosen = {"nodes": 2, "gpus_per_node": 2, "precision": "bf16", "global_batch_size": 64} | settings
    settings = load(None, **chosen, max_length=561, max_tokens_per_micro_step=4096, gradient_checkpointing=1)
    job = replace(Job.of(settings, shape, H200), persistent=False)
    work = workload.work(settings, workload.GSM8K, 4096)
    found = gpu_memory(job, work.largest, workload.GSM8K.target_share, work.micro_steps)
    assert found.allocated / GIB == pytest.approx(peak_gib, rel=0.1)


OF_OTHER_FAMILIES = [  # shape in benchmarks/shapes, settings, recompute: peak GiB, with AdamW's moments
    ("gpt2-xl", {}, 1, 25.82),
    ("gpt2-xl", {"ds_config": "zero2"}, 0, 58.86),
    ("gemma-3-1b", {}, 1, 17.5),
    ("gemma-3-1b", {}, 0, 28.4),
    ("gemma-3-4b", {"lora_rank": 16, "ds_config": "zero2"}, 1, 11.32),
]


@pytest.mark.parametrize(("name", "settings", "recompute", "peak_gib"), OF_OTHER_FAMILIES)
def test_the_plan_is_near_what_was_measured_of_other_families(name, settings, recompute, peak_gib):
    shape = Shape.of(json.loads((SHAPES / f"{name}.json").read_text()), name)
    chosen = {"nodes": 1, "gpus_per_node": 1, "precision": "bf16", "global_batch_size": 128} | settings
    chosen |= {"max_tokens_per_micro_step": 8192, "gradient_checkpointing": recompute, "max_length": 1024}
    rows = workload.Rows("", 2950, 173, 0.5, 317)
    settings = load(None, **chosen)
    work = workload.work(settings, rows, 8192)
    found = gpu_memory(Job.of(settings, shape, H100), work.largest, rows.target_share, work.micro_steps)
    assert found.allocated / GIB == pytest.approx(peak_gib, rel=0.1)


@pytest.mark.parametrize(
    ("name", "card", "peak_gib", "speed"),
    [("qwen-3.5-0.8b", "H200", 41.52, 13_521), ("granite-4-h-1b", "H100", 64.67, 14_099)],
)
def test_the_plan_knows_how_long_layers_without_attention_take(name, card, peak_gib, speed):
    shape = Shape.of(json.loads((SHAPES / f"{name}.json").read_text()), name)
    chosen = {"nodes": 1, "gpus_per_node": 1, "precision": "bf16", "global_batch_size": 64, "max_length": 1024}
    settings = load(None, **chosen, max_tokens_per_micro_step=16384, gradient_checkpointing=0)
    rows = workload.Rows("", 2950, 177, 0.5, 495)
    work, job = workload.work(settings, rows, 16384), Job.of(settings, shape, cards.need(card))
    found = gpu_memory(job, work.largest, rows.target_share, work.micro_steps)
    assert found.allocated / GIB == pytest.approx(peak_gib, rel=0.1)
    assert step_timing(job, work, rows).tokens_per_second == pytest.approx(speed, rel=0.25)


def test_experts_have_copies_of_their_inputs_and_outputs():
    mixture = replace(ONE_B, experts=8, experts_per_token=2, intermediate=ONE_B.intermediate // 2)
    dense, experts = (Job.of(load(None, precision="bf16"), shape, H100) for shape in (ONE_B, mixture))
    assert experts.layer_bytes - dense.layer_bytes == 2 * 2 * 2 * 2048  # as wide together: two of each, bf16


def test_adapters_on_experts_cost_a_copy_of_them():
    mixture = replace(ONE_B, experts=8, experts_per_token=2)
    jobs = [
        Job.of(load(None, precision="bf16", lora_rank=4, lora_targets=targets), mixture, H100)
        for targets in ("all-linear", "all-linear,experts")
    ]
    assert jobs[1].trained - jobs[0].trained == 4 * 16 * 8 * (2048 + 2 * 8192 + 8192 + 2048)
    without, with_copies = (gpu_memory(job, 4096, 0.5, 1).moments["forward"].activations for job in jobs)
    inputs = 4096 * 16 * 2 * 2 * (2048 + 8192)  # of both matrices, for two experts a token: frozen ones keep none
    assert with_copies - without == 2 * 16 * mixture.expert_layer_weights + inputs


@pytest.mark.parametrize(
    ("config", "layers", "kept", "again"),
    [  # bytes per token as autograd counted them, beside what every layer keeps
        ({"linear_num_key_heads": 16, "linear_num_value_heads": 16, "linear_key_head_dim": 128}
         | {"linear_value_head_dim": 128, "layer_types": ["linear_attention"] * 3 + ["full_attention"]},
         3, 74_300, 219_400),
        ({"mamba_n_heads": 48, "mamba_d_state": 128, "mamba_expand": 3, "mamba_n_groups": 1}
         | {"layer_types": ["mamba", "attention"] * 2}, 2, 94_000, 237_800),
        ({"mamba_n_heads": 16, "mamba_d_state": 128, "mamba_expand": 1, "mamba_n_groups": 4}
         | {"attn_layer_indices": [1]}, 3, 37_000, 94_600),
    ],
)  # fmt: skip
def test_layers_without_attention_keep_what_autograd_saves(config, layers, kept, again):
    hidden = 2048 if "linear_num_key_heads" in config else 1024
    found = mixers(config, lambda name: value if type(value := config.get(name)) is int else 0, 4, hidden)
    assert found.layers == layers and found.bytes_per_token == pytest.approx(kept, rel=0.05)
    assert found.again == pytest.approx(again, rel=0.12)


def test_memory_of_one_layer_by_hand():
    job = Job.of(load(None, precision="bf16"), ONE_B, H100)
    # input, normalised, query, attention's output, second input, normalised: 6; key and value; gate, up, product
    assert job.layer_bytes == 2 * (6 * 2048 + 2 * 512 + 3 * 8192)
    few, many = (gpu_memory(job, tokens, 0.5, 1).moments["forward"].activations for tokens in (1000, 2000))
    assert many == 2 * few


@pytest.mark.parametrize(("bits", "bytes_a_weight"), [(32, 12), (16, 4)])
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_states_are_sharded_as_zero_says(stage, bits, bytes_a_weight):
    settings = load(None, precision="bf16", ds_config=f"zero{stage}", optimizer_bits=bits)
    parts = gpu_memory(Job.of(settings, EIGHT_B, H100), 1000, 0.5, micro_steps=2).moments["forward"]
    weights = EIGHT_B.weights
    assert parts.weights == 2 * weights / (4 if stage == 3 else 1)
    assert parts.gradients == 2 * weights / (1 if stage == 1 else 4)
    assert parts.optimizer == bytes_a_weight * weights / 4
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
        ({"ds_config": "zero3", "optimizer_bits": 16}, 6),
        ({"ds_config": "zero2", "optimizer_bits": 16}, 8),
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
    work = workload.Work(1, 32_000, 32_000, 1, 32_000, 32_000)  # the GPU's time, and not Python's
    kept, recomputed = (
        Job.of(load(None, precision="bf16", gradient_checkpointing=value), ONE_B, H100) for value in (0, 1)
    )
    assert gpu_memory(recomputed, 32_000, 0.6, 1).peak < gpu_memory(kept, 32_000, 0.6, 1).peak
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
