"""uv, the one program that can make `.venv` where Python cannot: on the machine already, or fetched into `.uv/`.

It is fetched by pip, or by the standard library from where pip would fetch it. Debian and Ubuntu come without pip.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Iterator, List, Optional, Tuple

from sft.host.bootstrap import index, pip_settings, sound

ROOT = Path(sound.ROOT)
FOLDER = ROOT / ".uv"
PROGRAM = FOLDER / "bin" / "uv"
PIP_PACKAGES = ("python3-pip-whl", "python-pip-whl")  # the second: Debian 11, Ubuntu 20.04
PUBLIC_INDEX = re.compile(r"""PyPI = PackageIndex\(\s*["'](https://[^"']+/)""")


def version() -> str:
    """Return the version in constraints.txt."""
    match = re.search(r"^uv==(\S+)", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    return match.group(1) if match else ""


def environment(given: "dict[str, str]") -> "dict[str, str]":
    """Return the environment to run uv in: it looks where pip does, and its Pythons are the project's own."""
    told = pip_settings.for_uv(pip_settings.settings(given), given)
    told.setdefault("UV_PYTHON_INSTALL_DIR", str(FOLDER / "python"))
    return told


def options(given: "dict[str, str]") -> List[str]:
    """Return what uv is told about indexes that no variable of its own tells it."""
    return ["--no-index"] if pip_settings.settings(given).no_index else []


def program() -> Tuple[str, str]:
    """Return the path of uv, or "" and why there is none."""
    for there in (str(PROGRAM), shutil.which("uv")):
        if there and runs(there):
            return there, ""
    print(f"  getting uv {version()}", flush=True)
    FOLDER.mkdir(exist_ok=True)
    why_not = ""
    with tempfile.TemporaryDirectory(dir=str(FOLDER)) as folder:
        for way in (with_pip, from_index, from_public_index):
            wheel, why = way(Path(folder))
            why_not = why or why_not
            if wheel:
                unpack(wheel)
                return (str(PROGRAM), "") if runs(str(PROGRAM)) else ("", "uv does not run here")
    return "", why_not or "no pip"


def runs(path: str) -> bool:
    """Tell whether a program runs here: `.uv` may be from another machine."""
    try:
        return subprocess.run([path, "--version"], capture_output=True).returncode == 0
    except OSError:
        return False


def unpack(wheel: Path) -> None:
    """Put the program that is in a wheel to its place, whole or not at all."""
    PROGRAM.parent.mkdir(exist_ok=True)
    part = PROGRAM.with_name("uv.part")
    with zipfile.ZipFile(str(wheel)) as archive:
        name = next(name for name in archive.namelist() if name.endswith("/scripts/uv"))
        with archive.open(name) as source, open(str(part), "wb") as target:
            shutil.copyfileobj(source, target)
    part.chmod(0o755)
    os.replace(str(part), str(PROGRAM))


# Three ways to the wheel. Each returns it, or why there is none.


def with_pip(folder: Path) -> Tuple[Optional[Path], str]:
    """Download the wheel with this Python's pip."""
    if not succeeds(sys.executable, "-m", "pip", "--version"):
        return None, ""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--dest", str(folder), "uv==" + version()]
    done = subprocess.run(command, capture_output=True, text=True)
    wheels = sorted(folder.glob("uv-*.whl"))
    return (wheels[0], "") if done.returncode == 0 and wheels else (None, reason(done.stderr))


def from_index(folder: Path) -> Tuple[Optional[Path], str]:
    """Download the wheel from where pip's configuration says, without pip."""
    return index.download("uv", version(), pip_settings.settings(os.environ), folder)


def from_public_index(folder: Path) -> Tuple[Optional[Path], str]:
    """Download the wheel from the index that pip uses if nothing is configured. apt gets a pip, which names it."""
    pip = pip_settings.settings(os.environ)
    if pip.index or pip.no_index:
        return None, ""
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        return None, "no pip"
    for package in PIP_PACKAGES:
        if succeeds("apt-get", "-qq", "download", package, cwd=str(folder)):
            break
    for archive in folder.glob("*.deb"):
        succeeds("dpkg-deb", "-x", str(archive), str(folder))
    for wheel in folder.glob("usr/share/python-wheels/pip-*.whl"):
        with zipfile.ZipFile(str(wheel)) as content:
            address = PUBLIC_INDEX.search(content.read("pip/_internal/models/index.py").decode())
        if address:
            pip.index = address.group(1) + "simple"
            return index.download("uv", version(), pip, folder)
    return None, "no pip, and apt cannot download it"


def succeeds(*command: str, cwd: Optional[str] = None) -> bool:
    """Tell whether a command succeeds; show nothing of it."""
    return subprocess.run(command, cwd=cwd, capture_output=True).returncode == 0


def reason(text: str) -> str:
    """Return the line of an error message that says what went wrong."""
    lines = list(told(text))
    return lines[-1] if lines else "no message"


def told(text: str) -> Iterator[str]:
    """Yield the lines of a message without marks and frames."""
    for line in text.splitlines():
        words = re.sub(r"\x1b\[[\d;]*m", "", line).strip(" ×╰├│─▶>")
        if words and not words.startswith(("hint:", "WARNING:", "[notice]")):
            yield re.sub(r"^(ERROR|error|cause): ", "", words)
