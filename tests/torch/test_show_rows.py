"""What `make rows` shows is what is trained, token for token."""

import json
import shutil

import numpy as np
import pytest
import tokenizers
import transformers
from hypothesis import given
from hypothesis import strategies as st

from sft.errors import DataError, UserError
from sft.run import typed_json
from sft.run.shown_rows import RowChoice, ShownRows
from sft.settings.load import load
from sft.trainer.data.lengths import histogram
from sft.trainer.data.pieces import Decoder
from sft.trainer.data.prepared_data import tokeniser_of
from sft.trainer.data.show_rows import show

CHAT = {
    "messages": [
        {"role": "user", "content": "a?"}, {"role": "assistant", "content": "b é"},
        {"role": "user", "content": "c?"}, {"role": "assistant", "content": "d"},
    ]
}  # fmt: skip


@pytest.fixture(scope="module")
def without_weights(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "tokenizer"
    shutil.copytree(tiny, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    return folder


@pytest.fixture
def of_rows(without_weights, tmp_path):
    """Return what there is to show of rows: those of training, as JSON and back."""

    def of(rows, held_out=({"question": "v", "answer": "v"},), given=None, **chosen):
        for name, content in (("train", rows), ("validation", held_out)):
            path = tmp_path / f"rows/{name}.jsonl"
            path.parent.mkdir(exist_ok=True)
            path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in content))
        settings = load(
            None,
            model_name=str(without_weights),
            dataset=str(tmp_path / "rows"),
            data_path=tmp_path / "data",
            **(given or {}),
        )
        choice = {"split": "train", "number": 3} | chosen
        found = show(without_weights, tokeniser_of(settings, without_weights), RowChoice(**choice))
        return ShownRows.from_json(json.loads(json.dumps(typed_json.content_of(found))))

    return of


def numbered(count):
    return [{"question": f"row {number}", "answer": "yes " * (number % 7 + 1)} for number in range(count)]


def ids(sequence):
    return [token for piece in sequence.pieces for token in piece.ids]


def text(row):
    return "".join(piece.text for sequence in row.sequences for piece in sequence.pieces)


def test_ids_targets_and_text_are_those_that_are_trained(of_rows, without_weights):
    (row,) = of_rows([CHAT], ids=True).rows
    (sequence,) = row.sequences
    tokeniser = tokeniser_of(load(None), without_weights)
    ((trained,),) = tokeniser.rows([("a:1", CHAT)])
    assert ids(sequence) == list(trained.ids)
    assert [piece.kind != "context" for piece in sequence.pieces for _ in piece.ids] == list(trained.is_target)
    assert [(piece.kind, piece.text) for piece in sequence.pieces] == [
        ("context", "<s><user>"), ("context", "a?"), ("context", "<assistant>"), ("target", "b é"), ("end", "</s>"),
        ("context", "<user>"), ("context", "c?"), ("context", "<assistant>"), ("target", "d"), ("end", "</s>"),
    ]  # fmt: skip
    assert text(row) == tokeniser.probe.tokenizer.decode(trained.ids)
    assert all(len(piece.token_texts) == len(piece.ids) for piece in sequence.pieces)
    assert (row.answers, row.target_answers) == (2, 2) and row.where.endswith("train.jsonl:1")


def test_rows_are_from_all_over_the_split_or_the_one_of_a_number(of_rows):
    found = of_rows(numbered(11))
    assert [row.index for row in found.rows] == [0, 5, 10] and found.number == 11 and not found.problems
    assert ["row 5" in text(row) for row in found.rows] == [False, True, False]
    assert found.rows[1].where.endswith("train.jsonl:6")
    assert found.counts.rows == 11 and sum(bar.sequences for bar in found.lengths) == 11
    assert [row.index for row in of_rows(numbered(2)).rows] == [0, 1]
    assert [row.index for row in of_rows(numbered(11), index=9).rows] == [9]
    assert [text(row)[-5:] for row in of_rows(numbered(3), split="validation").rows] == ["v</s>"]


def test_the_longest_rows_come_longest_first(of_rows):
    found = of_rows(numbered(20), longest=True, number=2)
    lengths = [sum(sequence.tokens for sequence in row.sequences) for row in found.rows]
    assert lengths == sorted(lengths, reverse=True) and {row.index for row in found.rows} == {6, 13}


def test_cut_rows_say_how_many_tokens_are_cut(of_rows):
    rows = [*numbered(5), {"question": "long", "answer": "word " * 60}]
    found = of_rows(rows, cut=True, given={"max_length": 40})
    (row,) = found.rows
    whole = of_rows(rows, index=5).rows[0].sequences[0]
    assert row.index == 5 and row.sequences[0].tokens == 40 and row.sequences[0].cut_tokens == whole.tokens - 40 > 0
    assert row.sequences[0].pieces[-1].kind == "target", "what is cut has no end mark"
    assert of_rows(rows, cut=True).rows == []


