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
    public: bool  # what package indexes have under the plain version

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
    return tuple(Backend(**row | {"oldest": tuple(row["oldest"]), "newest": tuple(row["newest"])}) for row in rows)


def public() -> str:
    """Return the build that package indexes have under the plain version."""
    return next(one.name for one in backends() if one.public)


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
    if suiting(best, machine.cards):
        return Choice(best.name, note=no_kernels(best, [one for one in machine.cards if not best.has_kernels_for(one)]))
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


def no_kernels(backend: Backend, cards: list[Card]) -> str:
    """Return the words for cards that a build has no kernels for, "" if there are none."""
    names = ", ".join(sorted({card.name for card in cards}))
    return f"torch's CUDA {backend.cuda} has no kernels for {names}" if cards else ""


def objection(machine: Machine, cuda: str | None) -> str:
    """Return what speaks against an installed torch on this machine, "" if nothing does. `cuda`: None for the CPU.

    A build that is not in the table is taken to run where one of the same major version of CUDA runs.
    """
    if not machine.cards:
        return ""
    if cuda is None:
        return "it is built for the CPU, and there is a GPU"
    known = next((one for one in backends() if one.cuda == cuda), None)
    like = known or next((one for one in backends() if numbers(one.cuda)[0] == numbers(cuda)[0]), None)
    if like and not like.runs_on(machine.driver):
        return f"its CUDA {cuda} needs driver {like.driver} or newer, and this one is {machine.driver}"
    if known and not suiting(known, machine.cards):
        return no_kernels(known, list(machine.cards))
    return ""


def left_out(machine: Machine, cuda: str | None) -> str:
    """Return which cards an installed torch has no kernels for, "" if there are none."""
    known = next((one for one in backends() if one.cuda == cuda), None)
    return no_kernels(known, [card for card in machine.cards if not known.has_kernels_for(card)]) if known else ""
