"""The manifests: templates beside this file, with a run's settings in them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from string import Template

from sft.errors import UserError, wrong
from sft.settings.fields import FOLDERS, Settings

TEMPLATES = Path(__file__).parent
KINDS = ("kubernetes", "skypilot")
SECRETS = "sft-keys"  # the Kubernetes secret with the keys
# Settings that a manifest decides itself, or that say where a run is opened.
OF_THE_PLACE = {"launcher", "hosts", "nodes", "gpus_per_node", "fresh", *FOLDERS}


def rendered(settings: Settings, kind: str, image: str, volume: str, gpu: str) -> str:
    """Return the text of a manifest. `gpu`: the cards' name, which SkyPilot needs. Raises UserError."""
    if kind not in KINDS:
        raise UserError(wrong("KIND", kind, "is not a manifest", f"use {' or '.join(KINDS)}"))
    if settings.hosts:
        raise UserError(wrong("HOSTS", settings.hosts, "a scheduler chooses the hosts", "leave it out, and set NODES"))
    on_gpus = settings.device != "cpu"
    if kind == "skypilot" and on_gpus and not gpu:
        raise UserError(wrong("GPU", "", "is empty", "name the cards, as in GPU=H100; `sky gpus list` has the names"))
    values = variables(settings)
    if kind == "kubernetes":
        texts = kubernetes(values, secret_names(settings), settings.gpus_per_node if on_gpus else 0)
    else:
        folders = {name.upper(): f"/sft/{folder}" for name, folder in zip(FOLDERS, folder_names(), strict=True)}
        texts = skypilot(values | folders, secret_names(settings), gpu, settings.gpus_per_node if on_gpus else 0)
    places = {"name": quoted(label(settings.run_name or "sft")), "image": quoted(image), "volume": quoted(volume)}
    template = Template((TEMPLATES / f"{kind}.yaml").read_text(encoding="utf-8"))
    return template.substitute(texts | places | {"nodes": settings.nodes})


def folder_names() -> list[str]:
    """Return the default names of the folders, in their order."""
    return [str(Settings.model_fields[name].default) for name in FOLDERS]


def variables(settings: Settings) -> dict[str, str]:
    """Return the settings that are not left at their defaults, by their names in the environment."""
    frozen = settings.freeze()
    chosen = {name: frozen[name] for name in frozen if settings.is_explicit(name) and name not in OF_THE_PLACE}
    values = {name.upper(): as_written(value) for name, value in chosen.items() if value is not None}
    return {"LAUNCHER": "hosts", "NODES": str(settings.nodes), "GPUS_PER_NODE": str(settings.gpus_per_node)} | values


def as_written(value: object) -> str:
    """Return a setting's value as a user writes it."""
    return str(int(value)) if isinstance(value, bool) else str(value)


def secret_names(settings: Settings) -> list[str]:
    """Return the names of the keys that are set; their values are never written."""
    return sorted(settings.secrets())


def kubernetes(values: dict[str, str], secrets: Iterable[str], gpus: int) -> dict[str, str]:
    """Return the parts of a TrainJob that differ from run to run."""
    lines = [f"      - {{name: {name}, value: {quoted(value)}}}" for name, value in values.items()]
    if secrets:
        lines.append(f"      # kubectl create secret generic {SECRETS} --from-file=NAME=file, once for each key")
    for name in secrets:
        lines.append(f"      - name: {name}")
        lines.append(f"        valueFrom: {{secretKeyRef: {{name: {SECRETS}, key: {name}}}}}")
    resources = f'    resourcesPerNode: {{limits: {{nvidia.com/gpu: "{gpus}"}}}}\n' if gpus else ""
    return {"variables": "\n".join(lines), "resources": resources}


def skypilot(values: dict[str, str], secrets: list[str], gpu: str, gpus: int) -> dict[str, str]:
    """Return the parts of a task that differ from run to run."""
    lines = [f"  {name}: {quoted(value)}" for name, value in values.items()]
    keys = ["# Given with `sky launch --secret NAME`, which takes it from the environment.", "secrets:"]
    keys += [f"  {name}: null" for name in secrets]
    resources = f"resources:\n  accelerators: {quoted(f'{gpu}:{gpus}')}" if gpus else "resources:\n  cpus: 4+"
    return {"variables": "\n".join(lines), "secrets": "\n".join(keys) if secrets else "", "resources": resources}


def quoted(text: str) -> str:
    """Return a text as YAML has it: JSON's strings are YAML's."""
    return json.dumps(text)


def label(name: str) -> str:
    """Return a run's name as Kubernetes and SkyPilot take names: lower case, digits and dashes, 50 at most."""
    return re.sub(r"[^a-z0-9-]+", "-", name.lower()).strip("-")[:50].strip("-") or "sft"
