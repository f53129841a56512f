"""What a model's configuration leaves to chance while it is trained."""

import pytest
import torch
import transformers
from transformers import BartConfig, GPT2Config, LlamaConfig, OPTConfig

from sft.trainer.loss import TargetLoss, evaluating
from sft.trainer.model import chance

from .small_models import model_of


def test_the_dropout_of_a_decoder_is_found_and_not_that_of_other_heads():
    assert chance.dropout(GPT2Config()) == {"attn_pdrop": 0.1, "embd_pdrop": 0.1, "resid_pdrop": 0.1}
    assert chance.dropout(OPTConfig(dropout=0.25, layerdrop=0.5)) == {"dropout": 0.25}
    assert chance.dropout(LlamaConfig()) == {}


def test_every_layer_is_kept_and_none_is_left_out_at_random():
    config = OPTConfig(
        vocab_size=32, hidden_size=16, word_embed_proj_dim=16, ffn_dim=16, num_hidden_layers=8, num_attention_heads=2,
        max_position_embeddings=32, layerdrop=0.9,
    )  # fmt: skip
    assert chance.dropped_layers(config) == 0.9
    assert chance.dropped_layers(BartConfig(decoder_layerdrop=0.25)) == 0.25
    assert chance.dropped_layers(LlamaConfig()) == 0
    model = transformers.OPTForCausalLM(config).train()
    ids = torch.full((1, 8), 5)
    chance.keep_every_layer(model)
    model(input_ids=ids, labels=ids).loss.backward()
    assert all(layer.fc1.weight.grad is not None for layer in model.model.decoder.layers)


@pytest.mark.parametrize("training", [False, True])
def test_a_loss_leaves_a_models_dropout_as_it_is(training):
    """After its loss a model answers prompts: with dropout switched on in between, its answers were drawn by chance."""
    model = model_of(GPT2Config(vocab_size=64, n_embd=32, n_layer=1, n_head=2)).train(training)
    with evaluating(TargetLoss(model)):
        assert not any(module.training for module in model.modules())
    assert {module.training for module in model.modules()} == {training}
