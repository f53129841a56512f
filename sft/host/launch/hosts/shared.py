"""Whether all hosts share the folders of a run: a token in each is read there, and answered."""

from __future__ import annotations

import secrets
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from sft.errors import SettingsError, UserError, wrong
from sft.host.launch.hosts.messages import Answer, Request
from sft.host.launch.hosts.prove import SEEN_WITHIN_S, read, token_file
from sft.host.launch.hosts.ssh import Agent
from sft.run import files
from sft.settings.fields import FOLDERS, Settings

REMEDY = "share it over NFS or sshfs, under the same path everywhere; a copy (rsync) is not enough"


def prove(agents: list[Agent], settings: Settings, address: str, port: int) -> list[str]:
    """Prove that every host reads and writes the task's own folders, and reaches the first host. Return warnings.

    Raises SettingsError with a line for everything that is wrong.
    """
    folders: dict[str, Path] = {name: getattr(settings, name).absolute() for name in FOLDERS}
    token = secrets.token_hex(16)
    try:
        with ExitStack() as held:
            for folder in folders.values():
                path = token_file(folder, token)
                files.write_whole(path, token)
                held.enter_context(files.lock(path) or ExitStack())
            with ThreadPoolExecutor(len(agents)) as pool:
                answers = list(
                    pool.map(lambda pair: asked(pair[1], pair[0], folders, token, address, port), enumerate(agents))
                )
            return judged(answers, agents, folders, token, settings)
    finally:
        for folder in folders.values():
            for path in folder.glob(f".shared-{token}*"):
                path.unlink(missing_ok=True)


def asked(agent: Agent, rank: int, folders: dict[str, Path], token: str, address: str, port: int) -> Answer:
    """Return what a host says of the folders and of the way to the first host."""
    places = {name: str(path) for name, path in folders.items()}
    to = address if rank else ""
    request = Request(task="prove", node_rank=rank, folders=places, token=token, address=to, port=port)
    try:
        return agent.ask(request)
    except UserError as error:
        return Answer(problem=str(error))


def judged(
    answers: list[Answer], agents: list[Agent], folders: dict[str, Path], token: str, settings: Settings
) -> list[str]:
    """Return warnings. Raises SettingsError for folders that are not shared, and hosts that are not reached."""
    problems, warnings = [], []
    first = agents[0].host.text
    for rank, (answer, agent) in enumerate(zip(answers, agents, strict=True)):
        host = agent.host.text
        for name, folder in folders.items():
            what = answer.folders.get(name, "")
            if not what and not answered(token_file(folder, token, rank), token):
                what = "is another folder: what is written there does not come back"
            if what:
                problems.append(wrong(name.upper(), folder, f"on {host} it {what}", REMEDY))
            elif answer.locks.get(name) is False and name == "runs_path":
                warnings.append(
                    f"warning: {name.upper()}={folder}: locks do not hold between here and {host}; start, watch and "
                    f"stop runs on {first} only"
                )
        if answer.problem.startswith("HOSTS="):
            problems.append(answer.problem)
        elif answer.problem:
            what = f"does not reach {first} at {answer.problem}"
            remedy = "open the port in the firewall, or name the address with MASTER_ADDR=…"
            problems.append(wrong("HOSTS", host, what, remedy))
    if problems:
        raise SettingsError(problems)
    return warnings


def answered(path: Path, token: str) -> bool:
    """Whether a host's answer is seen here in time."""
    deadline = time.monotonic() + SEEN_WITHIN_S
    while read(path) != token:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True
