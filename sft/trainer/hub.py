"""Repositories on the hub: files are downloaded once, and what goes wrong is one line for the user."""

from __future__ import annotations

import errno
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from sft.errors import SettingsError, UserError, wrong
from sft.settings.fields import Settings

LEFT_OVER_S = 3600  # without a write, after which a partial download belongs to a process that was killed


@dataclass(frozen=True)
class Repository:
    """A model or a data set on the hub, and the folder that keeps its files."""

    kind: Literal["model", "dataset"]
    name: str
    revision: str
    cache: Path
    token: str = field(repr=False)

    @classmethod
    def of_model(cls, settings: Settings) -> Repository:
        token = settings.huggingface_api_key.get_secret_value()
        return cls("model", settings.model_name, settings.model_revision, settings.model_path, token)

    @classmethod
    def of_dataset(cls, settings: Settings) -> Repository:
        token = settings.huggingface_api_key.get_secret_value()
        return cls("dataset", settings.dataset, settings.dataset_revision, settings.data_path / "hub", token)

    @property
    def setting(self) -> str:
        return {"model": "MODEL_NAME", "dataset": "DATASET"}[self.kind]

    @property
    def noun(self) -> str:
        return {"model": "model", "dataset": "data set"}[self.kind]

    @property
    def folder(self) -> Path:
        """Where the cache has its files: blobs, snapshots and refs, as everywhere in Hugging Face's libraries."""
        return self.cache / f"{self.kind}s--{self.name.replace('/', '--')}"

    @property
    def snapshot(self) -> Path:
        """Where the files are, if the revision is a commit."""
        return self.folder / "snapshots" / self.revision

    def wrong(self, what: str, remedy: str) -> SettingsError:
        return SettingsError([wrong(self.setting, self.name, what, remedy)])


def download(repository: Repository, patterns: list[str]) -> Path:
    """Return the folder with the files that match `patterns`, downloaded if they are not there yet.

    Without the network, what was downloaded before is enough. Raises SettingsError.
    """
    from huggingface_hub import snapshot_download

    adopt(repository)
    sweep(repository)
    try:
        found = snapshot_download(
            repository.name,
            repo_type=repository.kind,
            revision=repository.revision,
            cache_dir=repository.cache,
            token=repository.token or None,
            allow_patterns=patterns,
        )
    except Exception as error:  # each has its line: explained raises again what is not about the hub
        raise explained(error, repository) from None
    return Path(found)


def explained(error: Exception, repository: Repository) -> UserError:
    """Return the line for an error of huggingface_hub, by its class. Raises `error` if it is about this machine."""
    from huggingface_hub import errors

    if isinstance(error, PermissionError) or getattr(error, "errno", None) == errno.ENOSPC:
        raise error
    token = repository.token
    for cause in causes(error):
        match cause:
            case errors.GatedRepoError():
                asked = "with the account of HUGGINGFACE_API_KEY" if token else "and set HUGGINGFACE_API_KEY"
                return repository.wrong("is gated", f"ask for access on its page, {asked}")
            case errors.RepositoryNotFoundError():
                whose = "a token that may read it" if token else "HUGGINGFACE_API_KEY"
                what = f"no such folder here and no such {repository.noun} on the hub"
                return repository.wrong(what, f"check the name (a private one needs {whose})")
            case errors.RevisionNotFoundError():
                revision = f"{repository.setting.removesuffix('_NAME')}_REVISION={repository.revision}"
                return repository.wrong(f"has no revision {revision}", "check it on its page on the hub")
            case errors.DisabledRepoError():
                return repository.wrong("is disabled on the hub", "take another one")
            case errors.HfHubHTTPError():
                return of_status(cause.response.status_code, repository)
            case errors.HFValidationError():
                return repository.wrong("no such folder, and not a name that the hub could have", "check the path")
            case errors.OfflineModeIsEnabled():
                what = f"is not whole in {repository.cache}, and HF_HUB_OFFLINE=1 forbids a download"
                return repository.wrong(what, "unset it, or give a local folder")
    broken = [cause for cause in causes(error) if isinstance(cause, network_error())]
    if broken or isinstance(error, errors.LocalEntryNotFoundError):
        why = f" ({type(broken[0]).__name__})" if broken else ""
        what = f"is not whole in {repository.cache}, and the hub cannot be reached{why}"
        return repository.wrong(what, "check the network and start again, or give a local folder")
    reason = f"{type(error).__name__}: {(str(error).strip().splitlines() or ['no message'])[0]}"
    return repository.wrong(f"cannot be downloaded ({reason})", "start again, or give a local folder")


