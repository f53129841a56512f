"""The learning rate: its default is right for what is trained and said, and one that moves nothing gets a hint."""

import pytest

from sft.host.launch import learning_rate
from sft.settings import rules
from sft.settings.load import load, repeat
from sft.settings.stages import resolve, without_plan

BILLION = 1_235_814_400


def settings(**given):
    return load(None, **given)


@pytest.mark.parametrize(
    ("given", "rate"),
    [({}, 1e-6), ({"lora_rank": 8}, 2e-4), ({"model_name": "tiny"}, 3e-3), ({"learning_rate": "5e-5"}, 5e-5)],
)
def test_the_default_depends_on_what_is_trained_and_is_frozen_as_a_number(given, rate):
    frozen = without_plan(resolve(settings(**given), "cpu", "local")).freeze()
    assert frozen["learning_rate"] == rate
    assert rules.changed(load(None, **frozen), without_plan(resolve(settings(**given), "cpu", "local"))) == []


def test_a_repeated_run_keeps_the_rate_of_the_first():
    frozen = without_plan(resolve(settings(lora_rank=8), "cpu", "local")).freeze()
    assert repeat(frozen, None, lora_rank=0).learning_rate == 2e-4


@pytest.mark.parametrize(
    ("given", "weights", "said"),
    [
        ({}, BILLION, []),
        ({"learning_rate": 1e-6}, BILLION, []),
        ({"lora_rank": 8}, BILLION, ["learning rate 0.0002, the default for LoRA"]),
        ({"lora_rank": 8, "learning_rate": 1e-4}, BILLION, []),
        ({"lora_rank": 8, "learning_rate": 1e-6}, BILLION, [
            "warning: LEARNING_RATE=1e-06 changes little in LoRA; 0.0002 is usual: LEARNING_RATE=auto"]),
        ({"model_name": "tiny"}, None, [
            "learning rate 0.003, the default for tiny, which begins with random weights"]),
        ({"model_name": "tiny", "learning_rate": 1e-3}, None, []),
        ({"model_name": "tiny", "learning_rate": 1e-6}, None, [
            "warning: LEARNING_RATE=1e-06 changes little in tiny, which begins with random weights; 0.003 is usual: "
            "LEARNING_RATE=auto"]),
        ({}, 3_000_000, [
            "warning: LEARNING_RATE=1e-06 changes little in a model of 3.0 million weights; 0.001 is usual: "
            "LEARNING_RATE=1e-03"]),
        ({"learning_rate": 1e-3}, 3_000_000, []),
    ],
)  # fmt: skip
def test_a_default_that_differs_and_a_rate_that_moves_nothing_are_said(given, weights, said):
    assert learning_rate.lines(settings(**given), weights) == said
