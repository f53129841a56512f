"""`answers.jsonl`: all answers of both evaluations, whole or not at all."""

import errno
import json
import os

import pytest

from sft.run import answers
from sft.run.records import AnswerLine


def line(moment, index, answer="#### 5"):
    return AnswerLine(
        moment=moment, index=index, prompt="2 + 3?", reference="#### 5", answer=answer,
        generated=answer, tokens=3, ended=True,
        expected="5", found="5", found_flexible="5", correct=True, correct_flexible=True,
    )  # fmt: skip


def kept(path):
    return [
        (found.moment, found.index, found.answer)
        for found in (AnswerLine.from_json(json.loads(text)) for text in path.read_text().splitlines())
    ]


def test_a_new_evaluation_replaces_the_answers_of_its_moment(tmp_path):
    path = tmp_path / "answers.jsonl"
    answers.write(path, "after", [line("after", 0, "old"), line("after", 1, "old")])
    answers.write(path, "before", [line("before", 0)])
    answers.write(path, "after", [line("after", 0, "new")])
    assert kept(path) == [("before", 0, "#### 5"), ("after", 0, "new")]
    answers.write(path, "before", [])
    assert kept(path) == [("after", 0, "new")]


def test_lines_that_cannot_be_read_are_left_out(tmp_path):
    path = tmp_path / "answers.jsonl"
    answers.write(path, "before", [line("before", 0)])
    with path.open("ab") as file:
        file.write(b'{"moment": "before"\n[]\n\xff\xfe\n' + b'{"moment": "before", "index": ')
    answers.write(path, "after", [line("after", 0)])
    assert kept(path) == [("before", 0, "#### 5"), ("after", 0, "#### 5")]


def test_a_full_disk_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "answers.jsonl"
    answers.write(path, "before", [line("before", 0)])

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        answers.write(path, "after", [line("after", 0)])
    assert kept(path) == [("before", 0, "#### 5")] and list(tmp_path.iterdir()) == [path]


def test_any_text_is_one_line_and_no_secret_is_in_it(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_0123456789")
    path = tmp_path / "answers.jsonl"
    answers.write(path, "after", [line("after", 0, "a\nb\u2028c\x00\ud800 é hf_0123456789")])
    (text,) = path.read_text(encoding="utf-8").strip().split("\n")
    assert json.loads(text)["answer"] == "a\nb\u2028c\x00\ud800 é ***"
