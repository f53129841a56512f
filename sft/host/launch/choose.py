"""Before a run's nodes start: its device is decided and its directory opened, by the tasks or by node 0 itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sft import hostfile, resources
from sft.errors import SettingsError, shown, wrong
from sft.host import gpus, provenance
from sft.host.gpus import Gpu, unused
from sft.host.launch import docker_engine
from sft.host.plan import planner, view
from sft.host.plan.plan import Plan
from sft.run import lifecycle, unfinished
from sft.run.directory import Run
from sft.settings import deepspeed, rules
from sft.settings.fields import TINY, Settings
from sft.settings.stages import Decided, Launched, OnDevice, Resolved

CPU_RANKS_PER_CORE = 16  # more would only starve the machine
OVERLAY = "COMPOSE_FILE=docker-compose.yml:docker/gpu.yml"


def device(settings: Settings, cards: list[Gpu], wanted: int, where: str) -> OnDevice:
    """Decide the device. Raises SettingsError if `wanted` GPUs are not there."""
    inside = where != "here"
    most = CPU_RANKS_PER_CORE * resources.cores()
    if not cards and wanted > most:
        what = f"{wanted} ranks on {most // CPU_RANKS_PER_CORE} cores {where}"
        raise SettingsError([wrong("GPUS_PER_NODE", settings.gpus_per_node, what, "use fewer nodes or ranks")])
    without = f"put {OVERLAY} into .env" if inside else "run `make demo`, which needs none"
    if settings.device == "cpu":
        return "cpu"
    if settings.device == "cuda" and not cards:
        remedy = f"{without}, or set DEVICE=cpu"
        raise SettingsError([wrong("DEVICE", "cuda", f"no NVIDIA GPU is visible {where}{unused()}", remedy)])
    if not cards and settings.model_name != TINY:
        what = f"no NVIDIA GPU is visible {where} for {settings.model_name}{unused()}"
        remedy = f"{without}, or set DEVICE=cpu to train on the CPU, slowly"
        raise SettingsError([wrong("DEVICE", "auto", what, remedy)])
    if cards and wanted > len(cards):
        what = f"{len(cards)} GPUs are {where}{unused()}"
        remedy = f"set GPUS_PER_NODE={len(cards)}, or give the node more device_ids"
        if not inside:
            what = f"NODES={settings.nodes} nodes of it need {wanted} GPUs, {len(cards)} are here{unused()}"
            remedy = f"set NODES=1 GPUS_PER_NODE={len(cards)}"
        raise SettingsError([wrong("GPUS_PER_NODE", settings.gpus_per_node, what, remedy)])
    return "cuda" if cards else "cpu"


def choose_launcher(settings: Settings, has_gpu: bool) -> tuple[Launched, str]:
    """Return the launcher and why it is that one. Raises SettingsError where docker is asked for and does not work."""
    if settings.launcher == "local":
        return "local", "LAUNCHER=local"
    if settings.launcher == "compose":
        if found := docker_engine.problem():
            raise SettingsError([wrong("LAUNCHER", "compose", *found)])
        return "compose", "LAUNCHER=compose"
    if not has_gpu:
        return "local", "DEVICE=cpu" if settings.device == "cpu" else "no GPU"
    if settings.nodes != 2:
        return "local", f"NODES={settings.nodes}"
    if found := docker_engine.problem():
        return "local", found[0]
    return "compose", "docker works and a GPU is here"


def in_compose(settings: Settings) -> bool:
    """Tell whether a run would be in containers."""
    has_gpu = settings.device != "cpu" and bool(gpus.visible())
    return settings.launcher == "compose" or choose_launcher(settings, has_gpu)[0] == "compose"


def planned(settings: Resolved, cards: list[Gpu], say: Callable[[str], None]) -> tuple[Decided, Plan | None]:
    """Return the settings with the numbers of a plan on these GPUs, which is said in short, and it.

    Raises SettingsError.
    """
    decided, plan = planner.plan_run(settings, cards)
    for line in view.before(plan):
        say(line)
    return decided, plan


@contextmanager
def open_run(settings: Decided, plan: Plan | None, say: Callable[[str], None]) -> Iterator[Run]:
    """Give the run to go on with, ready for its nodes, or a new one; no other program starts it meanwhile.

    Raises SftError.
    """
    try:
        with lifecycle.alone(settings.runs_path):
            run, said = unfinished.resumable(settings)
            if run:
                file, more = provenance.deepspeed_file(run, settings)
                claim = run.claim()
                said += [going_on(run), *adjusted(settings, run.settings()), *more]
                said += lifecycle.reopen(
                    run, settings, deepspeed.configuration(settings, file), bool(more) and not run.is_saved
                )
            else:
                file = deepspeed.read(settings)
                run = lifecycle.create(settings, hostfile.hostfile(settings.nodes, settings.gpus_per_node))
                claim = run.claim()
                said.append(f"run {run.path}")
            provenance.note_project(run, file)
            planner.freeze(plan, run)
    except OSError as error:
        raise lifecycle.not_writable(settings, error) from None
    with claim:
        for line in said:
            say(line)
        yield run


def going_on(run: Run) -> str:
    """Return the line that says from where an unfinished run goes on."""
    step = run.saved_step()
    if run.final.is_dir():
        return f"resuming {run.path}: its final model is there, and what is left is done"
    if step is not None:
        return f"resuming {run.path} after step {step} (FRESH=1 starts over)"
    if run.has_trained:
        return f"resuming {run.path}: no checkpoint is left: starting over"
    return f"run {run.path}: starting again, it had not trained a step"


def adjusted(settings: Settings, before: Settings) -> list[str]:
    """Return a line for every setting that a resumed run may change and does change."""
    return [f"  {name}={shown(now)}, it was {shown(then)}" for name, now, then in rules.adjusted(settings, before)]
