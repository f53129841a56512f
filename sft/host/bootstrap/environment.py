"""`.venv`: noticed when it is broken, made with the machine's Python where that will do, and with uv where not."""

import fcntl
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NoReturn, Optional

from sft.host.bootstrap import at_work, bundle, sound, uv
from sft.host.bootstrap.stop import stop

ROOT = Path(sound.ROOT)
VENV = ROOT / ".venv"
OLDEST, NEWEST = (3, 11), (3, 14)  # what the packages in constraints.txt support
AS_IS = "--as-is"  # of tasks that only look at a run or stop it: they need not have the newest packages
UNFIT = 'programs of a virtual environment do not run under this path; move the folder to one without : " $ ` or \\'
MANAGED = "3.12"  # the Python that uv gets where the machine's does not do


def main() -> NoReturn:
    """Bring `.venv` into being, and go on in its own Python with what belongs into it (sft/host/install)."""
    os.chdir(str(ROOT))
    if waited_for_another() and is_up_to_date():
        sys.exit(0)
    bundle.use(os.environ)
    fault = what_is_wrong()
    leave_to_runs(fault)
    if fault:
        print(".venv: " + fault + "; it is made anew", flush=True)
        remove()
    if not VENV.is_dir():
        print("setting up .venv (some minutes and gigabytes the first time)", flush=True)
        make()
    python = str(VENV / "bin" / "python")
    os.execv(python, [python, "-m", "sft.host.install", *(word for word in sys.argv[1:] if word != AS_IS)])


def leave_to_runs(fault: str) -> None:
    """Exit if runs are at work with the packages in `.venv`, which import some of them only when they need them.

    With AS_IS the task goes on with the packages as they are, if those are whole.
    """
    in_use = at_work.in_use() if (VENV / "bin" / "inv").exists() else ""  # nothing works with what was never finished
    if not in_use:
        return
    if fault:
        stop(f"{in_use}, but {fault}; it is made anew at the first `make` after that")
    if AS_IS not in sys.argv:
        stop(f"{in_use}, and its packages have to be renewed; wait for the end of that, or `make stop`")
    print(f"{in_use}; its packages are renewed at the first `make` after that", flush=True)
    sys.exit(0)


def waited_for_another() -> bool:
    """Let no other `make` install into `.venv` while this one does; tell whether one did so until now.

    The lock is on the checkout's folder, and goes with this process into sft/host/install.
    """
    folder = os.open(str(ROOT), os.O_RDONLY)
    os.set_inheritable(folder, True)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(".venv: another make is setting it up; waiting for it", flush=True)
        fcntl.flock(folder, fcntl.LOCK_EX)
        return True
    except OSError:  # a file system without locks
        pass
    return False


def is_up_to_date() -> bool:
    """Tell whether `.venv` is what `make` asked for: finished, and newer than what it is made from."""
    made = [VENV / "bin" / "inv", *([VENV / ".dev"] if "--dev" in sys.argv else [])]
    made_from = [ROOT / "pyproject.toml", ROOT / "constraints.txt"]
    if (VENV / sound.MARK).exists() or not all(file.exists() for file in made):
        return False
    return min(file.stat().st_mtime for file in made) >= max(file.stat().st_mtime for file in made_from)


def what_is_wrong() -> str:
    """Return what is wrong with `.venv`, or "" if it is whole, unfinished or not there."""
    if not VENV.exists() and not VENV.is_symlink():
        return ""
    command = [str(VENV / "bin" / "python"), "-IS", sound.__file__]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError:
        return "its python does not run here"
    said = done.stdout.strip()
    if done.returncode or not said:
        return "its python does not run here"
    return "" if said in (sound.SOUND, sound.UNFINISHED) else said


def remove() -> None:
    """Remove `.venv`; of a link the link only. Exits if that is not allowed."""
    try:
        if VENV.is_symlink():
            VENV.unlink()
        else:
            shutil.rmtree(str(VENV))
    except OSError as error:
        stop(f".venv: cannot be removed ({error.strerror}); remove it yourself: sudo rm -rf .venv")


