"""Checks of what has to come from the hub: the token, and whether model and data sets may be downloaded.

They are asked for now rather than ten minutes into a run, with the hub's own library: endpoint, proxies and tokens are
those of a download. What is on this machine already needs no hub.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from sft.errors import UserError
from sft.host.check import Check
from sft.host.plan import disk, workload
from sft.hub.problems import explained
from sft.hub.repository import Repository
from sft.settings.fields import Settings
from sft.settings.mixture import parts_of

TIMEOUT_S = 5
GATED = ("meta-llama/", "google/gemma")  # how the names of the best-known gated models begin
ASK_FOR_ACCESS = "ask for access on the model's page, and set HUGGINGFACE_API_KEY to a token of that account"
CONFIG = "config.json"


def checks(settings: Settings) -> Iterator[Check]:
    """Yield the checks of the token, the model and the data sets."""
    yield token(settings)
    yield model(settings)
    for part in parts_of(settings):
        if disk.is_on_hub(part.settings):
            yield data_set(part.settings, settings)


def token(settings: Settings) -> Check:
    """Check the form of the hub token."""
    found = settings.huggingface_api_key.get_secret_value()
    if not found:
        return Check("hub token", "ok", "none: enough for open models and local ones")
    if not re.fullmatch(r"hf_[A-Za-z0-9]{20,}", found):
        remedy = "copy it whole; it begins with hf_"
        return Check("hub token", "failure", "HUGGINGFACE_API_KEY is not a hub token", remedy)
    return Check("hub token", "ok", "well formed")


def model(settings: Settings) -> Check:
    """Check that the model is here or may be downloaded."""
    name = settings.model_name
    if disk.has_weights(settings):
        return Check("model", "ok", f"{name} is on this machine")
    repository = Repository.of_model(settings)
    try:
        files = files_of(repository, CONFIG)
    except UserError as error:
        return refused("model", error, repository)
    if CONFIG not in files:
        return Check("model", "failure", f"{name} has no {CONFIG}", "take a model in Hugging Face layout")
    if not any(file.endswith(".safetensors") for file in files) and not settings.allow_pickle:
        remedy = "take one that has, or set ALLOW_PICKLE=1 if you trust its source"
        return Check("model", "failure", f"{name} has no weights in safetensors", remedy)
    return Check("model", "ok", f"{name} may be downloaded")


def data_set(part: Settings, settings: Settings) -> Check:
    """Check that a data set is prepared or may be downloaded."""
    if workload.counted(part) or workload.counted(settings):
        return Check("data set", "ok", f"{part.dataset} is prepared")
    repository = Repository.of_dataset(part)
    try:
        files_of(repository)
    except UserError as error:
        return refused("data set", error, repository)
    return Check("data set", "ok", f"{part.dataset} may be downloaded")


def files_of(repository: Repository, needed: str = "") -> list[str]:
    """Return the names of a repository's files, after asking for one of them: all may list a gated repository's.

    Raises UserError if it may not be downloaded, or if the hub cannot be reached.
    """
    from huggingface_hub import HfApi, get_hf_file_metadata, hf_hub_url

    kind, name, revision = repository.kind, repository.name, repository.revision
    access = repository.token or None
    try:
        hub = HfApi(token=access)
        ask = hub.model_info if kind == "model" else hub.dataset_info
        files = [file.rfilename for file in ask(name, revision=revision, timeout=TIMEOUT_S).siblings or []]
        if file := needed if needed in files else next(iter(files), ""):
            url = hf_hub_url(name, file, repo_type=kind, revision=revision)
            get_hf_file_metadata(url, token=access, timeout=TIMEOUT_S)
    except Exception as error:  # the hub's library passes on the exceptions of its HTTP library
        raise explained(error, repository) from None
    return files


def refused(name: str, error: UserError, repository: Repository) -> Check:
    """Return the failure for what keeps a repository from being downloaded."""
    from huggingface_hub import get_token

    check = Check.from_problem(name, str(error))
    if repository.name.startswith(GATED) and not (repository.token or get_token()):
        return Check(name, "failure", f"{check.found}; it is gated, and there is no token", ASK_FOR_ACCESS)
    return check
