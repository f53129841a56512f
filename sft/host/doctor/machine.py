"""Checks of this machine: is it fit for a run, and what to do if it is not."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import psutil
from packaging.requirements import Requirement

from sft import ROOT, model_files, resources
from sft.errors import SettingsError, UserError
from sft.host import gpus
from sft.host.doctor.check import Check
from sft.host.launch import choose, inputs, ports
from sft.host.plan import shapes
from sft.settings import variables
from sft.settings.fields import TINY, Settings
from sft.settings.variables import ENV_FILE

PYPROJECT = ROOT / "pyproject.toml"
MEMORY_LEAST_GB, DISK_LEAST_GB = 4, 5
# Bytes on disk and in the machine's memory for each weight that is trained, in a checkpoint and while it is copied: the
# weight, its fp32 copy and two moments. And those of a weight as it is downloaded and exported.
TRAINED_BYTES, WHOLE_BYTES = 16, 2
HUB_TIMEOUT_S = 5
GATED = ("meta-llama/", "google/gemma")  # the owners and names of gated models that many begin with
# The oldest Linux driver for a major version of CUDA (NVIDIA's table of CUDA compatibility).
DRIVERS = {11: 450, 12: 525, 13: 580}
OLDEST = {13: (7, 5)}  # compute capability of the oldest card that a major version of CUDA has kernels for: Turing
PROBE_TIMEOUT_S = 180


def env_file(_: Settings) -> Check:
    """`.env` holds keys: nobody else may read it."""
    if not ENV_FILE.exists():
        return Check(str(ENV_FILE), "warning", "is not there yet", "`make setup` makes it")
    if ENV_FILE.stat().st_mode & 0o077:
        return Check(str(ENV_FILE), "warning", "others may read it", f"chmod 600 {ENV_FILE}")
    return Check(str(ENV_FILE), "ok", "readable by you alone")


def python(_: Settings) -> Check:
    """The interpreter."""
    version = sys.version.split()[0]
    if sys.version_info < (3, 11):  # noqa: UP036 - what is checked here is what runs here
        return Check("Python", "failure", version, "use Python 3.11 or newer: make clean, make setup PYTHON=python3.12")
    return Check("Python", "ok", f"{version} in {sys.prefix}")


def packages(_: Settings) -> Check:
    """Installed versions against the pins of pyproject.toml."""
    wrong_ones, right = [], []
    for line in tomllib.loads(PYPROJECT.read_text())["project"]["dependencies"]:
        requirement = Requirement(line)
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            wrong_ones.append(f"{requirement.name} is missing")
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            wrong_ones.append(f"{requirement.name} {version} is not {requirement.specifier}")
        right.append(f"{requirement.name} {version}")
    if wrong_ones:
        return Check("packages", "failure", "; ".join(wrong_ones), "`make clean setup` installs the pinned ones")
    return Check("packages", "ok", ", ".join(right[:4]) + f" and {len(right) - 4} more as pinned")


def cpu(settings: Settings) -> Check:
    """Cores for the ranks."""
    cores = resources.cores()
    if cores < settings.world_size:
        remedy = "ranks take turns; fine for a trial"
        return Check("CPU", "warning", f"{cores} cores for {settings.world_size} ranks", remedy)
    return Check("CPU", "ok", f"{cores} cores")


def extras(settings: Settings) -> Check:
    """The optional package that LORA_BASE_BITS=4 needs, here or in the image."""
    if choose.in_compose(settings):
        missing = settings.lora_base_bits == 4 and variables.of_user("QLORA") != "1"
        remedy = "set QLORA=1 in .env, and `make setup`"
        return (
            Check("bitsandbytes", "failure", "not in the image, for LORA_BASE_BITS=4", remedy) if missing else NO_EXTRAS
        )
    try:
        model_files.check_bitsandbytes(settings)
    except SettingsError as error:
        return Check("bitsandbytes", "failure", *str(error).split("; ", 1))
    return NO_EXTRAS


NO_EXTRAS = Check("optional packages", "ok", "all that the settings need")


def memory(settings: Settings) -> Check:
    """Main memory, for a checkpoint's copy and the model."""
    needed = needed_gb(settings, checkpoints=1)
    return amount("memory", psutil.virtual_memory().total / 1e9, MEMORY_LEAST_GB, needed, "`make plan` says more")


def disk(settings: Settings) -> Check:
    """Free space where runs are kept, for checkpoints, the model and what is exported."""
    path = settings.runs_path.absolute()
    while not path.exists():
        path = path.parent
    needed = needed_gb(settings, checkpoints=settings.keep_checkpoints + 1)  # the next one is written before one goes
    free = shutil.disk_usage(path).free / 1e9
    return amount(f"free disk at {path}", free, DISK_LEAST_GB, needed, "lower KEEP_CHECKPOINTS or set RUNS_PATH")


