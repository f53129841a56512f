"""Characters that a tokenizer loses are counted and named, and nothing is said of one that keeps all."""

import pytest
import tokenizers
import transformers
from tokenizers import models, normalizers, pre_tokenizers, trainers

from sft.settings.load import load
from sft.trainer.data.texts import TextTokeniser

from .chat_templates import CHATML, CHATML_MARKS, chat, tokeniser, with_template

WORDS = ["the quick brown fox jumps over the lazy dog", "What is 2 + 2?", "A pear is a fruit."]
ROW = chat("What is in a café?", "A 🍐.\nA pear.")
EVERY_KIND = "größer 日本 🙂 x² ½ … “a” \u0301 \u200d \xa0 Å\n\t"


def learnt(model, trainer, normalizer=None, before=None):
    """Return a tokenizer that is learnt from WORDS."""
    found = tokenizers.Tokenizer(model)
    if normalizer:
        found.normalizer = normalizer
    found.pre_tokenizer = before or pre_tokenizers.Metaspace()
    found.decoder = tokenizers.decoders.Metaspace()
    found.train_from_iterator(WORDS, trainer(special_tokens=["<s>", "</s>", "<unk>"]))
    return transformers.PreTrainedTokenizerFast(tokenizer_object=found, bos_token="<s>", eos_token="</s>")


def lost(tokenizer, row=ROW):
    """Return what is lost of a conversation."""
    found = tokeniser(with_template(tokenizer, CHATML, CHATML_MARKS))
    ((sequence,),) = found.rows([("a.jsonl:7", row)])
    return sequence.counts.lost


def test_a_byte_level_tokenizer_keeps_all(tokenizer):
    assert lost(tokenizer, chat(EVERY_KIND, EVERY_KIND)) == ()


def test_what_becomes_the_unknown_token_is_named():
    tokenizer = learnt(models.BPE(unk_token="<unk>"), trainers.BpeTrainer)
    tokenizer.unk_token = "<unk>"
    assert lost(tokenizer) == ("\n", "é", "🍐")
    assert lost(tokenizer, chat("What is a pear?", "A fruit.")) == ("<unk>",)  # the line breaks of the template


def test_what_is_left_out_without_a_token_is_named():
    assert lost(learnt(models.BPE(), trainers.BpeTrainer)) == ("\n", "é", "🍐")


@pytest.mark.parametrize(
    ("normalizer", "expected"),
    [
        (normalizers.Lowercase(), ("A", "W")),
        (normalizers.Replace(tokenizers.Regex(r"\s"), " "), ("\n",)),
        (normalizers.NFKC(), ()),
    ],
)
def test_what_becomes_another_character_is_named(normalizer, expected):
    model = models.BPE(byte_fallback=True)
    tokenizer = learnt(model, trainers.BpeTrainer, normalizer)
    tokenizer.add_tokens(["é", "🍐"] + ["\n"] * (expected != ("\n",)))
    assert lost(tokenizer) == expected


def test_of_whole_words_the_unknown_token_is_named():
    tokenizer = learnt(
        models.WordLevel(unk_token="<unk>"), trainers.WordLevelTrainer, before=pre_tokenizers.Whitespace()
    )
    tokenizer.unk_token = "<unk>"
    tokenizer.add_tokens(["user", "assistant"])
    assert lost(tokenizer, chat("the fox", "a pear")) == ()
    assert lost(tokenizer, chat("the fox", "a plum")) == ("<unk>",)


def test_texts_are_looked_through_too(tokenizer):
    found = learnt(models.BPE(unk_token="<unk>"), trainers.BpeTrainer)
    found.unk_token = "<unk>"
    for one, expected in ((found, ("é",)), (tokenizer, ())):
        ((row,),) = TextTokeniser(one, load(None), [one.eos_token_id]).rows([("a.jsonl:7", {"text": "A café is"})])
        assert row.counts.lost == expected


def test_an_unknown_token_that_is_eos_says_nothing(tokenizer):
    found = with_template(tokenizer, CHATML, CHATML_MARKS)
    found.unk_token = found.eos_token
    assert lost(found) == ()