def make() -> None:
    """Make `.venv` with pip in it. Exits with one line if there is no way."""
    if os.pathsep in str(ROOT):
        stop(f"{ROOT}: {UNFIT}")
    if not os.access(str(ROOT), os.W_OK):
        stop(f"{ROOT}: you may not write there; clone it into a folder that you may write to")
    if os.statvfs(str(ROOT)).f_flag & os.ST_NOEXEC:
        stop(f"{ROOT}: programs do not run on this file system (noexec); move the folder, or mount it with exec")
    try:
        if is_usable() and has_venv():
            made = subprocess.run([sys.executable, "-m", "venv", str(VENV)], stderr=subprocess.PIPE, text=True)
            if made.returncode:
                sys.stderr.write(made.stderr)
                stop("python3 -m venv: failed; see its message above")
        else:
            with_uv()
        if not uv.runs(str(VENV / "bin" / "pip")):  # sh may be in between, which knows other characters than `execve`
            stop(f"{ROOT}: {UNFIT}")
    except BaseException:
        if VENV.is_dir():
            remove()
        raise


def is_usable() -> bool:
    """Tell whether the packages can be installed for this Python: all of them, or those of a bundle."""
    found = sys.version_info[:2]
    return bundle.python(os.environ) in ("", ".".join(map(str, found))) and OLDEST <= found <= NEWEST


def has_venv() -> bool:
    """Tell whether this Python can make an environment with pip. Debian and Ubuntu leave `ensurepip` out."""
    return all(importlib.util.find_spec(name) for name in ("venv", "ensurepip"))


def with_uv() -> None:
    """Make `.venv` with uv: with this Python if only its venv is missing, otherwise with one that uv gets."""
    version = ".".join(map(str, sys.version_info[:3]))
    usable = is_usable()
    if usable:
        print(f"  python3 is {version} without venv: making .venv with uv", flush=True)
    else:
        print(f"  python3 is {version}: making .venv with uv and Python {wanted()}", flush=True)
    program, why_not = uv.program()
    if program:
        if bundle.is_asked_for(os.environ):
            bundle.take_python(os.environ, uv.FOLDER / "python")
        chosen = sys.executable if usable else wanted()
        seen = sys.stderr.isatty()  # there uv shows its progress itself
        command = [program, "venv", *(["--quiet"] * (not seen)), "--seed", "--python", chosen, str(VENV)]
        done = subprocess.run(
            command + uv.options(dict(os.environ)),
            env=uv.environment(dict(os.environ)),
            stderr=None if seen else subprocess.PIPE,
            text=True,
        )
        if done.returncode == 0:
            return
        why_not = "see above" if seen else uv.reason(done.stderr)
    stop(remedy(version, usable, why_not, os_release()))


def wanted() -> str:
    """Return the Python that uv makes `.venv` with: that of a bundle, uv's own variable, or MANAGED."""
    return bundle.python(os.environ) or os.environ.get("UV_PYTHON") or MANAGED


def remedy(version: str, usable: bool, why_not: str, release: "dict[str, str]") -> str:
    """Return the line for a machine where no `.venv` can be made: what helps on its distribution."""
    found = f"PYTHON={sys.executable}: is {version}"
    if usable:
        return f"{found} without venv, and uv could not help ({why_not}); install it: sudo apt install python3-venv"
    package = newer_python(release)
    how = f"sudo apt install {package}-venv, then `make PYTHON={package}`" if package else "use PYTHON=python3.11"
    problem = f"{found}, and uv could not get Python {wanted()} ({why_not})"
    return f"{problem}; connect to the network and try again, or {how}"


def newer_python(release: "dict[str, str]") -> Optional[str]:
    """Return the name of a package with a Python that will do, beside the distribution's own older one."""
    return "python3.11" if release.get("VERSION_CODENAME") == "jammy" else None


def os_release() -> "dict[str, str]":
    """Return what /etc/os-release says."""
    try:
        lines = Path("/etc/os-release").read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    return {name: value.strip('"') for name, _, value in (line.partition("=") for line in lines)}
