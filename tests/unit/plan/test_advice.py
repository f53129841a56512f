"""What the plan advises if something does not fit, or is slow."""

import json
import re
from pathlib import Path

import pytest

from sft.host.plan import advice, lookup, view
from tests.unit.plan.planning import planned


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
            r"does not fit: meta-llama/Llama-3.1-8B needs 35.\d GiB of each GPU, 22.7 .*; use OPTIMIZER_BITS=16, or "
            r"LORA_RANK=16 DS_CONFIG=zero2, or all weights in 32 bits with DS_CONFIG=zero3 on 8 GPUs or "
            r"DS_CONFIG=zero3_offload in 150 GiB of memory$",
        ),
        (
            {"model_name": "meta-llama/Llama-3.1-8B", "number": 1, "gpu": "4080"},
            r"does not fit: .* needs 123.\d GiB .*; use LORA_RANK=16 LORA_BASE_BITS=4 DS_CONFIG=zero2, or all weights ",
        ),
        (
            {"model_name": "meta-llama/Llama-3.1-8B", "host_gib": 256},
            r"does not fit: .*; use OPTIMIZER_BITS=16, or DS_CONFIG=zero3_offload, or LORA_RANK=16 DS_CONFIG=zero2, or "
            r"DS_CONFIG=zero3 on 8 GPUs$",
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


def test_states_in_16_bits_train_all_weights_of_8b_on_four_small_cards():
    """The goal that the setting is for. Micro-steps are as few as memory allows: each gathers all weights twice."""
    settings = {"model_name": "meta-llama/Llama-3.1-8B", "global_batch_size": 64}
    usual, found = planned(**settings), planned(optimizer_bits=16, **settings)
    assert not usual.fits and found.fits and found.work.micro_steps == 1
    assert found.memory.moments["optimizer"].gradients == found.memory.moments["optimizer"].weights
    for plan in (usual, found):
        rows = [line.split() for line in view.comparison_table(plan) if "16 bits" in line]
        assert [row[-1] for row in rows] == ["fit", "*"], rows
    assert not any("16 bits" in line for line in view.comparison_table(planned()))  # 32 bits fit
    for more in ({}, {"lora_rank": 8}, {"ds_config": "zero2"}):
        chosen = view.comparison_table(planned(optimizer_bits=16, **more))
        assert len([line for line in chosen if line.startswith(">")]) == 1
    assert advice.more_bits(planned(optimizer_bits=16)).startswith("OPTIMIZER_BITS=32 fits too")
    assert not advice.more_bits(found) and not advice.more_bits(planned())
    offloaded = planned(optimizer_bits=16, host_gib=256, number=1, **settings)
    assert "DS_CONFIG=zero3_offload OPTIMIZER_BITS=32" in advice.problem(offloaded)


def test_an_adapter_that_gathers_frozen_weights_for_nothing_is_told():
    settings = {"model_name": "meta-llama/Llama-3.1-8B", "lora_rank": 16}
    assert re.match(r"DS_CONFIG=zero2 is \d+\.\d times as fast: ", advice.faster(planned(**settings)))
    assert advice.faster(planned(**settings)) in [line.strip() for line in view.short_lines(planned(**settings))]
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
    assert any(line.startswith("> own.json") for line in view.full_lines(found))


def test_small_steps_are_told_what_a_larger_batch_would_give():
    found = planned(number=1)
    larger = advice.larger_batch(found)
    assert larger.timing.tokens_per_second > 1.5 * found.timing.tokens_per_second and larger.fits
    (line,) = view.better(found)
    size = (
        f"GLOBAL_BATCH_SIZE={larger.settings.global_batch_size} gives {larger.timing.tokens_per_second:,.0f} tokens/s"
    )
    assert line.startswith(f"small steps: {size}: ") and line in [line.strip() for line in view.full_lines(found)]
    assert line in [line.strip() for line in view.short_lines(found)]
    as_said = planned(number=1, global_batch_size=larger.settings.global_batch_size)
    assert as_said.timing == larger.timing
    assert advice.larger_batch(planned(number=1, global_batch_size=512)) is None
    assert advice.larger_batch(planned(number=1, rows=4)) is None  # a step has them all already
    assert advice.larger_batch(planned(number=1, packing=0)) is None  # more micro-steps, none of them larger


def test_what_does_not_even_fit_in_four_bits_is_sharded_in_sixteen():
    sizes = {"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64}
    Path("large.json").write_text(json.dumps(lookup.LLAMA | sizes))
    found = planned(number=1, shape="large.json", lora_rank=8, lora_base_bits=4, ds_config="zero2")
    assert re.match(
        r"does not fit: large needs 4\d.\d GiB .*; use DS_CONFIG=zero3 LORA_BASE_BITS=16 on \d+ GPUs and 13\d GiB "
        r"of memory or DS_CONFIG=zero3_offload_all LORA_BASE_BITS=16 in 26\d GiB of memory, or a smaller model$",
        advice.problem(found),
    ), advice.problem(found)


def test_a_model_that_trains_in_four_bits_may_be_too_large_to_be_evaluated():
    sizes = {"hidden_size": 5120, "intermediate_size": 13824, "num_hidden_layers": 48, "num_attention_heads": 40}
    Path("14b.json").write_text(json.dumps(lookup.LLAMA | sizes))
    settings = {"shape": "14b.json", "lora_rank": 16, "lora_base_bits": 4, "ds_config": "zero2"}
    found = planned(number=1, **settings)
    assert found.fits and re.match(
        r"does not fit: evaluation needs 2\d.\d GiB for the model whole on each GPU, 22.7 GiB can be used on RTX 4090; "
        r"use EVALUATE=0 ",
        advice.problem(found),
    )
    assert advice.problem(found) in [line.strip() for line in view.short_lines(found)]
    assert not advice.problem(planned(number=1, evaluate=0, **settings))


def test_without_room_for_the_copy_training_waits_and_without_room_for_the_export_nothing_starts():
    settings = {"model_name": "meta-llama/Llama-3.1-8B", "gpu": "H100", "tokens_per_row": 180}
    roomy, tight, small = (planned(host_gib=gib, **settings) for gib in (100, 50, 12))
    waits = "no room for the copy: training waits while a checkpoint is written"
    assert roomy.fits and roomy.saves_beside_training and waits not in "\n".join(view.full_lines(roomy))
    assert tight.fits and not tight.saves_beside_training and waits in "\n".join(view.full_lines(tight))
    assert not advice.problem(tight) and not tight.summary().saves_beside_training
    assert not small.fits
    assert advice.problem(small) == (
        "does not fit: meta-llama/Llama-3.1-8B: its export needs 15.0 GiB of the machine's memory, 12.0 GiB can be "
        "used; use a smaller model, or end programs that fill the memory"
    )
