"""The bootstrap, which runs under older Pythons: pip's configuration, an index's wheels, what is wrong with `.venv`."""

import hashlib
import os
import shlex
import sys
from pathlib import Path

import pytest

from sft.host.bootstrap import environment, index, pip_settings, sound, uv
from sft.host.install import leftovers


@pytest.fixture
def venv(tmp_path):
    """What `python -m venv` makes, as far as it is looked at."""
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    (tmp_path / "lib" / version / "site-packages" / "pip").mkdir(parents=True)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "pip").write_text(f"#!{tmp_path}/bin/python\nimport sys\n")
    return tmp_path


def test_a_whole_environment_is_sound_and_a_marked_one_goes_on(venv):
    assert sound.state(str(venv)) == sound.SOUND
    (venv / sound.MARK).touch()
    assert sound.state(str(venv)) == sound.UNFINISHED


@pytest.mark.parametrize("folder", ["a b", "it's", "[br] %s &amp;", "ünï日本"])
def test_an_environment_under_a_path_with_odd_characters_is_this_folders(venv, folder):
    odd = venv.rename(venv.with_name(folder))
    python = f"{odd}/bin/python3.11"
    quoted = [shlex.quote(python), f'"{python}"']  # as uv and as pip quote it for sh, which is in between sometimes
    for first in (f"#!{python}\n", *(f"#!/bin/sh\n'''exec' {word} \"$0\" \"$@\"\n" for word in quoted)):
        (odd / "bin" / "pip").write_text(first)
        assert sound.state(str(odd)) == sound.SOUND, first


def test_an_environment_of_another_python_folder_or_without_pip_is_not(venv):
    pip = venv / "bin" / "pip"
    pip.write_text("#!/home/before/sft/.venv/bin/python\n")
    assert sound.state(str(venv)) == "was made in another folder"
    pip.unlink()
    assert sound.state(str(venv)) == "has no pip"
    packages = next((venv / "lib").iterdir())
    packages.rename(packages.with_name("python3.8"))
    assert "another Python" in sound.state(str(venv))


