"""One wheel from a package index or a folder, with the standard library alone."""

import base64
import hashlib
import html.parser
import os
import platform
import re
import ssl
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import IO, List, Optional, Tuple

from sft.host.bootstrap.pip_settings import Settings, places

TIMEOUT_S = 60
BLOCK_BYTES = 2**20


class Links(html.parser.HTMLParser):
    """The addresses on a page of an index (PEP 503)."""

    def __init__(self) -> None:
        """Find none yet."""
        super().__init__()
        self.found: List[str] = []

    def handle_starttag(self, tag: str, attrs: "list[tuple[str, Optional[str]]]") -> None:
        """Keep the address of a link."""
        self.found += [value for name, value in attrs if tag == "a" and name == "href" and value]


def download(name: str, version: str, pip: Settings, folder: Path) -> Tuple[Optional[Path], str]:
    """Return the wheel for this machine, or None and why; "" if pip's configuration names no place."""
    why_not = ""
    for page, links in pages(name, pip):
        try:
            links = links if links is not None else read(page, pip)
            fitting = [link for link in links if fits(link, name, version)]
            if fitting:
                return fetch(urllib.parse.urljoin(page, fitting[0]), pip, folder), ""
            why_not = f"{name} {version} is not there"
        except (OSError, ValueError) as error:
            why_not = str(getattr(error, "reason", error))
    return None, why_not


def pages(name: str, pip: Settings) -> List[Tuple[str, Optional[List[str]]]]:
    """Return the pages to look at: those of folders with their files, those of indexes unread."""
    found: List[Tuple[str, Optional[List[str]]]] = []
    for link in pip.links:
        path = Path(urllib.parse.unquote(link[7:] if link.startswith("file://") else link))
        if path.is_dir():
            found.append((path.absolute().as_uri() + "/", [urllib.parse.quote(file.name) for file in path.iterdir()]))
    return found + [(address.rstrip("/") + "/" + name + "/", None) for address in places(pip)]


def fits(link: str, name: str, version: str) -> bool:
    """Tell whether a link is to the wheel of a version for this machine, where glibc is assumed."""
    file = file_name(link)
    pattern = r"{}-{}-py3-none-.*manylinux.*_{}\.whl".format(
        *tuple(map(re.escape, (name, version, platform.machine())))
    )
    return re.fullmatch(pattern, file) is not None


def file_name(address: str) -> str:
    """Return the name of the file at an address."""
    return urllib.parse.unquote(urllib.parse.urlsplit(address).path).split("/")[-1]


def read(page: str, pip: Settings) -> List[str]:
    """Return the links of a page."""
    parser = Links()
    with opened(page + "index.html" if page.startswith("file:") else page, pip) as answer:
        parser.feed(answer.read().decode("utf-8", "replace"))
    return parser.found


def fetch(address: str, pip: Settings, folder: Path) -> Path:
    """Download a file and compare it with the hash that its address names. Raises OSError, ValueError."""
    parts = urllib.parse.urlsplit(address)
    path = folder / file_name(address)
    kind, _, digest = parts.fragment.partition("=")
    found = hashlib.new(kind if kind in hashlib.algorithms_guaranteed else "sha256")
    part = path.with_name(path.name + ".part")
    with opened(urllib.parse.urlunsplit(parts._replace(fragment="")), pip) as source, open(str(part), "wb") as target:
        for block in iter(lambda: source.read(BLOCK_BYTES), b""):
            found.update(block)
            target.write(block)
    os.replace(str(part), str(path))
    if kind == found.name and found.hexdigest() != digest:
        path.unlink()
        raise ValueError(f"{path.name} has another hash than its index says")
    return path


def opened(address: str, pip: Settings) -> "IO[bytes]":
    """Open an address, with the name and password in it and pip's certificates."""
    parts = urllib.parse.urlsplit(address)
    request = urllib.request.Request(address)
    if parts.username:
        request = urllib.request.Request(urllib.parse.urlunsplit(parts._replace(netloc=parts.netloc.split("@")[-1])))
        login = "{}:{}".format(urllib.parse.unquote(parts.username), urllib.parse.unquote(parts.password or ""))
        request.add_header("Authorization", "Basic " + base64.b64encode(login.encode()).decode())
    context = ssl.create_default_context(cafile=pip.certificates or None)
    opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=context))
    return opener.open(request, timeout=TIMEOUT_S)
