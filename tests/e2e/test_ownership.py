"""Root hands over to the containers' user what they have to write, and nothing that is not the project's."""

import io
import os
from pathlib import Path

import pytest
from rich.console import Console

from sft.errors import SettingsError, UserError
from sft.host import folders, ownership
from sft.run import lifecycle
from sft.settings import variables
from sft.settings.load import load
from tests.settings import decided

UID, OTHER = 4321, 2000
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="changing owners needs root: run the tests as root")


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    """The project's own folder, and others beside it."""
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(ownership, "ROOT", folder)
    monkeypatch.setenv("SFT_UID", str(UID))
    return folder


def make(*paths, owner=0):
    """Make files, and the folders that they are in."""
    for path in map(Path, paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("SEED=1\n")
        os.chown(path, owner, owner)


def owners(folder="."):
    """Return the owner of every path below a folder."""
    return {str(path): path.lstat().st_uid for path in Path(folder).rglob("*")}


def hand_over(**settings):
    chosen = load(None, **settings)
    ownership.hand_over(chosen, folders.make_folders(chosen))
    return chosen


def test_what_the_user_has_put_there_stays():
    make("data/mine.jsonl", "data/mine/train.jsonl", "models/mine/config.json", "runs/earlier/state.json")
    make("data/hers.jsonl", "data/prepared/abc/hers.npy", owner=OTHER)
    before = owners()
    hand_over()
    after = owners()
    given = {path for path in after if after[path] == UID}
    assert given == {"data", "models", "runs", "data/prepared", "data/prepared/abc"}
    assert {path: owner for path, owner in after.items() if path not in given} == {
        path: owner for path, owner in before.items() if path not in given
    }


def test_containers_can_use_the_caches_of_local_runs():
    made = [
        "data/prepared/abc/manifest.json",
        "data/demo-12/train.jsonl",
        "data/hub/a.lock",
        "models/tiny-1/config.json",
    ]
    made += ["models/.locks/a.lock", "models/models--org--name/refs/main"]
    make(*made)
    hand_over()
    assert {owners()[path] for path in made} == {UID}


def test_a_run_is_handed_over_alone():
    hand_over(model_name="tiny", dataset="demo")
    run = lifecycle.create(decided(run_name="now"), "")
    lifecycle.create(decided(run_name="earlier"), "")
    ownership.hand_over_run(run)
    found = owners("runs")
    assert {owner for path, owner in found.items() if path.startswith("runs/now")} == {UID}
    assert {owner for path, owner in found.items() if path.startswith("runs/earlier")} == {0}


def test_folders_elsewhere_are_handed_over_only_if_this_call_has_made_them(tmp_path):
    shared = tmp_path / "shared"
    make(shared / "models--org--name" / "refs" / "main")
    with pytest.raises(SettingsError) as caught:
        hand_over(model_path=str(shared), data_path=str(tmp_path / "new" / "data"))
    assert caught.value.problems == [
        f"MODEL_PATH={shared}: containers run as user {UID}, who may not write there; chown {UID} {shared}, or set "
        "SFT_UID to its owner"
    ]
    assert set(owners(shared).values()) == {0} and shared.stat().st_uid == 0
    assert {path.stat().st_uid for path in (tmp_path / "new", tmp_path / "new" / "data")} == {UID}
    shared.chmod(0o777)
    hand_over(model_path=str(shared), data_path=str(tmp_path / "new" / "data"))


def test_a_link_leads_to_nothing_that_is_handed_over(tmp_path, project):
    make(tmp_path / "elsewhere" / "secret", tmp_path / "models" / "models--org--name" / "a")
    make("data/prepared/abc/manifest.json")
    (project / "models").symlink_to(tmp_path / "models")
    (tmp_path / "models").chmod(0o777)
    (project / "data" / "prepared" / "link").symlink_to(tmp_path / "elsewhere")
    os.link(tmp_path / "elsewhere" / "secret", project / "data" / "prepared" / "abc" / "secret")
    hand_over()
    assert set(owners(tmp_path / "elsewhere").values()) | set(owners(tmp_path / "models").values()) == {0}


def test_the_env_file_is_handed_over_and_said(project):
    make(".env")
    console = Console(file=io.StringIO(), width=200)
    ownership.hand_over_env_file(console)
    assert Path(".env").stat().st_uid == UID and f".env belongs to user {UID} now" in console.file.getvalue()
    os.chown(".env", OTHER, OTHER)
    ownership.hand_over_env_file(console)
    assert Path(".env").stat().st_uid == OTHER


@pytest.mark.parametrize(
    ("owner", "remedy"), [(0, "`make setup LAUNCHER=compose` as root hands it over"), (OTHER, "set SFT_UID=2000 in it")]
)
def test_an_env_file_that_a_container_cannot_read_says_what_to_do(project, owner, remedy):
    make(".env", owner=owner)
    Path(".env").chmod(0o600)
    os.seteuid(UID)
    try:
        with pytest.raises(UserError) as caught:
            variables.from_file(Path(".env"))
    finally:
        os.seteuid(0)
    assert str(caught.value) == f".env: cannot be read by user {UID}; {remedy}"
