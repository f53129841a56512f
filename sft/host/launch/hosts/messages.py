"""What the task asks the agent of a host, and what the agent answers: lines of JSON over ssh."""

from __future__ import annotations

import dataclasses
from typing import Literal

from sft.host.gpus import Gpu
from sft.run.light import dataclass
from sft.run.records import LinkSpeeds
from sft.run.typed_json import Part

ANSWER = "sft-answer "  # before an answer: what a login shell prints is none


@dataclass(frozen=True, kw_only=True)
class Request(Part):
    """A request to an agent. The first one may bring variables of the environment, secrets among them."""

    task: Literal["look", "listen", "prove", "release", "probe", "node"]
    environment: dict[str, str] = dataclasses.field(default_factory=dict)
    # look
    towards: list[str] = dataclasses.field(default_factory=list)  # names of the other hosts, the best one first
    # listen
    ports: list[int] = dataclasses.field(default_factory=list)  # the first of each pair that may be used
    # prove
    folders: dict[str, str] = dataclasses.field(default_factory=dict)  # by the settings that name them
    token: str = ""
    node_rank: int = 0
    address: str = ""  # of the first host, "" if nobody listens there
    port: int = 0
    # probe, with the address and the port of above
    device: Literal["cuda", "cpu"] = "cpu"
    slots: int = 0
    nodes: int = 0
    # node
    arguments: list[str] = dataclasses.field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Card(Part):
    """A GPU of a host."""

    name: str
    total_gib: float
    used_gib: float
    driver: str
    uuid: str
    capability: list[int]

    @classmethod
    def of(cls, gpu: Gpu) -> Card:
        return cls(
            name=gpu.name, total_gib=gpu.total_gib, used_gib=gpu.used_gib, driver=gpu.driver, uuid=gpu.uuid,
            capability=list(gpu.capability),
        )  # fmt: skip

    def gpu(self, index: int) -> Gpu:
        major, minor = self.capability
        return Gpu(index, self.name, 0, self.used_gib, self.total_gib, 0, 0.0, self.driver, self.uuid, (major, minor))


@dataclass(frozen=True, kw_only=True)
class Facts(Part):
    """What a host is, and what a run there would be made of."""

    host: str  # its own name
    boot: str  # differs between machines
    address: str  # by which the host that it was asked about reaches it; "" if nobody was named, or there is no route
    python: str
    packages: dict[str, str]  # versions
    code: dict[str, str]  # digests of the project's files
    variables: dict[str, str]  # of the environment, that libraries of the ranks read
    cores: int
    memory_gib: float
    cards: list[Card]
    problems: list[str] = dataclasses.field(default_factory=list)  # with its variables: no rank could start there


@dataclass(frozen=True, kw_only=True)
class Probed(Part):
    """How ranks of a host met those of the others."""

    said: str = ""  # "": they met and added; otherwise their last line
    speeds: LinkSpeeds | None = None  # as rank 0 has measured them


@dataclass(frozen=True, kw_only=True)
class Answer(Part):
    """An agent's answer to any other request."""

    problem: str = ""
    port: int = 0  # on which it listens
    # By the setting that names a folder: what is wrong with it, and whether a lock held elsewhere is seen here.
    folders: dict[str, str] = dataclasses.field(default_factory=dict)
    locks: dict[str, bool] = dataclasses.field(default_factory=dict)