def needed_gb(settings: Settings, checkpoints: int) -> float:
    """Return the gigabytes of a run's checkpoints, its model and what it exports; 0 if the model is not known here."""
    try:
        shape = shapes.find(settings)
    except UserError:
        shape = None
    if shape is None:
        return 0.0
    trained = shape.lora_weights(settings.lora_rank) if settings.lora_rank else shape.weights
    return (checkpoints * TRAINED_BYTES * trained + 2 * WHOLE_BYTES * shape.weights) / 1e9


def amount(name: str, found_gb: float, least_gb: float, needed_gb: float, remedy: str) -> Check:
    """Return the check of an amount that any run needs, and this one needs more of. `needed_gb` is 0 if unknown."""
    if found_gb < least_gb:
        return Check(name, "failure", f"{found_gb:,.0f} GB", f"{max(least_gb, needed_gb):,.0f} GB are needed")
    if found_gb < needed_gb:
        return Check(name, "warning", f"{found_gb:,.0f} GB, these settings need about {needed_gb:,.0f} GB", remedy)
    needs = f", these settings need about {needed_gb:,.0f} GB" if needed_gb > 1 else ""
    return Check(name, "ok", f"{found_gb:,.0f} GB{needs}")


def gpu(settings: Settings) -> Check:
    """GPUs for the ranks."""
    cards = gpus.visible()
    if not cards:
        level: Literal["ok", "failure"] = "ok" if settings.device == "cpu" or settings.model_name == TINY else "failure"
        remedy = "install NVIDIA's driver (`nvidia-smi` must work), or train on the CPU with `make demo`"
        return Check("GPUs", level, f"none visible{gpus.unused()}", remedy if level == "failure" else "")
    names = ", ".join(f"{card.index}: {card.name} {card.total_gib:.0f} GiB" for card in cards)
    if len(cards) < settings.world_size:
        remedy = f"set NODES=1 GPUS_PER_NODE={len(cards)}"
        wanted = f"NODES x GPUS_PER_NODE = {settings.world_size} wanted{gpus.unused()}"
        return Check("GPUs", "failure", f"{names}; {wanted}", remedy)
    return Check("GPUs", "ok", names)


def driver(_: Settings) -> Check:
    """The driver against the CUDA that the installed torch was built for."""
    cards, cuda = gpus.visible(), torch_cuda()
    if not cards:
        return Check("driver", "ok", f"no GPU; torch is built for {'CUDA ' + cuda if cuda else 'the CPU'}")
    if cuda is None:
        remedy = "make clean, make setup: with a GPU visible it installs the CUDA build"
        return Check("driver", "failure", "there is a GPU, but torch is built for the CPU", remedy)
    version, least = cards[0].driver, DRIVERS.get(int(cuda.split(".")[0]), 0)
    if int(version.split(".")[0]) < least:
        what = f"{version} is too old for torch's CUDA {cuda}"
        return Check("driver", "failure", what, f"install driver {least} or newer: ubuntu-drivers install")
    for card in cards:
        if (0, 0) < card.capability < OLDEST.get(int(cuda.split(".")[0]), (0, 0)):
            remedy = "install torch built for CUDA 12.6, or leave this card out with CUDA_VISIBLE_DEVICES"
            return Check("driver", "failure", f"torch's CUDA {cuda} has no kernels for {card.name}", remedy)
    return Check("driver", "ok", f"{version} for torch's CUDA {cuda}")


def torch_cuda() -> str | None:
    """Return the CUDA version that torch was built for, without importing it (that takes seconds)."""
    found = importlib.util.find_spec("torch")
    if not found or not found.origin:
        return None
    match = re.search(r"^cuda\b.*= '([\d.]+)'", (Path(found.origin).parent / "version.py").read_text(), re.MULTILINE)
    return match[1] if match else None


def port(settings: Settings) -> Check:
    """The ports that ranks and nodes meet on."""
    asked, found = settings.master_port, ports.free_port(settings)
    if found == asked:
        return Check("port", "ok", f"{asked} is free")
    in_use = f"{asked} is in use{ports.by_whom(settings)}"
    if found:
        return Check("port", "ok", f"{in_use}; a run without containers takes {found}")
    return Check("port", "failure", f"MASTER_PORT={in_use}", "choose another MASTER_PORT, or leave it out")


def wandb_key(settings: Settings) -> Check:
    """The form of the W&B key; whether it is valid only W&B knows."""
    key = settings.wandb_api_key.get_secret_value()
    if settings.wandb_mode not in ("auto", "online"):
        return Check("W&B", "ok", f"WANDB_MODE={settings.wandb_mode}: nothing is sent")
    if not key and settings.wandb_mode == "online":
        return Check("W&B", "ok", "WANDB_MODE=online without a key: with what `wandb login` left")
    if not key:
        return Check("W&B", "ok", "no key: runs are logged offline, `wandb sync` uploads them later")
    if not re.fullmatch(r"[0-9a-f]{40}|[\w-]{41,}", key):
        return Check("W&B", "failure", f"WANDB_API_KEY has {len(key)} characters", "copy the whole key, 40 or more")
    return Check("W&B", "ok", "the key is well formed")


