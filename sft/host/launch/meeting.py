"""How the nodes of a run find each other, and how node 0 tells the others which run it is."""

from __future__ import annotations

import contextlib
import os
import time

from sft import hostfile, redaction
from sft.errors import RunFailed, SettingsError, UserError, wrong
from sft.host.folders import make_folders
from sft.host.launch import open_files
from sft.host.launch.link import REFUSE_S, STRANGERS, Link, MasterLink, WorkerLink, master_address
from sft.host.launch.signals import Signals
from sft.host.launch.word import word_of
from sft.run.directory import Run
from sft.settings.fields import Settings

POLL_S = 0.2
QUIET_S = 5.0  # for which nobody needs to know that node 0 is not there yet
NAMED = 8  # missing nodes that a message names


def start_link(settings: Settings, rank: int) -> Link:
    """Return the connection to the other nodes. Raises SettingsError if its port is taken."""
    port = hostfile.link_port(settings.master_port)
    if settings.nodes == 1:
        return Link()
    try:
        word = word_of(settings.runs_path)
    except OSError as error:
        if rank:
            show_up(rank, port)
        what = f"the word by which the nodes know each other cannot be read or written there ({error.strerror})"
        remedy = f"every node needs the same folder and the same user id, which is {os.getuid()} here"
        if rank:
            limit = f"RENDEZVOUS_TIMEOUT_S={settings.rendezvous_timeout_s}"
            remedy += f"; node 0 waits for this node until {limit} seconds are over"
        raise SettingsError([wrong("RUNS_PATH", settings.runs_path, what, remedy)]) from None
    redaction.know([word])
    if rank:
        return WorkerLink(rank, port, word)
    open_files.allow(settings.nodes + STRANGERS, "NODES", settings.nodes, "node 0")
    try:
        return MasterLink(settings.nodes, port, word)
    except OSError as error:
        what = f"the next port, {port}, on which the nodes meet, cannot be used ({error.strerror})"
        raise SettingsError([wrong("MASTER_PORT", settings.master_port, what, "choose another port")]) from None


def show_up(rank: int, port: int) -> None:
    """Let node 0 know that this node cannot take part: it sends away a node that does not know the word, and says so.

    Waits for that at most REFUSE_S, as node 0 may not be there yet.
    """
    link, deadline = WorkerLink(rank, port), time.monotonic() + REFUSE_S
    while link.refusal() is None and time.monotonic() < deadline:
        link.poll()
        time.sleep(POLL_S)
    link.close(well=True)


def first_run(settings: Settings, opened: contextlib.ExitStack) -> Run:
    """Return the run that these settings ask for, kept open by node 0 itself in `opened`. Raises SettingsError."""
    # Here because they import every launcher and the plan, half a node program's start: most nodes are told their run.
    from sft.host.launch.decide import decide
    from sft.host.launch.open import open_run

    def say(line: str) -> None:
        print(line, flush=True)

    decision = decide(settings, in_container=True)
    make_folders(settings)
    for line in decision.lines:
        say(line)
    return opened.enter_context(open_run(decision, say))


def told_run(settings: Settings, link: Link, heard: Signals) -> Run | None:
    """Return the run that node 0 works on, or None if this node is stopped before that. Raises RunFailed."""
    assert isinstance(link, WorkerLink)
    began, said = time.monotonic(), ""
    deadline = began + settings.rendezvous_timeout_s
    while (name := link.run_name()) is None:
        if heard.end_now or (heard.who() and not link.peers):
            return None
        if reason := link.refusal():
            raise UserError(f"node 0: {reason}")
        if reason := link.lost() or no_meeting(settings, [0], deadline, link):
            raise RunFailed(f"node {link.rank}: {reason}", "lost_node")
        link.poll()
        if link.why_not and link.why_not != said and time.monotonic() > began + QUIET_S:
            said = link.why_not
            print(f"node {link.rank}: node 0 is not yet at {place(settings)} ({said})", flush=True)
        time.sleep(POLL_S)
    return Run(settings.runs_path.resolve() / name)


def no_meeting(settings: Settings, missing: list[int], deadline: float, link: Link | None = None) -> str:
    """Return why the nodes have not met, if the time is over; otherwise ""."""
    if time.monotonic() < deadline:
        return ""
    if link and (refused := refusals(link, missing)):
        return refused[0]
    more = f" and {len(missing) - NAMED} more" if len(missing) > NAMED else ""
    nodes = f"node{'s' * (len(missing) > 1)} {', '.join(map(str, missing[:NAMED]))}{more}"
    at = place(settings)
    why = f" ({link.why_not})" if isinstance(link, WorkerLink) and link.why_not else ""
    return f"{nodes} did not come to {at}{why} within RENDEZVOUS_TIMEOUT_S={settings.rendezvous_timeout_s} seconds"


def place(settings: Settings) -> str:
    """Return where node 0 listens for the other nodes."""
    return f"{master_address()}:{hostfile.link_port(settings.master_port)}"


def refusals(link: Link, missing: list[int]) -> list[str]:
    """Return why node 0 has sent away those of the missing nodes that have come."""
    refused = link.refused if isinstance(link, MasterLink) else {}
    return [refused[rank] for rank in missing if rank in refused]


def missing_nodes(link: Link, run: Run) -> list[int]:
    """Return the nodes that this one has yet to meet. Raises UserError if node 0 works on another run."""
    if isinstance(link, MasterLink):
        return link.not_ready()
    if isinstance(link, WorkerLink):
        if reason := link.refusal():
            raise UserError(f"node 0: {reason}")
        if (name := link.run_name()) not in (None, run.name):
            raise UserError(f"--run={run.path}: node 0 works on {name}; start every node with the same run")
        link.ready()
        return [0] if name is None else []
    return []
