"""A bundle: what uv resolves becomes wheels with hashes, and damage is found before anything is installed."""

import json

import pytest

from sft.errors import UserError
from sft.host.bootstrap import bundle as offline
from sft.host.commands import bundle
from sft.host.install import manifest
from sft.host.install.manifest import Manifest
from sft.host.screen import terminal
from sft.settings.load import load

ABOUT = Manifest("3.12", "cu126", "2.13.0", with_python=True, dev=False)


@pytest.fixture
def folder(tmp_path):
    for name in ("wheels/a-1.0.whl", "models/one/weights", "data/rows"):
        (tmp_path / "bundle" / name).parent.mkdir(parents=True)
        (tmp_path / "bundle" / name).write_text(name)
    manifest.write(tmp_path / "bundle", ABOUT)
    return tmp_path / "bundle"


def test_every_file_is_in_the_manifest_and_what_is_not_as_it_was_is_named(folder):
    assert manifest.read(folder).files.keys() == {"wheels/a-1.0.whl", "models/one/weights", "data/rows"}
    assert manifest.damaged(folder) == []
    (folder / "wheels" / "a-1.0.whl").write_text("cut")
    (folder / "data" / "rows").unlink()
    assert sorted(manifest.damaged(folder)) == ["data/rows", "wheels/a-1.0.whl"]


def test_models_and_data_are_copied_and_what_is_there_stays(folder, tmp_path):
    models, data = tmp_path / "models", tmp_path / "data"
    models.mkdir()
    data.mkdir()
    (data / "rows").write_text("mine")
    manifest.copy_caches(folder, models, data)
    assert (models / "one" / "weights").read_text() == "models/one/weights" and (data / "rows").read_text() == "mine"


def test_offline_means_the_folder_and_no_network(folder):
    given = {"OFFLINE": "1", "BUNDLE": str(folder), "PIP_INDEX_URL": "https://a", "UV_INDEX": "https://b"}
    assert offline.python(given) == "3.12" and offline.python(given | {"OFFLINE": "no"}) == ""
    offline.use(given)
    assert given["PIP_NO_INDEX"] == given["UV_OFFLINE"] == given["HF_HUB_OFFLINE"] == "1"
    assert given["PIP_FIND_LINKS"] == str(folder / "wheels") and not {"PIP_INDEX_URL", "UV_INDEX"} & given.keys()


def test_a_folder_that_is_no_bundle_is_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        offline.use({"OFFLINE": "1", "BUNDLE": str(tmp_path)})
    assert ended.value.code == 2 and capsys.readouterr().err == (
        f"OFFLINE=1: {tmp_path} has no manifest.json; `make bundle` on a machine with a network writes it\n"
    )


def test_a_locked_package_has_a_wheel_with_its_hash_or_must_be_built():
    wheel = {"url": "https://a/b-1.whl", "hashes": {"sha256": "00"}}
    locked = bundle.package_of({"name": "b", "version": "1", "wheels": [wheel]})
    assert locked == bundle.Package("b==1", "https://a/b-1.whl#sha256=00")
    local = {"path": "/wheels/b-1.whl", "hashes": {"sha256": "00"}}
    assert (
        bundle.package_of({"name": "b", "version": "1", "wheels": [local]}).wheel == "file:///wheels/b-1.whl#sha256=00"
    )
    assert bundle.package_of({"name": "b", "version": "1"}) == bundle.Package("b==1", "")
    assert bundle.package_of({"name": "sft", "directory": {"path": "."}}) is None


def test_wheels_of_an_earlier_call_go(tmp_path):
    for name in ("b-1.whl", "b-0.whl", "from_source-2-py3-none-any.whl", "old-1.whl"):
        (tmp_path / name).touch()
    packages = [bundle.Package("b==1", "https://a/b-1.whl#sha256=00"), bundle.Package("from-source==2", "")]
    assert sorted(path.name for path in bundle.unwanted(packages, tmp_path)) == ["b-0.whl", "old-1.whl"]


def test_the_manifest_says_what_the_folder_is_for(folder):
    about = json.loads((folder / "manifest.json").read_text())
    assert {name: about[name] for name in ("python", "backend", "torch", "with_python", "dev")} == {
        "python": "3.12", "backend": "cu126", "torch": "2.13.0", "with_python": True, "dev": False,
    }  # fmt: skip


def test_a_folder_that_cannot_be_written_is_a_line(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("BUNDLE", f"{tmp_path}/file/bundle")
    with pytest.raises(UserError, match=f"^BUNDLE={tmp_path}/file/bundle: cannot be written .Not a directory.; choose"):
        bundle.write(load(None), "3.12", False, terminal())