def test_of_a_killed_installation_what_is_half_there_goes(tmp_path):
    for name in ("whole-1.0.dist-info", "half-2.0.dist-info", "~alf", "half"):
        (tmp_path / name).mkdir()
    (tmp_path / "whole-1.0.dist-info" / "RECORD").touch()
    assert list(leftovers.remove(tmp_path)) == ["half"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["half", "whole-1.0.dist-info"]


def test_pips_configuration_is_combined_as_pip_does(tmp_path):
    home = tmp_path / "home"
    (home / ".config" / "pip").mkdir(parents=True)
    (home / ".config" / "pip" / "pip.conf").write_text(
        "[global]\nindex-url = https://me:key@mirror.example/simple/\nextra_index_url =\n  file:///a\n  file:///b\n"
        "[install]\nfind-links = /wheels /more\n[list]\nindex-url = https://wrong.example\n"
    )
    (tmp_path / "own.conf").write_text("[global]\ncert = /own.pem\n")
    given = {"HOME": str(home), "XDG_CONFIG_DIRS": str(tmp_path), "PIP_CONFIG_FILE": str(tmp_path / "own.conf")}
    pip = pip_settings.settings(given)
    assert (pip.index, pip.more_indexes) == ("https://me:key@mirror.example/simple/", ["file:///a", "file:///b"])
    assert (pip.links, pip.certificates, pip.no_index) == (["/wheels", "/more"], "/own.pem", False)
    pip = pip_settings.settings(given | {"PIP_INDEX_URL": "https://other.example", "PIP_NO_INDEX": "1"})
    assert pip.index == "https://other.example" and pip_settings.places(pip) == []
    assert pip_settings.settings({"PIP_CONFIG_FILE": os.devnull, "HOME": str(home)}).index == ""


def test_uv_looks_where_pip_does_unless_it_is_told_otherwise(monkeypatch):
    pip = {"PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": "https://a", "PIP_EXTRA_INDEX_URL": "https://b https://c"}
    told = uv.environment(pip | {"PIP_FIND_LINKS": "/d /e", "PIP_CERT": "/f.pem"})
    assert told["UV_DEFAULT_INDEX"] == "https://a" and told["UV_INDEX"] == "https://b https://c"
    assert told["UV_INDEX_STRATEGY"] == "unsafe-best-match" and told["UV_FIND_LINKS"] == "/d,/e"
    assert told["SSL_CERT_FILE"] == "/f.pem" and told["UV_PYTHON_INSTALL_DIR"].endswith("/.uv/python")
    assert uv.environment(pip | {"UV_DEFAULT_INDEX": "https://mine"})["UV_DEFAULT_INDEX"] == "https://mine"


LINUX = "small-1.0-py3-none-manylinux_2_17_x86_64.manylinux2014_x86_64.whl"


@pytest.fixture
def machine(monkeypatch):
    monkeypatch.setattr(index.platform, "machine", lambda: "x86_64")


def settings_for(**values):
    return pip_settings.Settings({name.replace("_", "-"): value for name, value in values.items()})


def test_a_wheel_comes_from_an_index_with_its_hash_compared(tmp_path, machine):
    page = tmp_path / "simple" / "small"
    page.mkdir(parents=True)
    (tmp_path / LINUX).write_bytes(b"wheel")
    others = [LINUX.replace("x86_64", "aarch64"), LINUX.replace("1.0", "1.0.1"), LINUX.replace("many", "musl")]
    digest = hashlib.sha256(b"wheel").hexdigest()
    links = "".join(f'<a href="../../{name}#sha256={digest}">{name}</a>' for name in [*others, LINUX])
    (page / "index.html").write_text(links)
    pip = settings_for(index_url=(tmp_path / "simple").as_uri())
    found, _ = index.download("small", "1.0", pip, page)
    assert found == page / LINUX and found.read_bytes() == b"wheel"
    (page / "index.html").write_text(links.replace(digest, "0" * 64))
    assert index.download("small", "1.0", pip, page) == (None, f"{LINUX} has another hash than its index says")
    assert index.download("small", "2.0", pip, page) == (None, "small 2.0 is not there")


def test_a_wheel_comes_from_a_folder_too_and_no_place_is_no_error(tmp_path, machine):
    (tmp_path / "wheels here").mkdir()
    (tmp_path / "wheels here" / LINUX).write_bytes(b"wheel")
    pip = settings_for(find_links=(tmp_path / "wheels here").as_uri())
    assert index.download("small", "1.0", pip, tmp_path)[0] == tmp_path / LINUX
    assert index.download("small", "1.0", settings_for(), tmp_path) == (None, "")
    found, why_not = index.download("small", "1.0", settings_for(index_url="file:///no/such/index"), tmp_path)
    assert found is None and "No such file or directory" in why_not


def test_the_line_of_a_message_that_says_what_is_wrong():
    text = "\x1b[31merror\x1b[39m: Failed to fetch\n  ├─▶ request failed\n  ╰─▶ no such host\nhint: see the manual\n"
    assert uv.reason(text) == "no such host"
    assert uv.reason("WARNING: slow\nERROR: No matching distribution found for uv\n") == (
        "No matching distribution found for uv"
    )
    assert uv.reason("") == "no message"


@pytest.mark.parametrize(
    ("version", "usable", "release", "line"),
    [
        ("3.11.2", True, "bookworm", "without venv, and uv could not help (no such host); install it: sudo apt"),
        ("3.10.12", False, "jammy", "try again, or sudo apt install python3.11-venv, then `make PYTHON=python3.11`"),
        ("3.9.2", False, "bullseye", "and uv could not get Python 3.12 (no such host); connect to the network and try"),
        ("3.9.2", False, "bullseye", "try again, or use PYTHON=python3.11"),
    ],
)
def test_the_line_for_a_machine_that_cannot_make_an_environment(version, usable, release, line, monkeypatch):
    monkeypatch.delenv("UV_PYTHON", raising=False)
    found = environment.remedy(version, usable, "no such host", {"VERSION_CODENAME": release})
    assert found.startswith(f"PYTHON={sys.executable}: is {version}") and line in found and "\n" not in found


def test_the_first_file_can_be_read_by_any_python():
    """It is the one that says so, under a Python too old for the others."""
    text = (Path(environment.__file__).parent / "__main__.py").read_text()
    assert 'f"' not in text and "f'" not in text and "->" not in text and ":=" not in text
