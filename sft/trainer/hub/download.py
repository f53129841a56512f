"""Download files of a repository once; without the network, what was downloaded before is enough."""

from __future__ import annotations

import time
from pathlib import Path

from sft.hub.problems import explained
from sft.hub.repository import Repository
from sft.trainer.hub.own_cache import adopt

# The same weights once more, for the publisher's own programs: Mistral's files, and those of gpt-oss in original/.
COPIES = ["consolidated*.safetensors", "*/*.safetensors"]
LEFT_OVER_S = 3600  # without a write, after which a partial download belongs to a process that was killed


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
            ignore_patterns=COPIES,
        )
    except Exception as error:  # each has its line: explained raises again what is not about the hub
        raise explained(error, repository) from None
    return Path(found)


def sweep(repository: Repository) -> None:
    """Remove the partial downloads of processes that were killed: huggingface_hub begins such a file anew."""
    for path in (repository.folder / "blobs").glob("*.incomplete"):
        if time.time() - path.stat().st_mtime > LEFT_OVER_S:
            path.unlink(missing_ok=True)
