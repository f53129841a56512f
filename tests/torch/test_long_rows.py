"""Random rows under every MAX_LENGTH and LONG_ROWS: each is trained or dropped and counted, and keeps its number."""

import copy
import shutil
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sft import long_rows
from sft.errors import DataError
from sft.rows.bad_rows import BadRows
from sft.settings.fields import Settings
from sft.settings.kinds import LARGEST
from sft.settings.load import load
from sft.trainer.data import chat_template, probe, row_writer, workers
from sft.trainer.data.rows import Rows
from sft.trainer.data.texts import TextTokeniser
from sft.trainer.data.tokenise import Tokeniser

WORDS = st.integers(0, 30).map(lambda number: "1 " * number)
ASKED, ANSWERED = (WORDS.map(lambda text, end=end: text + end) for end in "?!")
TURNS = st.lists(st.tuples(ASKED, ANSWERED), min_size=1, max_size=3)


@st.composite
def conversations(draw):
    turns = draw(TURNS)
    messages = [
        {"role": role, "content": text}
        for turn in turns
        for role, text in zip(("user", "assistant"), turn, strict=True)
    ]
    more = draw(st.integers(0, 2))
    return {"messages": messages + [{"role": "user", "content": "?"}] * more}, more


@pytest.fixture(scope="module")
def of_chats(tokenizer):
    chosen = load(None)
    template = chat_template.of(copy.deepcopy(tokenizer), chosen)
    return Tokeniser(probe.probe(template, {tokenizer.eos_token_id}), chosen, asked=True)


def limited(tokeniser, **given):
    return replace(tokeniser, settings=Settings.of(tokeniser.settings, **given))


def written(tokeniser, rows, folder):
    """Return what is written of rows, and its counts."""
    shutil.rmtree(folder, ignore_errors=True)
    bad = BadRows()
    read = [(f"a.jsonl:{number}", row) for number, row in enumerate(rows)]
    counts = row_writer.write(folder, workers.tokenised(read, tokeniser, bad), tokeniser.kind)
    bad.check()
    return Rows(folder), counts


LIMITS = st.integers(8, 90)
CHOICES = st.sampled_from(["cut", "drop", "refuse"])


@given(st.lists(conversations(), min_size=1, max_size=8), LIMITS, CHOICES)
@settings(max_examples=100, deadline=None)
def test_conversations_are_accounted_for(of_chats, tmp_path_factory, drawn, limit, choice):
    folder, rows = tmp_path_factory.getbasetemp() / "chats", [row for row, _ in drawn]
    uncut = [found[-1] for found in limited(of_chats, max_length=LARGEST).rows([("", row) for row in rows])]
    lengths = np.array([len(one.ids) for one in uncut])
    targets = np.array([sum(one.is_target[1:limit]) for one in uncut])
    tokeniser = limited(of_chats, max_length=limit, long_rows=choice)
    if choice == "refuse" and max(lengths) > limit:
        with pytest.raises(DataError) as caught:
            written(tokeniser, rows, folder)
        named = [line.split(":")[1] for line in str(caught.value).splitlines()]
        assert named == [str(number) for number in np.flatnonzero(lengths > limit)]
        return
    found, counts = written(tokeniser, rows, folder)
    kept = targets > 0 if choice == "cut" else lengths <= limit
    assert found.row_of.tolist() == np.flatnonzero(kept).tolist() == found.row_of[found.asked()].tolist()
    assert counts.read == len(rows) and counts.conversations == sum(kept) and counts.dropped_rows == sum(~kept)
    assert counts.target_tokens == targets[kept].sum() and counts.longest == min(limit, max(lengths[kept], default=0))
    assert counts.too_long == sum(lengths > limit) and counts.cut_rows == sum(kept & (lengths > limit))
    assert counts.messages_left_out == sum(more for (_, more), is_kept in zip(drawn, kept, strict=True) if is_kept)
    check_remedy(counts, lengths, limit)


def check_remedy(counts, lengths, limit):
    """The MAX_LENGTH that a warning names holds 99 % of the rows, and the one that holds all holds all."""
    assert counts.holds_all == (max(lengths) if max(lengths) > limit else 0)
    if counts.holds_most:
        assert np.mean(lengths > limit) > 0.01 >= np.mean(lengths > counts.holds_most)
        assert str(counts.holds_most) in long_rows.warning(counts, Settings(max_length=limit))
    else:
        assert np.mean(lengths > limit) <= 0.01 and not long_rows.warning(counts, Settings(max_length=limit))


@given(st.lists(WORDS, min_size=1, max_size=8), LIMITS, st.sampled_from(["cut", "drop"]))
@settings(max_examples=60, deadline=None)
def test_texts_are_accounted_for(tokenizer, tmp_path_factory, texts, limit, choice):
    chosen = Settings.of(load(None), max_length=limit, long_rows=choice)
    tokeniser = TextTokeniser(tokenizer, chosen, [tokenizer.eos_token_id])
    found, counts = written(tokeniser, [{"text": text} for text in texts], tmp_path_factory.getbasetemp() / "texts")
    lengths = np.array([len(tokenizer(text).input_ids) + 1 if text else 0 for text in texts])
    kept = (lengths > 0) & ((lengths <= limit) | (choice == "cut"))
    assert sorted(set(found.row_of.tolist())) == np.flatnonzero(kept).tolist()
    assert counts.read == len(texts) and counts.conversations == sum(kept) and counts.cut_rows == 0
    assert counts.dropped.get("empty", 0) == sum(lengths == 0)
    assert counts.target_tokens == (lengths[kept] - 1).sum()
