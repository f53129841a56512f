"""The checks inside a node's container: `python -m sft.host.doctor.container`, started by docker/check.yml.

Prints each check as one line of JSON. The nodes meet as they do for a run, and their ranks all-reduce.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from sft import hostfile, nccl
from sft.host import gpus
from sft.host.check import Check
from sft.host.doctor import kernel
from sft.host.doctor.hardware import shared_memory
from sft.host.doctor.installation import packages, torch_cuda
from sft.host.launch.link import MasterLink, WorkerLink, master_address
from sft.host.launch.probe import PROBE_TIMEOUT_S, measured, probe
from sft.settings.fields import FOLDERS, Settings

NODES = 2
MEETING_TIMEOUT_S = 60
SHM_LEAST_GB = {"cuda": 8, "cpu": 0.5}


def main() -> None:
    """Run every check, and print its result at once."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--node-rank", type=int, required=True)
    parser.add_argument("--gpus-per-node", type=int, required=True)
    parser.add_argument("--master-port", type=int, required=True)
    given = parser.parse_args()
    cards = gpus.visible()
    device = "cuda" if os.environ.get("DEVICE") == "cuda" or cards else "cpu"
    for check in checks(given.node_rank, given.gpus_per_node, given.master_port, device, len(cards)):
        print(json.dumps(check.record().to_json()), flush=True)


def checks(rank: int, slots: int, port: int, device: str, cards: int) -> Iterator[Check]:
    """Yield the checks of this node."""
    settings = Settings()
    yield packages(settings)
    yield kernel.check(settings)
    if device == "cuda":
        enough = cards == slots and torch_cuda() is not None
        remedy = "" if enough else "make GPUS_PER_NODE and device_ids agree; torch for the CPU: set TORCH_BACKEND=auto"
        yield Check("GPUs", "ok" if enough else "failure", f"{cards} visible, {slots} ranks", remedy)
    yield shared_memory(SHM_LEAST_GB[device], "raise shm_size of llm-master in docker/gpu.yml")
    yield from folders()
    yield from meeting(rank, slots, port, device)


def folders() -> Iterator[Check]:
    """Check that this user can write to the mounted folders."""
    for name in FOLDERS:
        path = Path(os.environ[name.upper()])
        try:
            tempfile.TemporaryFile(dir=path).close()
        except OSError as error:
            remedy = f"on the host give it to user {os.geteuid()}, or set SFT_UID in .env to its owner"
            yield Check(f"{path}/", "failure", f"cannot be written ({error.strerror})", remedy)
        else:
            yield Check(f"{path}/", "ok", f"can be written by user {os.geteuid()}")


def meeting(rank: int, slots: int, port: int, device: str) -> Iterator[Check]:
    """Check that the nodes meet, and that their ranks all-reduce."""
    link_port = hostfile.link_port(port)
    link = WorkerLink(rank, link_port) if rank else MasterLink(NODES, link_port)
    if isinstance(link, MasterLink):
        link.name_run("check")
    deadline = time.monotonic() + MEETING_TIMEOUT_S
    while (link.missing() if isinstance(link, MasterLink) else not link.run_name()) and time.monotonic() < deadline:
        link.poll()
        time.sleep(0.1)
    met = bool(link.peers)
    at = f"{master_address()}:{link_port}"
    remedy = "" if met else "see the other node's checks; a firewall may keep containers apart"
    yield Check("port", "ok" if met else "failure", f"the nodes {'met' if met else 'did not meet'} at {at}", remedy)
    if met:
        yield from all_reduce(rank, slots, port, device)
    link.close(well=True)


def all_reduce(rank: int, slots: int, port: int, device: str) -> Iterator[Check]:
    """Check how fast the ranks of both nodes all-reduce, and what NCCL uses between the nodes."""
    world_size = NODES * slots
    ranks = range(rank * slots, (rank + 1) * slots)
    found = probe(device, ranks, world_size, NODES, MASTER_PORT=str(port), OMP_NUM_THREADS="1")
    lacks = nccl.remedy(os.environ) if device == "cuda" else ""
    if found is None:
        remedy = lacks or "NCCL_DEBUG=INFO shows where"
        yield Check("all-reduce", "failure", f"hung for {PROBE_TIMEOUT_S} s", remedy)
        return
    if found.failed is not None or (rank == 0 and not found.speeds):
        yield Check("all-reduce", "failure", found.last_line, lacks or "see the other node's checks")
    elif found.speeds:
        yield measured(found.speeds, device)
    if device == "cuda":
        yield transport("\n".join(found.outputs), slots)


def transport(log: str, slots: int) -> Check:
    """Return what NCCL uses between the nodes, from its INFO lines: `Channel 00 : 1[1] -> 2[0] via SHM/direct`."""
    lines = re.findall(r"(\d+)\[\w+\] -> (\d+)\[\w+\].*? via ([\w/]+)", log)
    used = sorted({via for a, b, via in lines if int(a) // slots != int(b) // slots})
    if not used:
        return Check("NCCL between the nodes", "warning", "it does not say", "NCCL_DEBUG=INFO must reach the ranks")
    if any(via.startswith("NET") for via in used):
        remedy = "use docker/gpu.yml as it is: same NCCL_HOSTID, ipc and user in both services"
        return Check("NCCL between the nodes", "warning", f"{', '.join(used)}: slower than shared memory", remedy)
    return Check("NCCL between the nodes", "ok", ", ".join(used))


if __name__ == "__main__":
    main()
