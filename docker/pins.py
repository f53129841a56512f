"""Write what an image's packages are installed from: `python3 pins.py SOURCE TARGET`. Standard library only.

Every file here is the input of a layer. So each has only what that layer needs: a change in the configuration of a
linter, or in the version of one, must not install gigabytes again.
"""

import json
import re
import shutil
import sys
import tomllib
from pathlib import Path

EXTRAS = ("gpu", "flash", "qlora")
KEPT = "uv"  # of the tools for tests: it installs torch
# What the program that installs torch imports of the project's code.
BOOTSTRAP = ("__init__", "bundle", "checkout", "index", "pip_settings", "sound", "stop", "switch", "uv")
INSTALL = ("__init__", "backend", "driver", "pip", "shown", "torch_build")
INSTALLER = (
    "sft/__init__.py", "sft/host/__init__.py", "sft/host/install/backends.toml",
    *(f"sft/host/bootstrap/{name}.py" for name in BOOTSTRAP), *(f"sft/host/install/{name}.py" for name in INSTALL),
)  # fmt: skip


def main(source: Path, target: Path) -> None:
    """Write a file of requirements for each layer, and a folder with all that the installation of torch reads."""
    project = tomllib.loads((source / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    install = target / "install"
    for file in INSTALLER:
        (install / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / file, install / file)
    required = project["dependencies"]
    torch = [item for item in required if name(item) == "torch"]
    (install / "pyproject.toml").write_text(f"[project]\ndependencies = {json.dumps(torch)}\n")
    write(target / "requirements.txt", required)
    for extra in EXTRAS:
        write(target / f"{extra}.txt", extras[extra])
    tools = {name(item) for item in extras["dev"]} - {KEPT}
    pins = (source / "constraints.txt").read_text(encoding="utf-8").splitlines()
    write(install / "constraints.txt", [pin for pin in pins if not pin.startswith("#") and name(pin) not in tools])


def name(requirement: str) -> str:
    """Return the name of a package in a requirement such as `torch>=2.11`."""
    return re.split(r"[^\w.-]", requirement, maxsplit=1)[0].lower()


def write(path: Path, lines: "list[str]") -> None:
    """Write lines to a file."""
    path.write_text("".join(f"{line}\n" for line in lines))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
