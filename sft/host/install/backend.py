"""Which build of torch suits a driver and its cards: the table is backends.toml. Standard library only."""

from __future__ import annotations

import functools
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

from sft.host.install.driver import Card, Machine

TABLE = Path(__file__).with_name("backends.toml")
CPU = "cpu"


@dataclass(frozen=True)
class Backend:
    """A CUDA build of torch: the oldest driver it runs on, and the compute capabilities it has kernels for."""

    name: str
    driver: str
    oldest: tuple[int, int]
    newest: tuple[int, int]

    def runs_on(self, driver: str) -> bool:
        """Tell whether a driver is new enough."""
        return numbers(driver) >= numbers(self.driver)

    def has_kernels_for(self, card: Card) -> bool:
        """Tell whether a card can compute with it; one that does not say its capability is taken to."""
        return card.capability == (0, 0) or self.oldest <= card.capability <= self.newest

    @property
    def cuda(self) -> str:
        """The version of CUDA, such as 12.6."""
        return f"{self.name[2:-1]}.{self.name[-1]}"


@dataclass(frozen=True)
class Choice:
    """The build to install; `problem`: why none suits, and what to do; `note`: what it leaves out."""

    name: str
    problem: str = ""
    note: str = ""


@functools.cache
def backends() -> tuple[Backend, ...]:
    """Return the CUDA builds, the one to prefer first."""
    rows = tomllib.loads(TABLE.read_text(encoding="utf-8"))["backend"]
    return tuple(Backend(row["name"], row["driver"], tuple(row["oldest"]), tuple(row["newest"])) for row in rows)


def numbers(version: str) -> tuple[int, ...]:
    """Return a version as numbers."""
    return tuple(map(int, re.findall(r"\d+", version)))


def chosen(machine: Machine, asked: str) -> Choice:
    """Return the build for a machine. `asked`: TORCH_BACKEND; "" and "auto" leave it to the driver and the cards."""
    if asked not in ("", "auto"):
        known = re.fullmatch(r"cpu|cu1[2-9]\d", asked)
        problem = f"TORCH_BACKEND={asked}: is not a build of torch; use auto, cpu, " + ", ".join(
            one.name for one in backends()
        )
        return Choice(asked, problem="" if known else problem)
    if not machine.cards:
        return Choice(CPU, note=machine.problem)
    running = [one for one in backends() if one.runs_on(machine.driver)]
    if not running:
        return Choice(CPU, problem=too_old(machine.driver, backends()[-1].driver, machine.cards[0]))
    best = max(running, key=lambda one: len(suiting(one, machine.cards)))  # the first of those that suit as many
    left_out = [card for card in machine.cards if card not in suiting(best, machine.cards)]
    if len(left_out) < len(machine.cards):
        return Choice(best.name, note=without(best, left_out))
    newer = next((one for one in backends() if suiting(one, machine.cards)), None)
    if newer is None:
        names = ", ".join(sorted({card.name for card in machine.cards}))
        return Choice(CPU, problem=f"{names}: torch has no build for it; go on without it: TORCH_BACKEND=cpu")
    return Choice(CPU, problem=too_old(machine.driver, newer.driver, suiting(newer, machine.cards)[0]))


def suiting(backend: Backend, cards: tuple[Card, ...]) -> list[Card]:
    """Return the cards that a build has kernels for."""
    return [card for card in cards if backend.has_kernels_for(card)]


def too_old(driver: str, least: str, card: Card) -> str:
    """Return the line for a driver that no build for a card runs on."""
    major = least.split(".")[0]
    return (
        f"driver {driver}: is too old for {card.name}, for which torch needs {least} or newer; install it: "
        f"sudo apt install nvidia-driver-{major} (Ubuntu), restart; or go on without the GPU: TORCH_BACKEND=cpu"
    )


def without(backend: Backend, cards: list[Card]) -> str:
    """Return the line for cards that a build has no kernels for, "" if there are none."""
    names = ", ".join(sorted({card.name for card in cards}))
    remedy = "leave it out with CUDA_VISIBLE_DEVICES"
    return f"torch for CUDA {backend.cuda} has no kernels for {names}; {remedy}" if cards else ""


def objection(machine: Machine, cuda: str | None) -> str:
    """Return what speaks against an installed torch on this machine, "" if nothing does. `cuda`: None for the CPU."""
    if not machine.cards:
        return ""
    if cuda is None:
        return "it is built for the CPU, and there is a GPU"
    backend = next((one for one in backends() if one.cuda == cuda), None)
    least = backend.driver if backend else {12: "525.60.13", 13: "580.65.06"}.get(numbers(cuda)[0], "")
    if numbers(machine.driver) < numbers(least):
        return f"its CUDA {cuda} needs driver {least} or newer, and this one is {machine.driver}"
    if backend and not suiting(backend, machine.cards):
        return f"its CUDA {cuda} has no kernels for {machine.cards[0].name}"
    return ""
