"""What is imported is declared in pyproject.toml; constraints.txt has one version of everything that is installed."""

import ast
import functools
import importlib.metadata
import re
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from sft.host.commands.constraints import EXTRAS, LEFT_OUT

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OURS = {"sft", "tests", "benchmarks", "docs", "tasks"}
ASKED_FOR = {
    "benchmarks/peer.py": "trl",  # a program that says itself what it needs
    "sft/trainer/kernel.py": "triton",  # torch's builds for CUDA require it, and it does without
    "sft/trainer/model/towers.py": "triton",
}
WORLDS = [
    {
        "sys_platform": "linux",
        "platform_system": "Linux",
        "python_version": python,
        "python_full_version": f"{python}.0",
    }
    for python in ("3.11", "3.12", "3.13", "3.14")
]


@functools.cache
def packages():
    """Return the installed packages that each module is from; it takes 0.2 s."""
    return importlib.metadata.packages_distributions()


def declared(*extras):
    """Return the requirements of an installation with these extras."""
    lines = PROJECT["dependencies"] + [line for extra in extras for line in PROJECT["optional-dependencies"][extra]]
    return [requirement for line in lines if (requirement := Requirement(line)).name != PROJECT["name"]]


def pins():
    return [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]


def constraints():
    """Return the version of each package in constraints.txt."""
    return dict(pin.split("==") for pin in pins())


def imported(*parts):
    """Yield the name of each module of others that our files import, and the file."""
    for path in (ROOT / part for part in parts):
        for file in [path] if path.is_file() else path.rglob("*.py"):
            for node in statements(ast.parse(file.read_text())):
                modules = [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
                modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                is_package = (file.parent / "__init__.py").exists()  # otherwise its modules import each other by name
                beside = set() if is_package else {other.stem for other in file.parent.glob("*.py")}
                for module in {module.split(".")[0] for module in modules} - sys.stdlib_module_names - OURS - beside:
                    yield module, str(file.relative_to(ROOT))


def statements(node):
    """Yield every statement inside a node, without their expressions, which hold no import and take long to look at."""
    for name in ("body", "orelse", "handlers", "finalbody", "cases"):
        for inner in getattr(node, name, []):
            yield inner
            yield from statements(inner)


@pytest.mark.parametrize(
    ("parts", "extras"),
    [
        (["sft", "tasks.py"], ["gpu", "flash", "qlora"]),  # nothing of `dev`
        (["tests", "benchmarks", "docs"], [*EXTRAS, "flash"]),
    ],
)
def test_every_package_that_is_imported_is_declared(parts, extras):
    allowed = {canonicalize_name(requirement.name) for requirement in declared(*extras)}
    found = {(module, file) for module, file in imported(*parts) if module != ASKED_FOR.get(file)}
    missing = {
        f"{file} imports {module}"
        for module, file in found
        if not allowed & {canonicalize_name(package) for package in packages().get(module, [module])}
    }
    assert not missing and len(found) > 50


def test_a_constraint_is_a_name_and_a_version_and_nothing_else():
    assert [pin for pin in pins() if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*==[0-9][0-9a-z.]*", pin)] == []
    assert list(constraints()) == sorted(pin.split("==")[0] for pin in pins())  # each once


def test_every_requirement_is_met_by_its_constraint():
    versions = constraints()
    for requirement in declared(*EXTRAS):
        name = canonicalize_name(requirement.name)
        if name != "torch":  # left out
            assert requirement.specifier.contains(versions[name], prereleases=True), requirement


def test_all_that_an_installation_brings_is_constrained_and_nothing_else():
    """As the installed packages say, for every Python: one that only a newer Python needs would be missing here."""
    needed, waiting = set(), declared(*EXTRAS)
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if (name, *requirement.extras) in needed or (LEFT_OUT.fullmatch(name) and name != "torch"):
            continue
        needed.add((name, *requirement.extras))
        try:
            brought = map(Requirement, importlib.metadata.requires(name) or [])
        except importlib.metadata.PackageNotFoundError:
            continue  # an extra that this machine does not need
        worlds = [world | {"extra": extra} for world in WORLDS for extra in ("", *requirement.extras)]
        waiting += [one for one in brought if not one.marker or any(map(one.marker.evaluate, worlds))]
    assert {name for name, *_ in needed} - {"torch"} == constraints().keys()


def test_what_is_installed_has_the_versions_of_the_constraints():
    """Skips what is not installed: the extra `gpu` on a machine without one."""
    installed = {canonicalize_name(one.name): Version(one.version) for one in importlib.metadata.distributions()}
    others = {
        name for name, version in constraints().items() if installed.get(name, Version(version)) != Version(version)
    }
    assert not others, "`make check` brings .venv up to date"
