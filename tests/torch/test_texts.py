"""Continued pretraining: every token of a text is a target once, EOS ends it, and no chat template has a part in it."""

import copy
import json

import pytest
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from sft.errors import DataError
from sft.run.records import RowCounts
from sft.run.shown_rows import RowChoice
from sft.settings.load import load
from sft.trainer.data import prepared_data, show_rows, sources
from sft.trainer.data.rows import EMPTY, TOO_LONG, Dropped, Rows
from sft.trainer.data.texts import TextTokeniser

TEXT = "Ana has 3 eggs.\n\nShe sells 2 of them, and keeps the others for a cake. " * 4


@pytest.fixture(scope="module")
def base(tiny, tmp_path_factory):
    """A base model: without a chat template, and with a BOS token that its tokenizer puts before every text."""
    folder = tmp_path_factory.mktemp("base") / "model"
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny)
    tokenizer.chat_template = None
    tokenizer.save_pretrained(folder)
    transformers.AutoConfig.from_pretrained(tiny).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def with_bos(base):
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    from tokenizers.processors import TemplateProcessing

    bos = tokenizer.bos_token
    processor = TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, tokenizer.bos_token_id)])
    tokenizer.backend_tokenizer.post_processor = processor
    assert tokenizer("a").input_ids[0] == tokenizer.bos_token_id
    return tokenizer


def made(tokenizer, row, **given):
    found = TextTokeniser(tokenizer, load(None, **given), [tokenizer.eos_token_id])
    return found.rows([("a.jsonl:7", row if isinstance(row, dict) else {"text": row})])[0]


def test_a_text_is_what_the_tokenizer_makes_of_it_and_eos(with_bos, base):
    (row,) = made(with_bos, TEXT)
    assert row.ids == [*with_bos(TEXT).input_ids, with_bos.eos_token_id] and row.ids[0] == with_bos.bos_token_id
    assert row.is_target == [False] + [True] * (len(row.ids) - 1) and row.answer_start == -1
    plain = transformers.AutoTokenizer.from_pretrained(base)
    plain.backend_tokenizer.post_processor = None
    (row,) = made(plain, TEXT)
    assert row.ids == [*plain(TEXT, add_special_tokens=False).input_ids, plain.eos_token_id]


def test_marks_that_a_text_has_already_are_not_doubled(with_bos):
    bos, eos = with_bos.bos_token, with_bos.eos_token
    (plain,), (marked,) = made(with_bos, TEXT), made(with_bos, f"{bos}{TEXT}{eos}")
    assert marked.ids == plain.ids and marked.counts.has_marks and not plain.counts.has_marks
    (split,) = made(with_bos, f"{TEXT}{eos}", special_tokens_in_text="split")
    assert split.ids.count(with_bos.eos_token_id) == 1 and split.ids[0] == with_bos.bos_token_id
    assert with_bos.decode(split.ids[1:-1]).endswith(eos)


@given(st.text(max_size=80), st.integers(8, 40))
@settings(max_examples=50, deadline=None)
def test_a_long_text_is_split_and_every_token_is_a_target_once(with_bos, text, limit):
    whole = made(with_bos, text)
    if isinstance(whole, Dropped):
        assert not text.strip() and whole == Dropped(EMPTY, 0)
        return
    parts = made(with_bos, text, max_length=limit)
    targets = [token for part in parts for token, is_target in zip(part.ids, part.is_target, strict=True) if is_target]
    assert targets == whole[0].ids[1:] and all(2 <= len(part.ids) <= limit for part in parts)
    joined = parts[0].ids + [token for part in parts[1:] for token in part.ids[1:]]
    assert joined == whole[0].ids and [bool(part.counts) for part in parts] == [False] * (len(parts) - 1) + [True]
    if len(parts) > 1:
        assert made(with_bos, text, max_length=limit, long_rows="drop") == Dropped(TOO_LONG, len(joined))
        assert f"a.jsonl:7: its {len(joined)} tokens are more" in str(
            made(with_bos, text, max_length=limit, long_rows="refuse")
        )


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": 7}, "a.jsonl:7: column 'text' is not text but int"),
        ({"question": "1?", "answer": "1"}, "a.jsonl:7: is a conversation, in a data set of texts"),
        ({"id": 3}, "a.jsonl:7: has no text but `id`, in a data set of texts"),
        ({"text": "a", "image": "a.png"}, "`image` is not text"),
        ({"text": "a", "summary": "b"}, "has `text` and `summary`, which could be the response to it"),
    ],
)
def test_a_row_that_is_no_text_is_named(with_bos, row, message):
    assert message in str(made(with_bos, row))


def test_a_rendered_chat_is_noticed(with_bos):
    (row,) = made(with_bos, "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n")
    assert row.counts.has_template


