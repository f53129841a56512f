"""What `inv test-env` finds out by programs and over the network."""

import json
import os
import subprocess
import sys

import pytest

from sft.host.check import CheckRecord
from sft.host.doctor import template
from sft.host.launch import probe
from tests.hub.content import DATASET, MODEL, OTHER_TOKEN, TOKEN, WRONG_TOKEN, jsonl, rows
from tests.hub.server import running

pytestmark = pytest.mark.real  # ranks that meet within a minute must not wait for a template

MODEL_FILES = {"config.json": "{}", "model.safetensors": "weights"}
ROWS = {"train.jsonl": jsonl(rows("a", 3))}


@pytest.fixture(scope="module")
def hub():
    with running() as hub:
        hub.users = {TOKEN, OTHER_TOKEN}
        hub.add("models", "org/open", MODEL_FILES)
        hub.add("models", MODEL, MODEL_FILES, gated=True, readers={TOKEN})
        hub.add("models", "org/empty", {"README.md": "soon"})
        hub.add("models", "org/pickled", {"config.json": "{}", "pytorch_model.bin": "weights"})
        hub.add("datasets", DATASET, ROWS)
        hub.add("datasets", "org/gated", ROWS, gated=True, readers={TOKEN})
        yield hub


ASK = """
import json, sys
from sft.host.doctor import hub
from sft.settings.load import load
found = [check for given in json.loads(sys.argv[1]) for check in list(hub.checks(load(None, **given)))[1:]]
print(json.dumps([check.record().to_json() for check in found]))
"""


def access(folder, *settings, **environment):
    """Return what is said of access, without the tokens; the hub's library reads its endpoint when it is imported."""
    clean = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    clean |= {"HF_HOME": str(folder / "home")} | environment
    given = [{"model_path": str(folder), "data_path": str(folder), "dataset": "demo"} | more for more in settings]
    done = subprocess.run(
        [sys.executable, "-c", ASK, json.dumps(given)], env=clean, capture_output=True, text=True, check=True
    )
    return [CheckRecord.from_json(found) for found in json.loads(done.stdout)]


def test_the_hub_says_what_may_be_downloaded(hub, tmp_path):
    cases = [
        ({"model_name": "org/open"}, "ok", "org/open may be downloaded", ""),
        ({}, "failure", "it is gated, and there is no token", "ask for access"),
        ({"huggingface_api_key": TOKEN}, "ok", "may be downloaded", ""),
        ({"huggingface_api_key": OTHER_TOKEN}, "failure", "is gated", "ask for access on its page, with the account"),
        ({"huggingface_api_key": WRONG_TOKEN}, "failure", "is not a token that the hub knows", "make one"),
        ({"model_name": "org/none"}, "failure", "no such model on the hub", "HUGGINGFACE_API_KEY"),
        ({"model_name": "org/open", "model_revision": "v9"}, "failure", "has no revision MODEL_REVISION=v9", "page"),
        ({"model_name": "org/empty"}, "failure", "has no config.json", "layout"),
        ({"model_name": "org/pickled"}, "failure", "has no weights in safetensors", "ALLOW_PICKLE=1"),
        ({"model_name": "org/pickled", "allow_pickle": True}, "ok", "may be downloaded", ""),
    ]
    found = access(tmp_path, *(settings for settings, *_ in cases), HF_ENDPOINT=hub.endpoint)
    for check, (settings, level, words, remedy) in zip(found, cases, strict=True):
        assert (check.name, check.level) == ("model", level), (settings, check)
        assert words in check.found and remedy in check.remedy, (settings, check)


def test_the_data_sets_are_asked_for_too(hub, tmp_path):
    both = {"model_name": "tiny", "dataset": f"{DATASET},org/gated*0.5"}
    _, first, second = access(tmp_path, both, HF_ENDPOINT=hub.endpoint)
    assert (first.name, first.level, first.found) == ("data set", "ok", f"{DATASET} may be downloaded")
    assert second.level == "failure" and "DATASET=org/gated: is gated" in second.found


def test_access_is_asked_through_the_proxy_that_is_set(hub, tmp_path):
    """A name that only the proxy can know."""
    (found,) = access(
        tmp_path, {"model_name": "org/open"}, HF_ENDPOINT="http://mirror.invalid:8080", HTTP_PROXY=hub.endpoint
    )
    assert found.found == "org/open may be downloaded"


def test_a_model_that_is_not_here_cannot_be_had_without_the_hub(hub, tmp_path):
    gone, gated = access(tmp_path, {"model_name": "org/open"}, {}, HF_ENDPOINT="http://127.0.0.1:1")
    assert gone.level == "failure" and "the hub cannot be reached (" in gone.found and "network" in gone.remedy
    assert gated.level == "failure" and "it is gated, and there is no token" in gated.found
    (offline,) = access(tmp_path, {"model_name": "org/open"}, HF_ENDPOINT=hub.endpoint, HF_HUB_OFFLINE="1")
    assert offline.level == "failure" and "HF_HUB_OFFLINE=1 forbids a download" in offline.found


def test_test_env_as_json_and_what_it_keeps_for_the_plan(project):
    settings = {"MODEL_NAME": "tiny", "DATASET": "demo", "LAUNCHER": "local"}
    done = project.inv("test-env", "--json", **settings)
    assert done.returncode == 0, done.stdout
    found = json.loads(done.stdout)
    assert found["ready"] is True and found["launcher"] == "local"
    checks = {check["name"]: check for check in found["checks"]}
    assert checks["run"]["level"] == "ok" and checks["disk"]["values"]["checkpoint_bytes"] > 4e6
    assert "computes" in checks["torch"]["found"]
    assert checks["all-reduce"]["values"]["ranks"] >= 2 and checks["all-reduce"]["values"]["gather_gb_s"] > 0
    speed = checks["disk speed"]["values"]["write_gb_s"]
    (kept,) = (project.path / "data" / "machines").iterdir()
    assert json.loads(kept.read_text())["disk_gb_s"] == {str(project.path / "runs"): speed}
    planned = project.inv("plan", "--gpu", "4090", **settings).stdout
    assert f"at {speed:.3g} GB/s, measured on " in planned


def test_a_failure_is_the_last_line_and_the_exit_code(project):
    """Of a run whose settings are wrong nothing else can be said; the machine is checked all the same."""
    done = project.inv("test-env", DATASET="data/none.jsonl", LAUNCHER="local")
    lines = done.stdout.splitlines()
    assert done.returncode == 1 and lines[-1] == "1 check failed; see the remedies above", done.stdout
    assert lines[-2].startswith(" failure  settings: DATASET=data/none.jsonl: ")
    assert "ok  all-reduce: " in done.stdout and "Traceback" not in done.stdout


def test_a_program_that_hangs_is_a_warning_and_is_ended(monkeypatch):
    monkeypatch.setattr(template, "TIMEOUT_S", 0.1)
    with subprocess.Popen(["sleep", "60"], stdout=subprocess.PIPE, text=True) as process:
        assert template.check(process).level == "warning"
        process.kill()


def test_ranks_do_not_wait_for_one_that_has_failed():
    """An all-reduce whose second rank fails: the first would wait for it until its own time is over."""
    ranks = [subprocess.Popen([sys.executable, "-c", code]) for code in ("import time; time.sleep(600)", "exit(3)")]
    assert probe.first_failure(ranks) == 1
    ranks[0].kill()
    assert probe.first_failure(ranks) in (0, 1)  # both have failed by now
