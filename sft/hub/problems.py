"""What goes wrong with the hub as one line for the user, decided by the class of the library's error."""

from __future__ import annotations

from sft.errors import SettingsError, UserError, wrong
from sft.failures import FULL
from sft.hub.repository import Repository


def explained(error: Exception, repository: Repository) -> UserError:
    """Return the line for an error of huggingface_hub, by its class. Raises `error` if it is about this machine."""
    from huggingface_hub import errors

    if isinstance(error, PermissionError) or getattr(error, "errno", None) in FULL:
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
                what = f"{repository.missing}, and HF_HUB_OFFLINE=1 forbids a download"
                return repository.wrong(what, "unset it, or give a local folder")
    broken = [cause for cause in causes(error) if isinstance(cause, network_error())]
    if broken or isinstance(error, errors.LocalEntryNotFoundError):
        why = f" ({type(broken[0]).__name__})" if broken else ""
        what = f"{repository.missing}, and the hub cannot be reached{why}"
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