@pytest.fixture
def written(base, tmp_path):
    def write(train, validation=("held out",), **given):
        for name, texts in (("train", train), ("validation", validation)):
            (tmp_path / "rows").mkdir(exist_ok=True)
            lines = (json.dumps(text if isinstance(text, dict) else {"text": text, "id": 1}) + "\n" for text in texts)
            (tmp_path / f"rows/{name}.jsonl").write_text("".join(lines))
        return load(None, dataset=str(tmp_path / "rows"), data_path=tmp_path / "data", model_name=str(base), **given)

    return write


def test_texts_are_prepared_for_a_model_without_a_chat_template(written, base):
    settings = written(["one", TEXT, " ", "three"], max_length=32)
    folder, found = prepared_data.prepared_data(settings, base)
    assert found.train.kind == found.validation.kind == "texts" and found.template is None
    assert found.row_counts == RowCounts(read=5, trained=3, dropped=1, held_out=1)
    assert (
        found.train.dropped == {"empty": 1}
        and found.train.cut_rows == found.train.too_long == found.train.holds_most == 0
    )
    rows = Rows(folder / "train")
    assert rows.row_of[0] == 0 and rows.row_of[-1] == 3 and len(rows) == found.train.rows > 4
    assert set(rows.row_of[1:-1]) == {1} and not len(rows.asked())
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    tokens = [len(tokenizer(text).input_ids) + 1 for text in ("one", TEXT, "three")]
    assert found.train.target_tokens == sum(tokens) - 3
    assert found.train.used_columns == {'["text"]': 3} and found.train.unused_columns == {"id": 3}


def test_make_rows_shows_texts(written, base):
    settings = written(["one", TEXT, " ", "three"], max_length=32)
    tokeniser = prepared_data.tokeniser_of(settings, base, sources.kind(settings))
    first, long, empty = (show_rows.show(base, tokeniser, RowChoice("train", 1, index)).rows[0] for index in (0, 1, 2))
    assert first.answers == 0 and first.sequences[0].target_tokens > 0 and first.sequences[0].pieces[-1].kind == "end"
    assert len(long.sequences) > 1 and not any(sequence.cut_tokens for sequence in long.sequences)
    text = "".join(piece.text for sequence in long.sequences for piece in sequence.pieces if piece.kind == "target")
    assert TEXT.endswith(text) and len(text) >= len(TEXT) - 8  # nothing predicts its first token
    assert empty.dropped == "empty" and not empty.sequences


@pytest.mark.parametrize(
    ("train", "validation", "message"),
    [
        (["one", {"question": "1?", "answer": "1"}], ["x"], "train.jsonl:2: is a conversation, in a data set of texts"),
        ([{"question": "1?", "answer": "1"}, "one"], ["x"], "train.jsonl:2: is a text alone, in a data set of conver"),
        (["one"], [{"question": "1?", "answer": "1"}], "validation.jsonl:1: is a conversation, in a data set of texts"),
    ],
)
def test_texts_and_conversations_are_not_mixed(written, base, train, validation, message):
    with pytest.raises(DataError, match=message):
        prepared_data.prepared_data(written(train, validation), base)


def test_the_tokenizer_is_left_as_it_was(with_bos):
    before = copy.deepcopy(with_bos("a").input_ids)
    made(with_bos, "a</s>", special_tokens_in_text="split")
    assert with_bos("a").input_ids == before and with_bos("a</s>").input_ids[-1] == with_bos.eos_token_id


PIECES = [("<s><user>Two and two?<assistant>", False), ("Four</s>", True), ("<user>And one?<assistant>", False)]
PIECES += [("Five", True)]


def test_a_text_in_segments_is_trained_on_those_with_a_label(tokenizer):
    row = {"segments": [{"label": label, "text": text} for text, label in PIECES]}
    (found,) = made(tokenizer, row)
    assert tokenizer.decode(found.ids) == "".join(text for text, _ in PIECES) + "</s>"
    targets = [token for token, is_target in zip(found.ids, found.is_target, strict=True) if is_target]
    assert tokenizer.decode(targets) == "Four</s>Five</s>"  # EOS ends the last one, as it ends every text
    limit = len(found.ids) // 2 + 1
    parts = made(tokenizer, row, max_length=limit)
    assert [*parts[0].ids, *parts[1].ids[1:]] == found.ids and max(len(part.ids) for part in parts) == limit
    assert [*parts[0].is_target, *parts[1].is_target[1:]] == found.is_target


def test_segments_that_cannot_be_trained_are_named(tokenizer):
    for segments, message in (
        ([{"label": False, "text": "a"}], "no segment of column 'segments' has the label true, so no target token"),
        ([{"label": 1, "text": "a"}], "`label` of segment 1 of column 'segments' is not true or false"),
        ([{"label": True, "text": 3}], "the text of segment 1 of column 'segments' is not text but int"),
        ([{"label": True, "text": "a", "role": "b"}], "segment 1 of column 'segments' has the key 'role'"),
    ):
        assert message in str(made(tokenizer, {"segments": segments}))
