"""`make setup`: prepare everything that can be prepared before a run."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from rich.console import Console

from sft import ROOT
from sft.errors import RunFailed, SftError, UserError
from sft.host import ownership
from sft.host.bootstrap import bundle
from sft.host.folders import make_folders
from sft.host.install import manifest
from sft.host.launch import inputs, signals
from sft.run import files
from sft.settings.fields import Settings
from sft.settings.load import load
from sft.settings.mixture import title
from sft.settings.variables import ENV_FILE

EXAMPLE = ROOT / ".env.example"


def make_env_file(console: Console) -> None:
    """Make `.env` from `.env.example`, readable by its owner only: it will hold keys.

    If there is one already, warn if others can read it.
    """
    if ENV_FILE.exists():
        if ENV_FILE.stat().st_mode & 0o077:
            console.print(f"warning: {ENV_FILE}: others may read the keys in it; chmod 600 {ENV_FILE}")
        return
    with contextlib.suppress(FileExistsError):  # another task has just made it
        files.write_first(ENV_FILE, EXAMPLE.read_text(), mode=0o600)
        console.print(f"made {ENV_FILE} from {EXAMPLE.name}: your settings and keys go there")


def set_up_launcher(settings: Settings, made: list[Path], console: Console) -> bool:
    """Set up the launcher that runs would have. Return whether its nodes have packages of their own. Raises SftError.

    `made` are the folders that are new.
    """
    from sft.host import check_lines, gpus
    from sft.host.doctor import hardware
    from sft.host.launch.launcher import choose

    launcher, why = choose(settings, settings.device != "cpu" and bool(gpus.visible()))
    console.print(f"launcher {launcher.name} ({why})")
    if launcher.own_packages:
        check_lines.report([hardware.memory(settings), *hardware.disks(settings), hardware.gpu(settings)], console)
    launcher.set_up(settings, made, console)
    return launcher.own_packages


def error_in(output: str) -> str:
    """Return the error in the last line of the program that prepares data and model, or ""."""
    try:
        return str(json.loads(output.strip().splitlines()[-1])["error"])
    except (ValueError, LookupError, TypeError):
        return ""


def output(command: list[str], environment: dict[str, str]) -> tuple[int, str]:
    """Return a program's exit code and output. If this process is interrupted, everything that it started ends too."""
    process = None
    environment = environment | {"SFT_NODE_PID": str(os.getpid())}  # it ends when this process does
    try:
        with signals.blocked():
            process = subprocess.Popen(
                command, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True
            )
        said, _ = process.communicate()
    except BaseException:
        if process is not None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        raise
    return process.returncode, said


def setup(console: Console) -> None:
    """Make `.env` and the folders, check torch, and prepare data and model.

    What fails does not keep the rest from being prepared. Raises UserError with a line for everything that is missing.
    """
    make_env_file(console)
    settings = load()
    inputs.check(settings)
    in_containers, missing = False, []
    made = make_folders(settings)
    if bundle.is_asked_for(os.environ):
        bundle.use(os.environ)
        manifest.copy_caches(bundle.folder(os.environ), settings.model_path, settings.data_path)
    try:
        in_containers = set_up_launcher(settings, made, console)
    except SftError as error:
        missing.append(str(error))
    if not in_containers:  # the image has a torch of its own
        missing += torch_problem(settings, console)
    missing += preparation_problem(settings, console)
    if in_containers:
        ownership.hand_over(settings)  # again, for what was prepared
    if missing:
        raise UserError("\n".join(["some parts are missing; `make demo` works without them:", *missing]))
    console.print(
        "ready: `make rows` shows what will be trained, `make train` starts, `make test-env` checks this machine"
    )


def torch_problem(settings: Settings, console: Console) -> list[str]:
    """Let torch compute, and print the result; return a line if it cannot."""
    from sft.host import check_lines
    from sft.host.doctor import kernel

    try:
        check_lines.report([kernel.check(settings)], console)
    except RunFailed:
        return ["torch: does not compute here; see above"]
    return []


def preparation_problem(settings: Settings, console: Console, **given: str) -> list[str]:
    """Prepare data and model, with the settings `given` in place of others; return why that failed, if it did."""
    console.print(f"getting {title(settings)} and {settings.model_name} (once)")
    command = [sys.executable, "-m", "sft.trainer.prepare"]
    environment = os.environ | settings.secrets() | {"TOKENIZERS_PARALLELISM": "false"} | given
    code, said = output(command, environment)
    return [error_in(said) or "the preparation failed; see above"] if code else []
