"""What `inv test-env` finds out by programs and over the network."""

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.parse import urlsplit

import pytest

from sft.host.check import CheckRecord
from sft.host.doctor import template

ANSWERS = {
    "org/open": (200, {"ETag": '"abc"', "X-Repo-Commit": "abc", "Content-Length": "2"}),
    "org/gated": (403, {"X-Error-Code": "GatedRepo"}),
    "org/none": (404, {"X-Error-Code": "RepoNotFound"}),
    "org/empty": (404, {"X-Error-Code": "EntryNotFound"}),
    "org/old": (404, {"X-Error-Code": "RevisionNotFound"}),
}


class Hub(BaseHTTPRequestHandler):
    """A hub that answers as the real one does."""

    def do_HEAD(self):
        path = urlsplit(self.path).path  # a proxy is asked for the whole address
        code, headers = ANSWERS["/".join(path.split("/")[1:3])]
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def hub():
    server = HTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


ASK = """
import json, sys
from sft.host.doctor import accounts
from sft.run.records import TemplateFacts
from sft.settings.load import load
print(json.dumps([accounts.hub_access(load(None, model_name=name)).record().to_json() for name in sys.argv[1:]]))
"""


def access(*names, **environment):
    """Return what is said of access to models; the hub's library reads its endpoint when it is imported."""
    clean = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    done = subprocess.run(
        [sys.executable, "-c", ASK, *names], env=clean | environment, capture_output=True, text=True, check=True
    )
    return [CheckRecord.from_json(found) for found in json.loads(done.stdout)]


def test_access_is_asked_of_the_endpoint_that_is_set(hub):
    found = access(*ANSWERS, HF_ENDPOINT=hub)
    assert [check.level for check in found] == ["ok", "failure", "failure", "failure", "failure"]
    said = ["may be downloaded", "is gated for you", "is not on the hub", "has no config.json", "has no revision main"]
    for check, words in zip(found, said, strict=True):
        assert words in check.found


def test_access_is_asked_through_the_proxy_that_is_set(hub):
    """A name that only the proxy can know."""
    (found,) = access("org/gated", HF_ENDPOINT="http://mirror.invalid:8080", HTTP_PROXY=hub)
    assert "is gated for you" in found.found


def test_a_hub_that_is_not_there_is_a_warning():
    (found,) = access("org/open", HF_ENDPOINT="http://127.0.0.1:1")
    assert found.level == "warning" and found.found.startswith("the hub cannot be reached (")


def test_a_program_that_hangs_is_a_warning_and_is_ended(monkeypatch):
    monkeypatch.setattr(template, "TIMEOUT_S", 0.1)
    with subprocess.Popen(["sleep", "60"], stdout=subprocess.PIPE, text=True) as process:
        assert template.check(process).level == "warning"
        process.kill()