def files(settings: Settings) -> Check:
    """Local model and data, as far as they are looked at before a run."""
    try:
        inputs.check(settings)
    except UserError as error:
        return Check("model and data", "failure", str(error), "`make train` would say the same")
    return Check("model and data", "ok", "nothing wrong in what is here")


def hub_token(settings: Settings) -> Check:
    """The form of the hub token, and whether the model needs one."""
    token = settings.huggingface_api_key.get_secret_value()
    if not token and settings.model_name.startswith(GATED) and not (is_local(settings) or shapes.in_cache(settings)):
        remedy = "ask for access on the model's page, and set HUGGINGFACE_API_KEY to a token of that account"
        return Check("hub token", "warning", f"none, and {settings.model_name} is a gated model", remedy)
    if not token:
        return Check("hub token", "ok", "none: enough for open models and local ones")
    if not re.fullmatch(r"hf_[A-Za-z0-9]{20,}", token):
        return Check(
            "hub token", "failure", "HUGGINGFACE_API_KEY is not a hub token", "copy it whole; it begins with hf_"
        )
    return Check("hub token", "ok", "well formed")


def is_local(settings: Settings) -> bool:
    """Tell whether the model is made here or is a folder."""
    return settings.model_name == TINY or model_files.local_model(settings) is not None


def hub_access(settings: Settings) -> Check:
    """Whether the model may be downloaded: found out here and not ten minutes into a run.

    The hub's own library asks for a file as a download does, by the endpoint and the proxies that are set.
    """
    from huggingface_hub import errors, get_hf_file_metadata, hf_hub_url

    name, revision = settings.model_name, settings.model_revision
    if is_local(settings):
        return Check("model", "ok", f"{name} needs no hub")
    try:
        url = hf_hub_url(name, "config.json", revision=revision)
        get_hf_file_metadata(url, settings.huggingface_api_key.get_secret_value() or None, timeout=HUB_TIMEOUT_S)
    except errors.GatedRepoError:
        remedy = "ask for access on the model's page, and set HUGGINGFACE_API_KEY to a token of that account"
        return Check("model", "failure", f"{name} is gated for you", remedy)
    except errors.RepositoryNotFoundError:
        return Check("model", "failure", f"{name} is not on the hub, or private", "check MODEL_NAME")
    except errors.RevisionNotFoundError:
        return Check("model", "failure", f"{name} has no revision {revision}", "check MODEL_REVISION")
    except errors.EntryNotFoundError:
        return Check("model", "failure", f"{name} has no config.json", "take a model in Hugging Face layout")
    except Exception as error:  # the hub's library lets those of its HTTP library through, whichever that is
        if shapes.in_cache(settings):
            return Check("model", "ok", f"{name} is in {settings.model_path}; the hub cannot be reached")
        remedy = "check the network, or set MODEL_NAME and DATASET to local folders"
        return Check("model", "warning", f"the hub cannot be reached ({type(error).__name__})", remedy)
    return Check("model", "ok", f"{name} may be downloaded")


def all_reduce(settings: Settings) -> Check:
    """Two ranks that really meet and add: on two GPUs where there are two, otherwise on the CPU."""
    device = "cuda" if len(gpus.visible()) > 1 and torch_cuda() else "cpu"
    common = dict(os.environ) | {
        "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "GLOO_SOCKET_IFNAME": "lo",
    }  # fmt: skip
    if device == "cpu":
        common["DS_ACCELERATOR"] = "cpu"
    else:
        cards = gpus.visible()[:2]
        common |= gpus.nccl_variables(cards) | gpus.environment(cards)
    command = [sys.executable, "-m", "sft.trainer.probe", "--device", device]
    processes = [
        subprocess.Popen(
            command,
            env=common | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=PROBE_TIMEOUT_S)[0] for process in processes]
    except subprocess.TimeoutExpired:
        return Check(
            "all-reduce", "failure", f"two {device} ranks hung for {PROBE_TIMEOUT_S} s", "check firewall and GPUs"
        )
    finally:
        for process in processes:
            process.kill()
            process.wait()
    lines = [line for line in outputs[0].splitlines() if line.startswith("{")]
    if any(process.returncode for process in processes) or not lines:
        last = (outputs[0].strip() or outputs[1].strip() or "no output").splitlines()[-1]
        return Check("all-reduce", "failure", f"two {device} ranks: {last}", "`make clean setup` reinstalls torch")
    found = json.loads(lines[0])
    return Check("all-reduce", "ok", f"two ranks on {device} over {found['backend']}, {found['busbw_gb_s']} GB/s")


def free_port() -> int:
    """Return a port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# Quick ones first.
CHECKS: tuple[Callable[[Settings], Check], ...] = (
    env_file, python, packages, extras, cpu, memory, disk, gpu, driver, port, wandb_key, files, hub_token, hub_access,
    all_reduce,
)  # fmt: skip
