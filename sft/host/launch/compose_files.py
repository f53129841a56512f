"""Whether the settings and the compose files fit together: nodes, GPUs, and files that containers can see."""

from __future__ import annotations

import json
from pathlib import Path

from sft import hostfile, nccl
from sft.errors import wrong
from sft.settings.fields import DEMO, TINY, Settings
from sft.settings.mixture import parts_of

BASE, GPU, CHECK = "docker-compose.yml", "docker/gpu.yml", "docker/check.yml"
OVERRIDES = (
    "compose.override.yml",
    "compose.override.yaml",
    "docker-compose.override.yml",
    "docker-compose.override.yaml",
)


def device_ids(config: str) -> dict[str, list[str]]:
    """Return the GPUs that each service is given, from the JSON that `docker compose config --format json` prints."""
    found = {}
    for name, service in json.loads(config)["services"].items():
        devices = service.get("deploy", {}).get("resources", {}).get("reservations", {}).get("devices", [])
        found[name] = [str(device) for entry in devices for device in entry.get("device_ids", [])]
    return found


def without_nccl(config: str) -> str:
    """Return a line if services with GPUs lack what NCCL needs between them; "" if not. `config`: as above."""
    services = json.loads(config)["services"]
    with_cards = [name for name, devices in device_ids(config).items() if devices]
    lacking = {name: lacks for name in with_cards if (lacks := nccl.missing(services[name].get("environment") or {}))}
    if len(with_cards) < 2 or not lacking:
        return ""
    return f"{' and '.join(lacking)} lack {next(iter(lacking.values()))}, without which NCCL fails on cards with NVLink"


def unread(folder: Path, files: list[str]) -> list[str]:
    """Return a line for every file that docker compose by hand would read besides `files`, which are all it is told."""
    told = {(folder / name).resolve() for name in files}
    there = [name for name in OVERRIDES if (folder / name).is_file() and (folder / name).resolve() not in told]
    return [
        wrong("COMPOSE_FILE", ":".join(files), f"{name} is here and would not be read", f"add :{name}, or remove it")
        for name in there
    ]


def problems(settings: Settings, given: dict[str, list[str]]) -> list[str]:
    """Return a line for each mismatch. `given` are the GPUs of each service."""
    names = hostfile.node_names(2)
    found = []
    for name in names:
        if name not in given:
            found.append(wrong("NODES", 2, f"the compose files have no service {name}", f"restore it in {BASE}"))
        elif settings.device == "cuda":
            found += device_problems(settings, name, given[name])
    devices = [device for name in names for device in given.get(name, [])]
    if twice := sorted({device for device in devices if devices.count(device) > 1}):
        what = f"the GPUs {', '.join(twice)} are given to both {' and '.join(names)}"
        found.append(wrong("device_ids", ",".join(devices), what, f"give each node its own in {GPU}"))
    return found or unseen_files(settings)


def device_problems(settings: Settings, name: str, given: list[str]) -> list[str]:
    """Return a line if a node does not get a GPU for each of its ranks."""
    if len(given) == settings.gpus_per_node:
        return []
    what = f"the compose files give {name} " + (f"the device_ids {', '.join(given)}" if given else "no device_ids")
    remedy = f"make GPUS_PER_NODE and the device_ids in {GPU} agree"
    return [wrong("GPUS_PER_NODE", settings.gpus_per_node, what, remedy)]


def unseen_files(settings: Settings) -> list[str]:
    """Return a line for every local file that containers would not see."""
    found = []
    values = [("model_name", settings.model_name, TINY)]
    values += [("dataset", part.settings.dataset, DEMO) for part in parts_of(settings)]
    for name, value, made_here in values:
        path = Path(value).expanduser()
        if value == made_here or not path.exists():
            continue
        folders = {"data": settings.data_path, "models": settings.model_path}
        seen = not path.is_absolute() and any(
            path.parts[:1] == (folder,) and folders[folder].absolute() == Path(folder).absolute() for folder in folders
        )
        if not seen:
            what = "is outside the folders that containers see"
            remedy = f"move it into data/ or models/ and set {name.upper()}=data/NAME, or set LAUNCHER=local"
            found.append(wrong(name.upper(), value, what, remedy))
    return found
