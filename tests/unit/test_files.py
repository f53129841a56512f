"""What several processes use: written whole or not at all, flushed before it has its name, locked as NFS allows it."""

import json
import os
from pathlib import Path

import pytest

from sft.run import files, owners

# Whole or absent


@pytest.fixture
def calls(monkeypatch):
    """The calls of fsync and rename, in their order, with the path that each was about."""
    seen = []
    fsync, rename, replace = os.fsync, os.rename, os.replace

    def recording_fsync(descriptor):
        seen.append(("flush", Path(os.readlink(f"/proc/self/fd/{descriptor}"))))
        fsync(descriptor)

    def recording(what):
        return lambda old, new: (seen.append(("rename", Path(new))), what(old, new))[1]

    monkeypatch.setattr(os, "fsync", recording_fsync)
    monkeypatch.setattr(os, "rename", recording(rename))
    monkeypatch.setattr(os, "replace", recording(replace))
    return seen


def test_a_file_is_flushed_before_it_has_its_name_and_the_name_after(tmp_path, calls):
    files.write_whole(tmp_path / "a", "text\n")
    kinds = [(kind, path.name) for kind, path in calls]
    assert kinds[1:] == [("rename", "a"), ("flush", tmp_path.name)]
    assert kinds[0][0] == "flush" and files.TEMPORARY.fullmatch(kinds[0][1])
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_folder_is_flushed_before_it_has_its_name_and_the_name_after(tmp_path, calls):
    with files.whole_folder(tmp_path / "made") as folder:
        (folder / "inner").mkdir(parents=True)
        (folder / "one").write_text("1")
        (folder / "inner" / "two").write_text("2")
    at = calls.index(("rename", tmp_path / "made"))
    assert {path.name for _, path in calls[:at]} == {"made", "inner", "one", "two"}
    assert calls[at + 1 :] == [("flush", tmp_path)]
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def test_nothing_stays_of_a_folder_whose_making_fails(tmp_path):
    with pytest.raises(KeyError), files.whole_folder(tmp_path / "made") as folder:
        folder.mkdir()
        (folder / "half").write_text("x")
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_another_process_made_meanwhile_stays_if_it_is_whole(tmp_path):
    for theirs, kept in (("whole", "theirs"), ("half", "ours")):
        with files.whole_folder(tmp_path / theirs, lambda found: (found / "last").exists()) as folder:
            folder.mkdir()
            (folder / "whose").write_text("ours")
            (tmp_path / theirs).mkdir()
            (tmp_path / theirs / "whose").write_text("theirs")
            if theirs == "whole":
                (tmp_path / theirs / "last").touch()
        assert (tmp_path / theirs / "whose").read_text() == kept
    assert sorted(path.name for path in tmp_path.iterdir()) == ["half", "whole"]


def test_temporary_files_are_removed_where_nobody_else_writes(tmp_path):
    temporary = files.temporary_name(tmp_path / "state.json")
    temporary.write_text("{")
    files.sweep(tmp_path)
    assert temporary.exists()
    files.sweep(tmp_path, files=True)
    assert not temporary.exists()


def test_a_folder_is_removed_under_another_name(tmp_path, calls):
    (tmp_path / "step-000010").mkdir()
    files.remove_folder(tmp_path / "step-000010")
    assert [files.TEMPORARY.fullmatch(path.name) is not None for _, path in calls] == [True]
    assert list(tmp_path.iterdir()) == []


# JSON


def test_numbers_that_json_does_not_have_become_null(tmp_path):
    files.write_json(tmp_path / "a", {"loss": float("nan"), "parts": [1.5, float("inf")], "text": "größer \ud800"})
    strict = json.loads((tmp_path / "a").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert strict == {"loss": None, "parts": [1.5, None], "text": "größer \ud800"}
    (tmp_path / "old").write_text('{"loss": NaN}')
    assert files.read_json(tmp_path / "old") == {"loss": None}


@pytest.mark.parametrize("content", [b"", b'{"a": 1', b"\0" * 40, b"\xff\xfe", b"[1]", b"7", b'{"a":' * 50_000])
def test_a_file_that_is_not_the_json_it_should_be_is_named_in_a_line(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(files.Unreadable) as caught:
        files.read_json(tmp_path / "a.json", advice="make it anew")
    line = str(caught.value)
    assert line.startswith(f"{tmp_path}/a.json: ") and line.endswith("; make it anew") and line.isprintable()


# Owners


def test_a_path_that_is_not_there_is_told_by_the_folder_that_is(tmp_path):
    line = owners.not_yours(tmp_path / "none" / ".stop.0123abcd.tmp")
    me = owners.user(os.geteuid())
    assert line == f"{tmp_path}: is {me}'s own, closed for writing or reading; `chmod -R u+rwX {tmp_path}` opens it"
    owner = owners.whose(Path("/proc/1"))
    assert owners.whose(Path("/proc/1/none/none")) == owner
