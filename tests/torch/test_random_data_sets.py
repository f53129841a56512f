"""Random data sets of every form, kind of file and layout: each row is trained, held out or dropped, or all refused.

A data set with nothing wrong in it is never refused: its answers are trained, and those of its test files held out.
"""

import codecs
import gzip
import itertools
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from sft.errors import DataError, SettingsError
from sft.rows import look
from sft.settings.load import load
from sft.trainer.data import prepared_data
from sft.trainer.data.rows import Rows
from tests.cases.outcome import TEMPLATE

from ..unit.written import BINARIES, TEXTS, zstandard

WORDS = st.text(st.characters(exclude_categories=["Cs", "Cc"]) | st.sampled_from("\n\"',;|[{"), min_size=1, max_size=6)
WORDS = WORDS.filter(lambda text: text.strip())
ANSWERS = st.integers(0, 10**6).map(lambda number: f"answer {number}")  # so that each is found again
CHATS = st.lists(st.tuples(WORDS, ANSWERS), min_size=1, max_size=3)
KEYS = {
    "messages": ("role", "content", "user", "assistant"),
    "conversations": ("from", "value", "human", "gpt"),
    "contents": ("role", "parts", "user", "model"),
}


def in_messages(name, turns):
    key, text, *roles = KEYS[name]
    said = [(role, words) for turn in turns for role, words in zip(roles, turn, strict=True)]
    return {name: [{key: role, text: [{"text": words}] if text == "parts" else words} for role, words in said]}


def in_columns(names, turns):
    *history, (asked, answered) = turns
    return dict(zip(names, (asked, answered), strict=True)) | ({"history": history} if history else {})


FORMS = {
    **{name: lambda turns, name=name: in_messages(name, turns) for name in KEYS},
    **{
        " ".join(names): lambda turns, names=names: in_columns(names, turns)
        for names in (("question", "answer"), ("instruction", "output"), ("problem", "solution"), ("user", "assistant"))
    },
    "messages as text": lambda turns: {"messages": json.dumps(in_messages("messages", turns)["messages"])},
    "data": lambda turns: {"data": [text for turn in turns for text in turn]},
    "pairs": lambda turns: {"conversation": [{"input": asked, "output": answered} for asked, answered in turns]},
}
WRONG = (
    {"question": "a", "answer": None},
    {"question": "", "answer": "b"},
    {"question": "a", "answer": {"b": []}},
    {"messages": [{"role": "user", "content": "a"}]},
    {"messages": "[{"},
    {"prompt": "a", "chosen": "b", "rejected": "c"},
    {"question": "a", "answer": "b", "images": ["c"]},
    {"id": "3"},
    {},
)
LAYOUTS = ("file", "train", "train and test", "folders", "README", "splits of JSON")


@st.composite
def data_sets(draw):
    """Draw the rows of two splits, how they are written, and what is wrong with one of them, if anything."""
    layout = draw(st.sampled_from(LAYOUTS))
    kinds = ["splits.json"] if layout == "splits of JSON" else [*TEXTS, *BINARIES]
    kind = draw(st.sampled_from(kinds))
    forms = draw(st.lists(st.sampled_from(list(FORMS)), min_size=1, max_size=1 if kind in BINARIES else 3))
    parts = [draw(st.lists(CHATS, min_size=1, max_size=5))]
    if layout not in ("file", "train"):
        parts.append(draw(st.lists(CHATS, min_size=1, max_size=3)))
    rows = [[FORMS[form](turns) for turns, form in zip(part, itertools.cycle(forms), strict=False)] for part in parts]
    wrong = draw(st.sampled_from([None] * 3 + list(WRONG)))
    if kind in BINARIES or (wrong and kind.endswith((".csv", ".tsv")) and isinstance(wrong.get("answer"), dict)):
        wrong = None  # it cannot be written, or is a text
    if wrong is not None:
        rows[0].insert(draw(st.integers(0, len(rows[0]))), wrong)
    compression, mark = (
        draw(st.sampled_from(["", "", ".gz", ".zst"])),
        draw(st.sampled_from([b"", b"", codecs.BOM_UTF8])),
    )
    if kind in BINARIES:
        compression, mark = "", b""
    return SimpleNamespace(
        layout=layout, kind=kind, parts=parts, rows=rows, is_right=wrong is None, compression=compression, mark=mark
    )


def write(found, folder):
    """Write a data set. Return its path."""

    def file(name, content):
        path = folder / f"{name}{found.compression}"
        path.parent.mkdir(parents=True, exist_ok=True)
        packed = {"": bytes, ".gz": gzip.compress, ".zst": zstandard}[found.compression]
        path.write_bytes(packed(found.mark + content))
        return path

    if found.layout == "splits of JSON":
        content = dict(zip(("train", "test"), found.rows, strict=True))
        return file(found.kind, json.dumps(content).encode())
    made = (TEXTS | BINARIES)[found.kind]
    suffix = Path(found.kind).suffix
    if found.layout == "file":
        return file(f"rows{suffix}", made(found.rows[0]))
    names = {"folders": ("train/0", "test/0"), "README": ("data/one", "data/two")}.get(
        found.layout, ("train", "a-test")
    )
    for name, rows in zip(names, found.rows, strict=False):
        file(f"{name}{suffix}", made(rows))
    if found.layout == "README":
        files = "".join(
            f"  - split: {split}\n    path: {name}*\n" for split, name in zip(("train", "test"), names, strict=True)
        )
        (folder / "README.md").write_text(f"---\nconfigs:\n- config_name: default\n  data_files:\n{files}---\n")
        (folder / "dataset_infos.json").write_text("{}")
    return folder


@pytest.mark.timeout(1800)  # 2,000 examples beside other work
@given(found=data_sets())
def test_every_row_of_any_data_set_is_accounted_for(found, tiny, tmp_path_factory, tokenizer):
    folder = tmp_path_factory.getbasetemp() / "random"
    shutil.rmtree(folder, ignore_errors=True)
    path = write(found, folder / "set")
    settings = load(None, dataset=str(path), data_path=folder / "cache", chat_template=str(TEMPLATE))
    event(f"{found.layout}, {'right' if found.is_right else 'wrong'}")
    try:
        look.check_first_rows(path, settings)
        prepared, manifest = prepared_data.prepared_data(settings, tiny)
    except (DataError, SettingsError) as error:
        assert not found.is_right, str(error)
        assert str(error).isprintable() or "\n" in str(error)
        return
    counts = manifest.row_counts
    number = sum(len(rows) for rows in found.rows)
    assert (counts.read, counts.trained + counts.dropped + counts.held_out) == (number, number)
    assert found.is_right or counts.dropped, "a wrong row is trained"
    trained, held_out = (answers(Rows(prepared / split), tokenizer) for split in ("train", "validation"))
    expected = [sorted(answer for turns in part for _, answer in turns) for part in found.parts]
    if len(expected) == 2:
        assert [trained, held_out] == expected
    else:
        assert sorted(trained + held_out) == expected[0]


def answers(rows, tokenizer):
    """Return the answers that are targets in a split."""
    found = []
    for number in range(len(rows)):
        ids, is_target = rows[number]
        runs = itertools.groupby(zip(ids.tolist(), is_target.tolist(), strict=True), key=lambda pair: pair[1])
        found += [tokenizer.decode([token for token, _ in run]).removesuffix("</s>") for marked, run in runs if marked]
    return sorted(found)