# It writes the last answer in another way than earlier ones, so each answer is a sequence of its own.
REWRITES = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}<assistant>{{ '(last)' if loop.last else '' }}"
    "{{ m.content }}</s>{% else %}<user>{{ m.content }}{% endif %}{% endfor %}"
    "{{ '<assistant>' if add_generation_prompt else '' }}"
)


def test_a_row_has_all_its_sequences_and_counts_as_one_row(of_rows, tmp_path):
    (tmp_path / "rewrites.jinja").write_text(REWRITES)
    with_template = {"chat_template": str(tmp_path / "rewrites.jinja")}
    rows = [CHAT, *numbered(3), {"question": "long", "answer": "word " * 60}]
    found = of_rows(rows, given=with_template, index=0)
    (row,) = found.rows
    assert found.number == 5 and found.counts.rows == 6 and len(row.sequences) == row.target_answers == row.answers == 2
    assert ["".join(piece.text for piece in part.pieces if piece.kind == "target") for part in row.sequences] == [
        "(last)b é", "(last)d"
    ]  # fmt: skip
    assert any("sequence of its own" in line for line in found.template.said)
    assert [row.index for row in of_rows(rows, given=with_template, longest=True, number=1).rows] == [4]
    with pytest.raises(UserError, match="the train split has 5 rows"):
        of_rows(rows, given=with_template, index=5)


def test_an_answer_that_is_cut_off_is_no_target_and_a_sequence_without_any_is_left_out(of_rows, tmp_path):
    messages = [*CHAT["messages"][:2], {"role": "user", "content": "word " * 60}, CHAT["messages"][3]]
    found = of_rows([{"messages": messages}], given={"max_length": 30}, index=0)
    assert (found.rows[0].target_answers, found.rows[0].answers) == (1, 2)
    assert (found.counts.target_answers, found.counts.answers, found.counts.cut_rows) == (1, 2, 1)
    (tmp_path / "rewrites.jinja").write_text(REWRITES)
    given = {"chat_template": str(tmp_path / "rewrites.jinja"), "max_length": 30}
    found = of_rows([{"messages": messages}], given=given, index=0)
    assert [sequence.target_tokens > 0 for sequence in found.rows[0].sequences] == [True, False]
    assert (found.counts.rows, found.counts.dropped_sequences, found.counts.target_answers) == (1, 1, 1)


def test_a_sequence_of_which_no_target_is_left_is_shown_as_cut(of_rows):
    (row,) = of_rows([{"question": "word " * 60, "answer": "a"}, *numbered(1)], index=0, given={"max_length": 30}).rows
    (sequence,) = row.sequences
    assert sequence.tokens == 30 and sequence.target_tokens == 0 and sequence.cut_tokens > 30


def test_rows_that_cannot_be_used_are_named_and_the_others_shown(of_rows):
    bad = ['{"question": "x"}\n', "not json\n"]
    found = of_rows([*bad, *numbered(3)])
    assert [row.index for row in found.rows] == [2, 3, 4] and found.number == 5 and found.counts is None
    assert len(found.problems) == 2 and "train.jsonl:1" in found.problems[0] and "train.jsonl:2" in found.problems[1]
    with pytest.raises(DataError, match=r"train\.jsonl:2"):
        of_rows([*bad, *numbered(3)], index=1)
    with pytest.raises(DataError, match=r"train\.jsonl:1"):
        of_rows([*bad, *numbered(3)], longest=True)


def test_a_number_that_no_row_has_is_refused(of_rows):
    with pytest.raises(UserError, match="INDEX=3: the train split has 3 rows, numbered from 0 to 2"):
        of_rows(numbered(3), index=3)


def test_the_text_of_a_piece_keeps_the_space_that_its_first_token_begins_with():
    words = ["<unk>", "<s>", "</s>", "▁Good", "▁day", "day", "▁", "s"]
    model = tokenizers.models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>")
    backend = tokenizers.Tokenizer(model)
    backend.decoder = tokenizers.decoders.Metaspace()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    sequence = [1, 3, 4, 4, 5, 7, 2]
    pieces = Decoder(tokenizer, [2]).pieces(sequence, [False, False, False, True, True, True, True], with_tokens=True)
    assert "".join(piece.text for piece in pieces) == tokenizer.decode(sequence)
    assert [piece.text for piece in pieces if piece.kind == "target"] == [" daydays"]


@given(st.lists(st.integers(1, 100_000), max_size=50))
def test_every_sequence_is_in_one_bar_of_the_histogram(lengths):
    bars = histogram(np.array(lengths, dtype=np.int64))
    assert sum(bar.sequences for bar in bars) == len(lengths)
    for bar in bars:
        assert bar.sequences == sum(bar.least <= length <= bar.most for length in lengths)
    assert len(bars) <= 15
