"""The machines that HOSTS names: `hostA,user@hostB:2222`, as ssh takes them, in the order of their node ranks."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from sft import hostfile
from sft.errors import UserError, wrong
from sft.settings import variables

# A name never begins with a dash, which ssh would take for an option.
HOST = re.compile(
    r"(?:(?P<user>\w[\w.-]*)@)?(?:\[(?P<v6>[0-9A-Fa-f:.%\w]+)\]|(?P<name>\w[\w.-]*))(?::(?P<port>\d{1,5}))?"
)
BARE_V6 = re.compile(r"[0-9A-Fa-f]*(?::[0-9A-Fa-f]*){2,}(?:%\w+)?")


@dataclass(frozen=True)
class Host:
    """A machine as ssh takes it."""

    text: str  # as the user wrote it
    name: str  # a name, an address, or an alias of the user's ssh configuration
    user: str = ""  # "": as ssh decides
    port: int = 0  # 0: as ssh decides


def parse(text: str) -> list[Host]:
    """Return the hosts of a list separated by commas. Raises ValueError."""
    found: list[Host] = []
    for word in map(str.strip, text.split(",")) if text.strip() else ():
        if not word:
            raise ValueError("has nothing between two commas, or at an end")
        match = HOST.fullmatch(word)
        if BARE_V6.fullmatch(word):
            host = Host(word, word)
        elif match and int(match["port"] or 0) < 2**16:
            host = Host(word, match["v6"] or match["name"], match["user"] or "", int(match["port"] or 0))
        else:
            raise ValueError(f"has {word!r}, which is not a host such as hostA, user@hostA or hostA:2222")
        if host.text in (other.text for other in found):
            raise ValueError(f"names {word} twice; GPUS_PER_NODE says how many GPUs of it are used")
        found.append(host)
    return found


def names(text: str) -> str:
    """Check a list of hosts. Return it without spaces. Raises ValueError."""
    return ",".join(host.text for host in parse(text))


def settle(values: dict[str, object], given: set[str]) -> list[str]:
    """Put the hosts of a hostfile in place of its path, and their number and slots into NODES and GPUS_PER_NODE.

    `given`: the settings that were given for this run, behind `make` or in the environment; those in `.env`, which has
    NODES and GPUS_PER_NODE from the beginning, give way. Returns a line for everything that is wrong.
    """
    text = str(values.get("hosts") or "")
    if not text or str(values.get("launcher") or "auto").lower() not in ("auto", "hosts"):
        return []
    path, slots = variables.expanded(text), None
    if "/" in text or path.is_file():
        try:
            found = read(path)
        except UserError as error:
            del values["hosts"]
            return [wrong("HOSTS", text, str(error).split("; ")[0], str(error).split("; ")[-1])]
        text, slots = ",".join(found), next(iter(found.values()))
        values["hosts"] = text
    try:
        number = len(parse(text))
    except ValueError:
        return []  # the field says it
    problems = []
    wanted = {"nodes": number} | ({"gpus_per_node": slots} if slots else {})
    for name, value in wanted.items():
        if name in given and str(values[name]) != str(value):
            what = f"HOSTS names {number} hosts" if name == "nodes" else f"the hostfile says slots={slots}"
            problems.append(wrong(name.upper(), values[name], what, f"leave {name.upper()} out, or change HOSTS"))
        values[name] = value
    return problems


def read(path: Path) -> dict[str, int]:
    """Return the slots of each host of a DeepSpeed hostfile. Raises UserError."""
    if not path.is_file():
        raise UserError(f"{path}: no such hostfile; give its path, or names as in HOSTS=hostA,hostB")
    return hostfile.read_hostfile(path)
