"""The plan as `make plan` prints it."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sft.host.plan import view
from sft.host.plan.job import GIB
from tests.unit.plan.planning import EIGHT_B, planned

ROOT = Path(__file__).resolve().parents[3]


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
    lines = list(view.full_lines(found))
    assert [line[:18] for line in lines if line.startswith("> ")] == ["> a-long-name-of-a"]
    assert max(map(len, lines)) <= 80
