"""pip's configuration, read without pip: environment, then pip.conf files. uv does not read it by itself."""

import configparser
import os
import sys
from pathlib import Path
from typing import Iterator, List, Mapping

SECTIONS = ("global", "install", "download")


class Settings:
    """Where pip looks for packages."""

    def __init__(self, values: Mapping[str, str]) -> None:
        """Take the values by pip's names, such as `index-url`."""
        self.index = values.get("index-url", "").strip()
        self.more_indexes = values.get("extra-index-url", "").split()
        self.links = values.get("find-links", "").split()
        self.certificates = values.get("cert", "").strip()
        self.no_index = values.get("no-index", "").strip().lower() in ("1", "true", "yes", "on")


def settings(environment: Mapping[str, str]) -> Settings:
    """Return pip's settings as pip itself would combine them."""
    values = {}
    for path in files(environment):
        values.update(in_file(path))
    for name in ("index-url", "extra-index-url", "find-links", "cert", "no-index"):
        given = environment.get("PIP_" + name.upper().replace("-", "_"))
        if given:
            values[name] = given
    return Settings(values)


def files(environment: Mapping[str, str]) -> Iterator[Path]:
    """Yield the files that pip reads, the stronger ones later."""
    own = environment.get("PIP_CONFIG_FILE", "")
    if own == os.devnull:
        return
    home = Path(environment.get("HOME") or os.path.expanduser("~"))
    folders = environment.get("XDG_CONFIG_DIRS") or "/etc/xdg"
    found = [Path(folder) / "pip" / "pip.conf" for folder in reversed(folders.split(":"))]
    found += [Path("/etc/pip.conf"), home / ".pip" / "pip.conf"]
    found += [Path(environment.get("XDG_CONFIG_HOME") or home / ".config") / "pip" / "pip.conf"]
    found += [Path(sys.prefix) / "pip.conf"]
    yield from found + ([Path(own)] if own else [])


def in_file(path: Path) -> "dict[str, str]":
    """Return the values of a file; none if it cannot be read."""
    parser = configparser.RawConfigParser()
    try:
        parser.read(str(path), encoding="utf-8")
    except (configparser.Error, UnicodeDecodeError):
        return {}
    values = {}
    for section in SECTIONS:
        if parser.has_section(section):
            values.update({name.replace("_", "-"): value for name, value in parser.items(section)})
    return values


def for_uv(pip: Settings, environment: "dict[str, str]") -> "dict[str, str]":
    """Return the environment in which uv looks where pip does. What is set for uv itself stays."""
    told = {}
    if pip.index:
        told["UV_DEFAULT_INDEX"] = pip.index
    if pip.more_indexes:
        told["UV_INDEX"] = " ".join(pip.more_indexes)
        told["UV_INDEX_STRATEGY"] = "unsafe-best-match"  # as pip: the best version of all indexes
    if pip.links:
        told["UV_FIND_LINKS"] = ",".join(pip.links)
    if pip.certificates:
        told["SSL_CERT_FILE"] = pip.certificates
    told.update(environment)
    return told


def places(pip: Settings) -> List[str]:
    """Return the indexes that are configured, pip's first one first."""
    return [] if pip.no_index else ([pip.index] if pip.index else []) + pip.more_indexes
