"""Make the virtual environment: `python3 sft/host/environment.py [--dev]`.

Runs before anything is installed, so it uses the standard library only. torch comes first and alone, because a
plain `pip install` of anything that needs it would draw several gigabytes of CUDA onto a machine without a GPU.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
VENV = ROOT / ".venv"


def torch_version(pyproject: Path) -> str:
    """Return the torch version to install: the upper bound in pyproject.toml."""
    dependencies = tomllib.loads(pyproject.read_text())["project"]["dependencies"]
    bound = next(re.search(r"<=([\d.]+)", item) for item in dependencies if item.startswith("torch"))
    if bound is None:
        raise SystemExit("pyproject.toml: torch has no upper bound; write torch>=2.11,<=VERSION")
    return bound[1]


def run(*command: str | Path) -> bool:
    """Run a command with its output shown; tell whether it succeeded."""
    return subprocess.run([str(part) for part in command], cwd=ROOT, check=False).returncode == 0


def has_gpu() -> bool:
    """Tell whether NVIDIA's driver is installed."""
    return shutil.which("nvidia-smi") is not None


def install_torch(python: Path, version: str) -> None:
    """Install torch: the build for the GPU's driver where there is one, otherwise the CPU build."""
    if subprocess.run([str(python), "-c", "import torch"], capture_output=True, check=False).returncode == 0:
        return
    pip = (str(python), "-m", "pip", "install", "-qq")
    # pip's own configuration may know a folder with the CPU build; no index has it under this name.
    if not has_gpu():
        cpu_build = subprocess.run([*pip, f"torch=={version}+cpu"], cwd=ROOT, capture_output=True, check=False)
        if cpu_build.returncode == 0:
            return
    # uv knows where torch's builds for each CUDA version, and for none, are published.
    backend = f"--torch-backend={'auto' if has_gpu() else 'cpu'}"
    uv = (python, "-m", "uv", "pip", "install", "-q", "--python", python)
    if not run(*pip, "uv") or not run(*uv, backend, f"torch=={version}"):
        raise SystemExit(
            f"torch=={version}: not installed; check the network, or install torch {version} into .venv yourself "
            "and run this again"
        )


def main() -> None:
    """Bring .venv up to date with pyproject.toml."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dev", action="store_true", help="the tools for `make check` and `make test` too")
    dev = parser.parse_args().dev or (VENV / ".dev").exists()
    if sys.version_info < (3, 11):  # noqa: UP036 - this file is run by whatever python3 is
        raise SystemExit(f"PYTHON={sys.executable}: is {sys.version.split()[0]}; use Python 3.11 or newer")
    print("setting up .venv (some minutes the first time)", flush=True)
    python = VENV / "bin" / "python"
    if not python.exists() and not run(sys.executable, "-m", "venv", VENV):
        shutil.rmtree(VENV, ignore_errors=True)
        raise SystemExit("python3 -m venv: failed; install it, on Debian and Ubuntu: sudo apt install python3-venv")
    install_torch(python, torch_version(ROOT / "pyproject.toml"))
    extras = ",".join(["dev"] * dev + ["gpu"] * has_gpu())
    if not run(python, "-m", "pip", "install", "-qq", "-e", f".[{extras}]" if extras else "."):
        raise SystemExit("pip install: failed; see its message above, then run this again")
    (VENV / "bin" / "inv").touch()  # newer than pyproject.toml, for make
    if dev:
        (VENV / ".dev").touch()


if __name__ == "__main__":
    main()
