"""`LAUNCHER=compose`: the launcher that starts the nodes of a run as containers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console

from sft import hostfile
from sft.errors import SettingsError, wrong
from sft.host import gpus, ownership
from sft.host.check import Check
from sft.host.check_lines import report
from sft.host.folders import make_folders
from sft.host.gpus import Gpu
from sft.host.launch import compose_checks, docker_engine
from sft.host.launch.compose import Containers, Stack
from sft.host.launch.compose_files import GPU
from sft.host.launch.offer import Offer
from sft.run.directory import Run
from sft.settings import variables
from sft.settings.fields import Settings
from sft.settings.kinds import Launched
from sft.settings.stages import Decided


class Compose:
    """The launcher that starts node programs in containers."""

    name: Launched = "compose"
    place = "in containers of this machine"
    suits = "docker works and a GPU is here"
    queues = False
    on_this_machine = True
    own_packages = True

    def problem(self) -> tuple[str, str] | None:
        return docker_engine.problem()

    def objection(self, settings: Settings, has_gpu: bool) -> str:
        """Return why LAUNCHER=auto does not take it: for a CPU, containers are only the longer way."""
        if not has_gpu:
            return "DEVICE=cpu" if settings.device == "cpu" else "no GPU"
        if settings.nodes != len(hostfile.node_names(2)):
            return f"NODES={settings.nodes}"
        found = self.problem()
        return found[0] if found else ""

    def offer(self, settings: Settings, here: list[Gpu]) -> Offer:
        return Offer.of_this_machine(here)

    def cards(self, settings: Settings, here: list[Gpu]) -> list[Gpu]:
        """Return the GPUs that the compose files give to the nodes; `here` if docker has to say what is wrong."""
        return Stack(Settings.of(settings, device="cuda")).cards() or here

    def check(self, settings: Settings) -> None:
        """Raise SettingsError if the image lacks a package that the settings need."""
        if settings.lora_base_bits == 4 and variables.of_user("QLORA") != "1":
            remedy = "set QLORA=1 in .env, and `make setup`"
            raise SettingsError([wrong("LORA_BASE_BITS", 4, "bitsandbytes is not in the image", remedy)])

    def checks(self, settings: Settings) -> Iterator[Check]:
        """Yield the checks of docker, and those inside both nodes' containers."""
        return compose_checks.checks(on_device(settings))

    def set_up(self, settings: Settings, made: Sequence[Path], console: Console) -> None:
        """Check docker, build the image, and complete `.env` for `docker compose` by hand."""
        settings = on_device(settings)
        ownership.say(console)
        ownership.hand_over(settings, made)
        report(compose_checks.before_build(settings), console)
        stack = Stack(settings)
        stack.build(console)
        if settings.device == "cuda":
            report([compose_checks.gpus_inside(settings)], console)
        stack.say_what_env_file_gets(console)
        ownership.hand_over_env_file(console)

    def prepare(self, settings: Decided, cards: Sequence[Gpu], console: Console) -> int:
        """Check the compose files, make the folders and build the image. Raises UserError."""
        self.stack = Stack(settings)
        self.stack.check()
        if lacking := self.stack.without_nccl():
            console.print(f"warning: {lacking}; set them in both services, as {GPU} does")
        self.stack.claim()
        ownership.say(console)
        ownership.hand_over(settings, make_folders(settings))
        self.stack.say_what_env_file_gets(console)
        self.stack.build(console)
        return settings.master_port  # a container has all ports to itself

    def start(self, run: Run) -> Containers:
        return self.stack.up(run)


def on_device(settings: Settings) -> Settings:
    """Return the settings with the device that containers of this machine would have."""
    return Settings.of(settings, device="cuda" if settings.device != "cpu" and gpus.visible() else "cpu")
