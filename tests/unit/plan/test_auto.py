"""What the plan decides if settings say auto."""

import pytest

from sft.errors import SettingsError
from sft.host.plan import alternatives
from sft.host.plan.memory import gpu_memory
from sft.settings.load import load
from tests.unit.plan.planning import planned


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
