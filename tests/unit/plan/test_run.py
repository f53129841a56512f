"""The plan before a run: it puts numbers into the settings, refuses, and is kept in the run directory."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from sft.errors import SettingsError
from sft.host import gpus
from sft.host.commands import train
from sft.host.launch.launcher import LAUNCHERS
from sft.host.launch.local import Local
from sft.host.plan import planner, view
from sft.run.directory import Run
from sft.settings.load import load
from sft.settings.stages import resolve
from tests.e2e.project import free_port
from tests.settings import decided
from tests.unit.plan.planning import card_here, planned


def test_a_run_gets_the_plans_numbers():
    settings, found = planner.plan_run(resolve(load(None), "cuda", "local"), card_here())
    assert (settings.max_tokens_per_micro_step, settings.gradient_checkpointing) == (2304, False)
    assert found.conditions.card.name == "GeForce RTX 4090" and found.conditions.free_gib == 23.5
    lines = view.short_lines(found)
    assert lines[0].startswith("      plan: ") and {line[:11] for line in lines[1:]} == {" " * 11}


def test_a_run_that_cannot_fit_is_refused_or_warned_of():
    line = (
        "^does not fit: .* needs .* of each GPU, 3.8 GiB can be used on GeForce RTX 4090; end the program that has 20.0"
    )
    here = card_here(used_gib=20)
    with pytest.raises(SettingsError, match=line):
        planner.plan_run(resolve(load(None), "cuda", "local"), here)
    settings, found = planner.plan_run(resolve(load(None, plan="warn"), "cuda", "local"), here)
    assert settings.max_tokens_per_micro_step == 1024
    assert any("does not fit" in line for line in view.short_lines(found))


def test_no_plan_on_a_cpu_or_of_an_unknown_model():
    settings, found = planner.plan_run(decided(device="cpu"), [])
    assert (settings.max_tokens_per_micro_step, settings.gradient_checkpointing, found) == (8192, False, None)
    settings, found = planner.plan_run(resolve(load(None, model_name="a/b"), "cuda", "local"), card_here())
    assert (settings.max_tokens_per_micro_step, settings.gradient_checkpointing, found) == (8192, False, None)
    assert view.short_lines(None) == []


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


def test_the_plan_beside_what_was_measured(tmp_path):
    run = Run(tmp_path)
    assert view.against_measured(run) == ""
    planner.freeze(planned("H100", 1), run)
    assert view.against_measured(run) == ""
    frozen = json.loads(run.plan.read_text())
    measured = {"step": 9, "mem/peak_gib": frozen["allocated_gib"] / 1.1, "perf/tokens_per_second": 1000.0}
    run.metrics.write_text(json.dumps(measured) + "\n")
    line = view.against_measured(run)
    assert "tokens/s, measured 1,000 (" in line and "(+10%)" in line
