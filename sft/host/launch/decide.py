"""Decide before a run starts, in one function: device, GPUs, launcher, precision, plan and memory budget."""

from __future__ import annotations

from dataclasses import dataclass, replace

from rich.console import Console

from sft.errors import SettingsError, wrong
from sft.host import gpus
from sft.host.gpus import Gpu, unused
from sft.host.launch import inputs, interface, launcher, learning_rate
from sft.host.launch.launcher import LAUNCHERS, Launcher
from sft.host.launch.offer import PARTITION, Offer
from sft.host.plan import disk, lookup, planner, view
from sft.host.plan.plan import Plan
from sft.nouns import counted
from sft.settings.fields import TINY, Settings
from sft.settings.kinds import OnDevice
from sft.settings.stages import Decided, Resolved, resolve

CPU_RANKS_PER_CORE = 16  # more would only starve the machine
INSIDE = "in this container"
OVERLAY = "COMPOSE_FILE=docker-compose.yml:docker/gpu.yml"
# What to do where there is no GPU, by where a run's nodes get theirs from.
WITHOUT = {INSIDE: f"put {OVERLAY} into .env", PARTITION: "set SLURM_PARTITION to one with GPUs"}


@dataclass(frozen=True)
class Decision:
    """Everything that is decided about a run before anything is written or started."""

    written: Settings
    settings: Decided
    launcher: Launcher
    cards: tuple[Gpu, ...] = ()  # of the ranks, in their order; empty on a CPU
    plan: Plan | None = None  # None on a CPU, and for a model of unknown shape
    lines: tuple[str, ...] = ()  # what the user is told about it

    def prepared(self, console: Console) -> Decision:
        """Let the launcher prepare what its nodes need. Return the decision with the run's port. Raises SftError."""
        port = self.launcher.prepare(self.settings, self.cards, console)
        return replace(self, settings=Decided.of(self.settings, master_port=port))


def decide(written: Settings, in_container: bool = False, opened: bool = False) -> Decision:
    """Decide everything that the settings leave open, from what this machine has. Raises UserError.

    `in_container`: for node 0 of `docker compose up` by hand, which sees the GPUs of its own ranks only. `opened`: for
    a run that has its plan and its DeepSpeed configuration already.
    """
    inputs.check(written)
    return on_machine(written, in_container, opened)


def on_machine(written: Settings, in_container: bool = False, opened: bool = False) -> Decision:
    """Decide as `decide` does, without another look at model and data. Raises UserError."""
    here = gpus.visible() if written.device != "cpu" else []
    if in_container:
        wanted, chosen, reason = written.gpus_per_node, LAUNCHERS["compose"](), "by hand"
        offer = Offer.of_this_machine(here, INSIDE)
        device = choose_device(written, offer, wanted)
    else:
        wanted = written.world_size
        chosen, reason = launcher.choose(written, bool(here))
        offer = chosen.offer(written, here)
        device = choose_device(written, offer, wanted)
        here = chosen.cards(written, offer.gpus) if device == "cuda" else here
        chosen.check(written)
    if chosen.on_this_machine and not chosen.own_packages:
        interface.check(device == "cuda")
    cards = here[:wanted]
    resolved = resolve(written, device, chosen.name, all(card.has_bf16 for card in cards), with_file=not opened)
    why = "DEVICE=cpu" if written.device == "cpu" else f"{len(cards)} x {cards[0].name}" if cards else "no GPU"
    lines = [where(resolved, chosen, reason, why)]
    if opened:
        return Decision(written, Decided.of(resolved), chosen, tuple(cards), None, tuple(lines))
    settings, plan = planner.plan_run(resolved, cards, offer.host_gib)
    lines += disk.check(resolved)
    lines += [*view.short_lines(plan), *learning_rate.lines(written, lookup.weights_of(settings))]
    return Decision(written, settings, chosen, tuple(cards), plan, tuple(lines))


def where(settings: Resolved, chosen: Launcher, reason: str, why: str) -> str:
    """Return the line that says where a run will be, on which device, and why."""
    nodes = f"{settings.nodes} node{'s' * (settings.nodes > 1)} {chosen.place}"
    ranks = f"{settings.gpus_per_node} rank{'s' * (settings.gpus_per_node > 1)} each"
    launcher = reason if reason == f"LAUNCHER={chosen.name}" else f"launcher {chosen.name} ({reason})"
    is_said = why in (reason, f"DEVICE={settings.device}")
    device = settings.device if is_said else f"{settings.device} ({why})"
    return f"{launcher}: {nodes}, {ranks}, on {device}"


def choose_device(settings: Settings, offer: Offer, wanted: int) -> OnDevice:
    """Decide the device. Raises SettingsError if `wanted` GPUs are not there."""
    cards, where = offer.gpus, offer.where
    most = CPU_RANKS_PER_CORE * offer.cores
    if not cards and wanted > most:
        what = f"{wanted} ranks on {counted(offer.cores, 'core')} {where}"
        raise SettingsError([wrong("GPUS_PER_NODE", settings.gpus_per_node, what, "use fewer nodes or ranks")])
    without = WITHOUT.get(where, "run `make demo`, which needs none")
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
        there = f"{counted(len(cards), 'GPU')} {'is' if len(cards) == 1 else 'are'} {where}{unused()}"
        what = f"with NODES={settings.nodes} that is {wanted} GPUs, and {there}"
        remedy = f"set NODES=1 GPUS_PER_NODE={len(cards)}"
        if where == INSIDE:
            what = there
            remedy = f"set GPUS_PER_NODE={len(cards)}, or give the node more device_ids"
        elif where == PARTITION:
            remedy = "use fewer nodes, or another partition"
        raise SettingsError([wrong("GPUS_PER_NODE", settings.gpus_per_node, what, remedy)])
    return "cuda" if cards else "cpu"