def of_status(status: int, repository: Repository) -> UserError:
    """Return the line for an answer of the hub that has no error class of its own."""
    from huggingface_hub import get_token

    if status in (401, 403) and (repository.token or get_token()):
        what = "is not a token that the hub knows" if status == 401 else f"may not read {repository.name}"
        whose = "" if repository.token else "the token that HF_TOKEN or `hf auth login` gives "
        remedy = "make one that may read at https://huggingface.co/settings/tokens"
        return SettingsError([wrong("HUGGINGFACE_API_KEY", "***" * bool(repository.token), whose + what, remedy)])
    if status in (401, 403):
        return repository.wrong(f"may not be read without a token (HTTP {status})", "set HUGGINGFACE_API_KEY")
    if status == 429:
        more = "" if repository.token else ", or set HUGGINGFACE_API_KEY, which allows more"
        return repository.wrong("the hub refuses so many requests (HTTP 429)", f"start again later{more}")
    return repository.wrong(f"the hub has failed (HTTP {status})", "start again later: what was downloaded is kept")


def causes(error: BaseException) -> list[BaseException]:
    """Return an error and what it says to be caused by, the first cause last."""
    found = [error]
    while (cause := found[-1].__cause__) is not None and cause not in found:
        found.append(cause)
    return found


def network_error() -> type[Exception]:
    """Return the class of all errors of the HTTP library that huggingface_hub uses: httpx or, since 2, httpx2."""
    from huggingface_hub import errors

    (found,) = [base for base in errors.HfHubHTTPError.__bases__ if base is not OSError]
    return found


# The user's own cache


def adopt(repository: Repository) -> None:
    """Link a repository's files from the user's Hugging Face cache (HF_HOME), so that they are not downloaded again.

    The links are hard ones, which a container sees too and which stay if that cache is cleaned; on another disk they
    are symbolic. What is missing there, or out of date, is downloaded as usual.
    """
    from huggingface_hub import constants

    theirs, here = Path(constants.HF_HUB_CACHE) / repository.folder.name, repository.folder
    if not theirs.is_dir() or theirs.resolve() == here.resolve():
        return
    of_theirs, of_ours = (folder / "refs" / repository.revision for folder in (theirs, here))
    commit = of_theirs.read_text().strip() if of_theirs.is_file() else repository.revision
    if of_ours.is_file() and of_ours.read_text().strip() != commit:
        return  # what is here is of another commit, which the hub gave later
    files = [path for path in (theirs / "snapshots" / commit).rglob("*") if path.is_file()]
    for path in files:
        pointer = here / path.relative_to(theirs)
        if not pointer.exists():
            adopt_file(path, pointer, here)
    if files and of_theirs.is_file() and not of_ours.is_file():
        of_ours.parent.mkdir(parents=True, exist_ok=True)
        of_ours.write_text(commit)


def adopt_file(path: Path, pointer: Path, here: Path) -> None:
    """Link a file of a snapshot in the user's cache as `pointer`, in its layout: a pointer to a blob, or a file."""
    real = path.resolve()
    blob = here / "blobs" / real.name if path.is_symlink() else pointer
    for folder in (pointer.parent, blob.parent):
        folder.mkdir(parents=True, exist_ok=True)
    if not blob.exists():
        blob.unlink(missing_ok=True)  # a link to a file that is gone
        link(real, blob)
    if blob != pointer:
        pointer.unlink(missing_ok=True)
        pointer.symlink_to(os.path.relpath(blob, pointer.parent))


def link(target: Path, path: Path) -> None:
    """Make `path` another name of a file; if that cannot be, on another disk or for another user's file, a pointer."""
    try:
        path.hardlink_to(target)
    except OSError:
        path.symlink_to(target)


def sweep(repository: Repository) -> None:
    """Remove the partial downloads of processes that were killed: huggingface_hub begins such a file anew."""
    for path in (repository.folder / "blobs").glob("*.incomplete"):
        if time.time() - path.stat().st_mtime > LEFT_OVER_S:
            path.unlink(missing_ok=True)
