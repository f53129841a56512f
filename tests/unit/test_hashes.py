"""A large data file is read once, and again as soon as anything about it has changed."""

import hashlib
import json
import os

import pytest

from sft.trainer.data import hashes


@pytest.fixture
def path(tmp_path, monkeypatch):
    """A data file that has not been changed for long, for all that its times tell."""
    monkeypatch.setattr(hashes, "SETTLED_S", -1.0)
    path = tmp_path / "train.jsonl"
    path.write_bytes(b"a row\n")
    return path


def kept(path, large=1):
    return hashes.kept_hash(path, path.parent, large)


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def poison(path):
    """Write another hash where the file's is kept: whoever gives that one back has not read the file."""
    place = path.parent / hashes.NAME
    content = json.loads(place.read_text())
    content["files"][str(path)]["sha256"] = "kept"
    place.write_text(json.dumps(content))


def test_a_file_that_is_as_it_was_is_not_read_again(path):
    assert kept(path) == sha256(path)
    poison(path)
    assert kept(path) == "kept"


def edit_with_old_times(path):
    times = path.stat()
    path.write_bytes(b"b row\n")  # of the same size
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def replace_with_old_times(path):
    times, other = path.stat(), path.with_name("other")
    other.write_bytes(b"b row\n")
    os.utime(other, ns=(times.st_atime_ns, times.st_mtime_ns))
    other.replace(path)


@pytest.mark.parametrize(
    "change", [edit_with_old_times, replace_with_old_times, lambda path: path.write_bytes(b"a row\nb row\n")]
)
def test_a_changed_file_is_read_again_whatever_its_times_say(path, change):
    kept(path)
    poison(path)
    ctime = path.stat().st_ctime_ns
    change(path)
    while path.stat().st_ctime_ns == ctime:  # within one tick of the clock: what SETTLED_S is for
        change(path)
    assert kept(path) == sha256(path)


def test_the_hash_of_a_file_that_was_just_changed_is_not_kept(path, monkeypatch):
    monkeypatch.setattr(hashes, "SETTLED_S", 3600)
    assert kept(path) == sha256(path)
    assert not (path.parent / hashes.NAME).exists()


def test_small_files_are_always_read(path):
    kept(path, large=10**6)
    assert not (path.parent / hashes.NAME).exists()


@pytest.mark.parametrize("content", ["", "[]", '{"x": 1}'])
def test_spoilt_records_are_made_anew(path, content):
    (path.parent / hashes.NAME).write_text(content)
    assert kept(path) == sha256(path) == kept(path)


def test_hashes_from_before_the_file_had_a_version_count(path):
    kept(path)
    poison(path)
    place = path.parent / hashes.NAME
    place.write_text(json.dumps(json.loads(place.read_text())["files"]))
    assert kept(path) == "kept"
