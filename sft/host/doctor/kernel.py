"""Does the installed torch compute here? Its version, the driver and the cards are compared by a real small kernel."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field

from sft.host import gpus
from sft.host.check import Check
from sft.host.install import backend
from sft.host.install.driver import Card, Machine
from sft.settings.fields import Settings

TIMEOUT_S = 180
# What Triton needs to compile, by the words of an error that says it is missing.
COMPILER = {
    "C compiler": "sudo apt install gcc",
    "cannot find ‘ld’": "sudo apt install gcc",
    "Python.h": "sudo apt install python3-dev (or make clean setup PYTHON=python3.11, if python3.11 has its headers)",
}

OTHER_BUILD = "`make setup TORCH_BACKEND=cu126`, whose oldest card is a Maxwell and whose newest is a Hopper"


@dataclass(frozen=True)
class Found:
    """What sft.trainer.kernel prints."""

    torch: str = ""
    cuda: str = ""  # "": built for the CPU
    devices: list[str] = field(default_factory=list)
    triton: str = ""
    error: str = ""


def check(_: Settings) -> Check:
    """Check torch by computing with it."""
    here = machine()
    try:
        command = [sys.executable, "-m", "sft.trainer.kernel", "--device", "cuda" if here.cards else "cpu"]
        done = subprocess.run(
            command, env=dict(os.environ), capture_output=True, text=True, check=False, timeout=TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        return Check("torch", "failure", f"its first kernel hung for {TIMEOUT_S} s", "restart the machine, try again")
    lines = [line for line in done.stdout.splitlines() if line.startswith('{"torch"')]
    found = (
        Found(**json.loads(lines[-1])) if lines else Found(error=last_line(done.stderr) or "it ended without a word")
    )
    return judged(found, here, done.stderr)


def machine() -> Machine:
    """Return the driver and the cards that a process started here may use."""
    cards = gpus.visible()
    if not cards:
        return Machine()
    return Machine(cards[0].driver, tuple(Card(card.name, card.capability) for card in cards))


def judged(found: Found, machine: Machine, errors: str = "") -> Check:
    """Return the check's result: how torch computed, and whether its build suits the driver and the cards."""
    if not found.torch:
        return Check("torch", "failure", found.error, "`make clean setup` reinstalls it")
    built = f"{found.torch}, built for {'CUDA ' + found.cuda if found.cuda else 'the CPU'}"
    if why := backend.objection(machine, found.cuda or None):
        return Check("torch", "failure", f"{built}: {why}", remedy(machine))
    if names := backend.left_out(machine, found.cuda):
        return Check("torch", "failure", names, "leave it out with CUDA_VISIBLE_DEVICES, or " + OTHER_BUILD)
    if found.error:
        what = found.error.splitlines()[0]
        hint = next((hint for words, hint in COMPILER.items() if words in found.error + errors), "")
        return Check("torch", "failure", f"{built}: {what}", hint or "`make clean setup` reinstalls it")
    if found.cuda and not found.devices:
        return Check("torch", "ok", f"{built}; no GPU: computes on the CPU")
    if not found.cuda:
        return Check("torch", "ok", f"{built}, computes right")
    on = ", ".join(sorted(set(found.devices)))
    compiled = f" and with Triton {found.triton}" if found.triton else ""
    return Check("torch", "ok", f"{built}, computes right on {on}{compiled} (driver {machine.driver})")


def remedy(machine: Machine) -> str:
    """Return what makes torch suit a machine that it does not suit: another build of it, or another driver."""
    choice = backend.chosen(machine, "")
    return choice.problem.partition("; ")[2] or f"`make setup TORCH_BACKEND={choice.name}` replaces it"


def last_line(text: str) -> str:
    """Return the last line of an error message."""
    return (text.strip().splitlines() or [""])[-1]
