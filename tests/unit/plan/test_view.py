"""The plan as `make plan` prints it."""

import json

import pytest

from sft.host.plan import view
from sft.host.plan.job import GIB
from tests.unit.plan.planning import EIGHT_B, planned


def test_a_plan_for_gpus_of_a_run_on_the_cpu_says_so():
    lines = list(view.full_lines(planned("", device="cpu", model_name="tiny", dataset="demo")))
    assert lines[0] == "tiny: 427 thousand weights, bf16"
    said = " ".join(line.strip() for line in lines[:6])
    assert "DEVICE=cpu: a run trains on the CPU, which needs no plan; this is what RTX 4090 would do" in said


def test_the_plan_is_readable_on_80_columns():
    for found in (planned(), planned(ds_config="zero3_offload"), planned(model_name="meta-llama/Llama-3.1-8B")):
        lines = list(view.full_lines(found))
        assert max(map(len, lines)) <= 80, max(lines, key=len)
        assert sum(line.startswith("> ") for line in lines) == 1


def test_a_deepspeed_file_of_the_users_own_is_planned_and_marked(tmp_path):
    path = tmp_path / "a-long-name-of-a-file.json"
    zero = {"stage": 3, "offload_optimizer": {"device": "cpu"}, "offload_param": {"device": "cpu"}}
    path.write_text(json.dumps({"zero_optimization": zero}))
    found = planned(ds_config=str(path), host_gib=200, model_name="meta-llama/Llama-3.1-8B")
    parts = found.memory.moments["backward"]
    assert parts.optimizer == parts.weights == 0 < parts.buckets and found.fits
    assert found.host.offloaded / GIB == pytest.approx(20 * EIGHT_B.weights / GIB)
    lines = list(view.full_lines(found))
    assert [line[:18] for line in lines if line.startswith("> ")] == ["> a-long-name-of-a"]
    assert max(map(len, lines)) <= 80
