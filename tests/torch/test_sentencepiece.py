"""Sentencepiece: a model with `tokenizer.model` alone is loaded, and no answer begins with a false space."""

import json

import pytest
import sentencepiece
import transformers

from sft.settings.load import load
from sft.trainer.data import chat_template

from .chat_templates import CHATML, CHATML_MARKS, SYSTEM_LAST, chat, tokeniser, with_template


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
    """Return the tokens of a row's targets as they are in the vocabulary, where ▁ is a space."""
    ((sequence,),) = found.rows([("a.jsonl:7", row)])
    ids = [token for token, is_target in zip(sequence.ids, sequence.is_target, strict=True) if is_target]
    return "".join(found.probe.tokenizer.convert_ids_to_tokens(ids))


def test_a_model_with_tokenizer_model_alone_is_loaded(folder):
    template = chat_template.load(folder, load(None))
    assert template.source == "this project's plain, as the model has none"
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
