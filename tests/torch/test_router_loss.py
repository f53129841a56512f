"""The auxiliary loss of mixtures of experts, against the loss that transformers computes."""

import copy

import numpy as np
import pytest
import torch
import transformers

from sft.trainer.batching import collate
from sft.trainer.loss import TargetLoss, evaluating

from . import small_models
from .small_models import HEADS

SIZES = small_models.SIZES | HEADS | {"pad_token_id": 0, "output_router_logits": True, "num_experts_per_tok": 2}
SIZES |= {"router_aux_loss_coef": 0.3, "attn_implementation": "eager"}
FAMILIES = {
    "mixtral": transformers.MixtralConfig(**SIZES, num_local_experts=4),
    "qwen3-moe": transformers.Qwen3MoeConfig(**SIZES, head_dim=8, num_experts=4, moe_intermediate_size=16),
    "gpt-oss": transformers.GptOssConfig(
        **SIZES, head_dim=8, num_local_experts=4, layer_types=["sliding_attention", "full_attention"]
    ),
    "granite": transformers.GraniteMoeConfig(**SIZES, num_local_experts=4, logits_scaling=2.0),  # no chunked loss
    "jetmoe": transformers.JetMoeConfig(
        **{name: value for name, value in SIZES.items() if "heads" not in name},
        num_key_value_heads=2, kv_channels=8, num_local_experts=4, aux_loss_coef=0.3,
    ),
    "dbrx": transformers.DbrxConfig(  # its factor is in a part of its configuration
        d_model=32, n_heads=4, n_layers=2, max_seq_len=128, vocab_size=64, pad_token_id=0, output_router_logits=True,
        attn_config={"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 8.0}, attn_implementation="eager",
        ffn_config={"hidden_size": 32, "ffn_hidden_size": 32, "moe_num_experts": 4, "moe_top_k": 2}
        | {"moe_loss_weight": 0.3},
    ),
    "doge": transformers.DogeConfig(**SIZES, is_moe=True, num_experts=16),  # a function of its own
}  # fmt: skip


def rows():
    """Rows of different lengths, whose second half are targets."""
    draw = np.random.default_rng(0).integers
    return [(draw(3, 60, size).astype(np.int32), np.arange(size) >= size // 2) for size in (12, 20, 7)]


def gradients(loss, model):
    """Return the gradients of a loss, flattened."""
    model.zero_grad()
    loss.backward()
    return torch.cat([p.grad.flatten() if p.grad is not None else torch.zeros(p.numel()) for p in model.parameters()])


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_micro_batch_has_the_loss_that_transformers_computes(family, recompute):
    model = small_models.model_of(FAMILIES[family]).train()
    plain = copy.deepcopy(model)
    if recompute and model.supports_gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    batch = collate(rows(), False, torch.device("cpu"))
    labels = torch.full(batch.input_ids.shape, -100).flatten()
    labels[batch.predicting + 1] = batch.targets
    expected = plain(
        input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=labels.view(batch.input_ids.shape)
    )
    target_loss = TargetLoss(model)
    if family == "granite":
        target_loss.head_loss = None  # as fast_paths decides for it
    loss = target_loss(*batch) / len(batch.targets)
    assert expected.aux_loss > 0
    torch.testing.assert_close(loss, expected.loss, rtol=1e-5, atol=0)
    torch.testing.assert_close(gradients(loss, model), gradients(expected.loss, plain), rtol=1e-4, atol=1e-6)


def test_only_training_has_it_and_only_if_the_configuration_asks():
    asking = small_models.model_of(FAMILIES["qwen3-moe"]).train()
    silent = copy.deepcopy(asking)
    silent.config.output_router_logits = False
    batch = collate(rows(), False, torch.device("cpu"))
    with_it, without = TargetLoss(asking), TargetLoss(silent)
    assert with_it(*batch) > without(*batch) + 0.1
    with evaluating(with_it), evaluating(without):
        assert with_it(*batch) == without(*batch)
