"""The names under which docker knows this folder's containers and image: others than those of a second clone."""

import hashlib
import os
import re

from sft.host.bootstrap import sound

ENV_FILE = os.path.join(sound.ROOT, ".env")
CHECKING = "-check"  # behind the name of the compose project in which `make test-env` starts the nodes
# NAME=value in `.env`: in quotes, or up to a comment
LINE = r"""^[ \t]*(?:export[ \t]+)?{name}[ \t]*=[ \t]*(?:"([^"\n]*)"|'([^'\n]*)'|([^\n]*?))[ \t]*(?:(?<=[ \t])#.*)?$"""
GENERATED = re.compile(r"sft-[0-9a-f]{8}")


def own() -> str:
    """Return the name made for this folder, from its path."""
    return "sft-" + hashlib.sha256(os.path.realpath(sound.ROOT).encode()).hexdigest()[:8]


def project() -> str:
    """Return the name of the compose project: the user's COMPOSE_PROJECT_NAME, or this folder's own."""
    return chosen("COMPOSE_PROJECT_NAME") or own()


def image() -> str:
    """Return the name of the image: the user's SFT_IMAGE, or that of the compose project."""
    return chosen("SFT_IMAGE") or project()


def chosen(name: str) -> str:
    """Return the name that the user has chosen, or "". A generated one may be that of a folder that was copied."""
    found: str = re.findall(r"\A[\w.:/@-]*", variable(name))[0]
    return "" if GENERATED.fullmatch(found) else found


def variable(name: str) -> str:
    """Return a variable from the environment, or from `.env`, where docker compose reads it too."""
    given = os.environ.get(name, "")
    if given:
        return given
    try:
        with open(ENV_FILE, encoding="utf-8-sig", errors="replace") as file:
            found = re.findall(LINE.format(name=name), file.read(), re.MULTILINE)
    except OSError:
        return ""
    return "".join(found[-1]) if found else ""
