"""Sentencepiece: a model with `tokenizer.model` alone is loaded, and no answer begins with a false space."""

import json
import re

import pytest
import sentencepiece
import transformers

from sft.settings.load import load
from sft.trainer.data import chat_template

from .chat_templates import CHATML, CHATML_MARKS, LINES, SYSTEM_LAST, chat, tokeniser, with_template


@pytest.fixture(scope="module")
def model_file(tmp_path_factory, tiny):
    """A tokenizer.model of a Llama's kind, learnt from the demo's rows."""
    folder = tmp_path_factory.mktemp("sentencepiece")
    rows = (tiny.parent / "data" / "train.jsonl").read_text().splitlines()[:100]
    (folder / "text").write_text(
        "\n".join([*rows, *["Good morning. How are you? I am well. Why? User: Assistant:"] * 20])
    )
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "text"), model_prefix=str(folder / "tokenizer"), vocab_size=420, model_type="bpe",
        byte_fallback=True, split_digits=True, pad_id=-1, unk_id=0, bos_id=1, eos_id=2, minloglevel=2,
        normalization_rule_name="identity", remove_extra_whitespaces=False,
    )  # fmt: skip
    return folder / "tokenizer.model"


@pytest.fixture(params=[None, {"legacy": True}, {"legacy": False}], ids=["alone", "legacy", "new"])
def folder(request, tmp_path, model_file):
    """A model's folder with a tokenizer.model; the configuration of its tokenizer may be missing."""
    (tmp_path / "tokenizer.model").write_bytes(model_file.read_bytes())
    config = {"model_type": "llama", "vocab_size": 420, "bos_token_id": 1, "eos_token_id": 2}
    (tmp_path / "config.json").write_text(json.dumps(config))
    if request.param:
        config = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", **request.param}
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    return tmp_path


def targets(found, row):
    """Return the tokens of a row's targets as they are in the vocabulary, where ▁ is a space and <0x3C> a byte."""
    ((sequence,),) = found.rows([("a.jsonl:7", row)])
    ids = [token for token, is_target in zip(sequence.ids, sequence.is_target, strict=True) if is_target]
    text = "".join(found.probe.tokenizer.convert_ids_to_tokens(ids))
    return re.sub("<0x(..)>", lambda byte: chr(int(byte[1], 16)), text)


def test_a_model_with_tokenizer_model_alone_is_loaded(folder):
    template = chat_template.load(folder, load(None))
    assert template.source == "this project's plain" and template.is_missing
    assert targets(tokeniser(template.tokenizer), chat("How?", "Good morning")) == "Good▁morning</s>"


@pytest.mark.parametrize("template", [CHATML, None])
def test_every_answer_begins_with_its_first_word(folder, template):
    found = tokeniser(with_template(transformers.AutoTokenizer.from_pretrained(folder), template, CHATML_MARKS))
    end = found.probe.ending.mark
    assert targets(found, chat("How?", "Good morning", "Why?", "Good")) == f"Good▁morning{end}Good{end}"


def test_a_space_that_the_template_writes_stays(folder):
    marks = ("[INST]", "[/INST]")
    found = tokeniser(with_template(transformers.AutoTokenizer.from_pretrained(folder), SYSTEM_LAST, marks))
    assert targets(found, chat("How?", "Good")) == "▁Good</s>"


def test_marks_that_stay_text_have_no_space_before_them(folder):
    tokenizer = with_template(transformers.AutoTokenizer.from_pretrained(folder), CHATML, CHATML_MARKS)
    found = tokeniser(tokenizer, special_tokens_in_text="split")
    row = chat("How </s>?", "Good<|im_end|> <s>morning", "Why?", "</s>Good")
    assert targets(found, row) == "Good<|im_end|>▁<s>morning<|im_end|></s>Good<|im_end|>"
    ((sequence,),) = found.rows([("a.jsonl:7", row)])
    ends = [token for token in sequence.ids if token == found.probe.tokenizer.convert_tokens_to_ids("<|im_end|>")]
    assert len(ends) == 4 and found.probe.tokenizer.eos_token_id not in sequence.ids


def test_generation_starts_from_the_trained_tokens_where_the_prompt_ends_with_a_space(folder):
    found = tokeniser(with_template(transformers.AutoTokenizer.from_pretrained(folder), LINES))
    ((sequence,),) = found.rows([("a.jsonl:7", chat("How?", "Good morning"))])
    assert sequence.prompt_ids is None  # the tokens before the answer
    assert targets(found, chat("How?", "Good morning")) == "Good▁morning</s>"
