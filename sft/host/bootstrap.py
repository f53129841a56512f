"""Make the virtual environment: `python3 sft/host/bootstrap.py [--dev]`.

Runs before anything is installed, so it uses the standard library only. torch comes first and alone, because a
plain `pip install` of anything that needs it would draw several gigabytes of CUDA onto a machine without a GPU.
"""

from __future__ import annotations

import argparse
import collections
import queue
import re
import shutil
import subprocess
import sys
import threading
import time
import tomllib
from pathlib import Path
from typing import TextIO

ROOT = Path(__file__).resolve().parents[2]
VENV = ROOT / ".venv"
CONSTRAINTS = ("-c", "constraints.txt")  # the one version of every package but torch
TICK_S = 0.5
LAST_LINES = 20  # of pip's output, shown if it fails
LARGE_MB = 20.0  # a download of which a log has a line
MEGABYTES = {"kB": 0.001, "MB": 1.0, "GB": 1000.0}
# As in `  Downloading torch-2.13.0-cp311-cp311-manylinux_2_28_x86_64.whl (123.4 MB)`, but not its .metadata file.
FETCHED = re.compile(
    r"\s*(?P<how>Downloading|Using cached) (?:\S*/)?(?P<name>[^/\s-]+-[^/\s-]+)\S*"
    r"(?<!\.metadata) \((?P<size>[\d.]+) (?P<unit>\w+)\)"
)


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


def pip_install(python: Path, *words: str, errors: bool = True) -> bool:
    """Install packages with pip, and show what it does; tell whether it succeeded. `errors`: show why it did not."""
    command = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "--progress-bar=off", *words]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def read() -> None:
        for line in process.stdout or ():
            lines.put(line)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    shown = Shown(sys.stdout)
    last: collections.deque[str] = collections.deque(maxlen=LAST_LINES)
    while True:
        try:
            line = lines.get(timeout=TICK_S)
        except queue.Empty:
            shown.tick()
            continue
        if line is None:
            break
        shown.note(line)
        last.append(line)
    succeeded = process.wait() == 0
    shown.end(succeeded)
    if errors and not succeeded:
        sys.stderr.write("".join(last))
    return succeeded


class Shown:
    """What is shown of pip's work: one line that changes in a terminal, a line for what takes long elsewhere."""

    def __init__(self, out: TextIO) -> None:
        """Show it on `out`."""
        self.out, self.is_terminal = out, out.isatty()
        self.started = time.monotonic()
        self.doing = "looking up versions"
        self.packages, self.megabytes = 0, 0.0

    def note(self, line: str) -> None:
        """Take in one line of pip's output."""
        takes_long = True
        if match := FETCHED.match(line):
            megabytes = float(match["size"]) * MEGABYTES.get(match["unit"], 0)
            self.megabytes += megabytes
            self.doing = f"{match['how'].lower()} {match['name']} ({match['size']} {match['unit']})"
            takes_long = megabytes >= LARGE_MB
        elif match := re.match(r"\s*Building (wheel|editable) for (\S+) .*: started", line):
            self.doing = f"building {match[2]}"
        elif match := re.match(r"Installing collected packages: (.*)", line):
            self.packages = len(match[1].split(", "))
            self.doing = f"installing {counted(self.packages, 'package')}"
        else:
            return
        if takes_long and not self.is_terminal:
            print(f"    {self.doing}", file=self.out, flush=True)
        self.tick()

    def tick(self) -> None:
        """Show the time that has passed, in a terminal."""
        if self.is_terminal:
            line = f"    {clock(time.monotonic() - self.started)}  {self.doing}"
            self.out.write(f"\r\x1b[K{line[: shutil.get_terminal_size().columns - 1]}")
            self.out.flush()

    def end(self, succeeded: bool) -> None:
        """Leave a line with what was done."""
        if self.is_terminal:
            self.out.write("\r\x1b[K")
        if succeeded:
            size = f", {self.megabytes:,.0f} MB" if self.megabytes >= 1 else ""
            done = f"{counted(self.packages, 'package')}{size}" if self.packages else "nothing new"
            print(f"    {done}, in {clock(time.monotonic() - self.started)}", file=self.out, flush=True)


def counted(number: int, what: str) -> str:
    """Return a number with its noun."""
    return f"{number} {what}{'s' * (number != 1)}"


def clock(seconds: float) -> str:
    """Return a duration as m:ss."""
    return f"{round(seconds) // 60}:{round(seconds) % 60:02}"


def has_gpu() -> bool:
    """Tell whether NVIDIA's driver is installed."""
    return shutil.which("nvidia-smi") is not None


def install_torch(python: Path, version: str) -> None:
    """Install torch: the build for the GPU's driver where there is one, otherwise the CPU build."""
    if subprocess.run([str(python), "-c", "import torch"], capture_output=True, check=False).returncode == 0:
        return
    print(f"  torch {version}, built for {'CUDA' if has_gpu() else 'the CPU'}: the largest part", flush=True)
    # pip's own configuration may know a folder with the CPU build; no index has it under this name.
    if not has_gpu() and pip_install(python, *CONSTRAINTS, f"torch=={version}+cpu", errors=False):
        return
    # uv knows where torch's builds for each CUDA version, and for none, are published. It shows its own progress.
    backend = f"--torch-backend={'auto' if has_gpu() else 'cpu'}"
    uv = (python, "-m", "uv", "pip", "install", "--python", python)
    if not pip_install(python, *CONSTRAINTS, "uv") or not run(*uv, *CONSTRAINTS, backend, f"torch=={version}"):
        raise SystemExit(
            f"torch=={version}: not installed; check the network, or install torch {version} into .venv yourself "
            "and run this again"
        )


def main() -> None:
    """Bring .venv up to date with pyproject.toml and constraints.txt."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dev", action="store_true", help="the tools for `make check` and `make test` too")
    dev = parser.parse_args().dev or (VENV / ".dev").exists()
    if sys.version_info < (3, 11):  # noqa: UP036 - this file is run by whatever python3 is
        raise SystemExit(f"PYTHON={sys.executable}: is {sys.version.split()[0]}; use Python 3.11 or newer")
    started = time.monotonic()
    print("setting up .venv (some minutes and gigabytes the first time)", flush=True)
    python = VENV / "bin" / "python"
    if not python.exists() and not run(sys.executable, "-m", "venv", VENV):
        shutil.rmtree(VENV, ignore_errors=True)
        raise SystemExit("python3 -m venv: failed; install it, on Debian and Ubuntu: sudo apt install python3-venv")
    install_torch(python, torch_version(ROOT / "pyproject.toml"))
    extras = ",".join(["dev"] * dev + ["gpu"] * has_gpu())
    print("  DeepSpeed, transformers, datasets and what they need" + ", tools for tests" * dev, flush=True)
    if not pip_install(python, *CONSTRAINTS, "-e", f".[{extras}]" if extras else "."):
        raise SystemExit("pip install: failed; see its message above, then run this again")
    (VENV / "bin" / "inv").touch()  # newer than pyproject.toml and constraints.txt, for make
    if dev:
        (VENV / ".dev").touch()
    print(f".venv is ready, in {clock(time.monotonic() - started)}", flush=True)


if __name__ == "__main__":
    main()
