"""The trial of a tiny copy: planted faults are found, what certainly cannot be trained is refused, nothing else is."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
import transformers

from sft.errors import SettingsError
from sft.run import typed_json
from sft.run.records import Tried
from sft.settings.load import load
from sft.settings.stages import resolve, without_plan
from sft.trainer import attention
from sft.trainer import loss as losses
from sft.trainer.model import liger, tiny_copy
from sft.trainer.trial import apart, cache, trial
from sft.trainer.trial.copies import Copies
from sft.trainer.trial.ways import Ways

from .small_models import HEADS, SIZES

LLAMA = transformers.LlamaConfig(**SIZES, **HEADS)
LARGE = {"vocab_size": 128256, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16}


def settings(**given):
    written = load(
        None, **{"model_name": "some/model", "nodes": 1, "gpus_per_node": 1, "gradient_checkpointing": True} | given
    )
    return without_plan(resolve(written, "cpu", "local"))


def tried(config, **given):
    decided = settings(**given)
    return trial.try_model(config, decided, trial.world_of(decided))


def test_a_model_without_faults_goes_every_fast_way():
    found = tried(LLAMA)
    assert (found.packing, found.chunked_loss, found.recomputes, found.attention) == (True, True, True, None)
    assert (found.copy, found.left_out, found.not_tried) == ("its own sizes", [], "")


def test_a_config_that_asks_for_scores_of_attention_is_tried_without_them():
    found = tried(transformers.LlamaConfig(**SIZES, **HEADS, output_attentions=True, attn_implementation="eager"))
    assert (found.copy, found.left_out, found.not_tried) == ("its own sizes", [], "")


MIXTURE = {"num_local_experts": 4, "num_experts_per_tok": 2, "output_router_logits": True}


def test_a_router_loss_which_depends_on_who_shares_a_micro_batch_leaves_nothing_out():
    found = tried(transformers.MixtralConfig(**SIZES, **HEADS, **MIXTURE, router_aux_loss_coef=0.1), batch_size=4)
    assert (found.packing, found.chunked_loss, found.left_out, found.not_tried) == (True, True, [], "")


def test_terms_of_a_familys_own_loss_that_are_not_trained_are_said(monkeypatch):
    own = transformers.LlamaForCausalLM.forward

    def with_z_loss(self, *given, labels=None, **options):
        outputs = own(self, *given, labels=labels, **options)
        if labels is not None:
            outputs.loss = outputs.loss + 1e-2 * outputs.logits.logsumexp(-1).pow(2).mean()
        return outputs

    monkeypatch.setattr(transformers.LlamaForCausalLM, "forward", with_z_loss)
    (line,) = tried(LLAMA).left_out
    assert line.startswith("LlamaForCausalLM adds terms to its own loss (") and "docs/steps.md" in line


def test_the_loss_of_a_family_that_takes_shifted_labels_is_no_other_one():
    config = transformers.BartConfig(
        vocab_size=64, d_model=32, decoder_layers=2, decoder_attention_heads=4, decoder_ffn_dim=64, encoder_layers=1,
        encoder_attention_heads=4, encoder_ffn_dim=64, max_position_embeddings=256, architectures=["BartForCausalLM"],
        is_decoder=True, is_encoder_decoder=False,
    )  # fmt: skip
    assert not [line for line in tried(config, max_length=128).left_out if "own loss" in line]


def of_cuda(number):
    error = torch.AcceleratorError("CUDA error: a kernel did something")
    error.error_code = number  # as torch sets it
    return error


def test_after_an_error_that_ends_the_use_of_the_gpu_nothing_is_said_of_the_model(monkeypatch):
    def with_error(number):
        def recompute(*_, **__):
            raise of_cuda(number)

        monkeypatch.setattr(transformers.LlamaForCausalLM, "gradient_checkpointing_enable", recompute)
        return apart.tried(lambda: tried(LLAMA))

    usable = with_error(98)  # an invalid function: the next kernel runs
    assert (usable.not_tried, usable.recomputes, usable.packing) == ("", False, True)
    said = "its trial ended with AcceleratorError: CUDA error: a kernel did something: training without Liger's kernels"
    for number in (700, 710, 719):  # an illegal address, an assertion, a launch that failed
        ended = with_error(number)
        assert (ended.not_tried, ended.without_kernels, ended.left_out) == (said, list(liger.KERNELS), [said])


def test_a_copy_keeps_what_kernels_depend_on():
    given = {"num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "sliding_window": 4096}
    large = transformers.Gemma2Config(**LARGE | given, attn_logit_softcapping=50.0, query_pre_attn_scalar=128)
    small = tiny_copy.divided(large, longest=8192)
    assert (small.head_dim, small.attn_logit_softcapping, small.num_attention_heads) == (128, 50.0, 2)
    assert set(small.layer_types) == set(large.layer_types)
    assert small.sliding_window == 16  # shows in short rows
    assert tiny_copy.divided(large, longest=512).sliding_window == 4096  # which no row reaches
    assert small.vocab_size * small.hidden_size < 1e5
    few_heads = transformers.Gemma3TextConfig(
        hidden_size=1152, intermediate_size=6912, num_attention_heads=4, head_dim=256
    )
    assert (tiny_copy.divided(few_heads).hidden_size, tiny_copy.divided(few_heads).head_dim) == (128, 256)


def test_a_copy_has_no_weights_that_would_not_be_missed():
    decided = settings()
    config = transformers.Qwen2Config(**SIZES, **HEADS)
    model = Copies(config, "", True, decided, trial.world_of(decided), torch.float32).model()
    assert not [name for name, weight in model.named_parameters() if float(weight.detach().std()) < 1e-3]


def test_a_planted_contamination_is_left_out(monkeypatch):
    def leaking(query, key, value, packed, options):  # right forward; backward, each key is seen by all rows
        apart = attention.one_by_one(query, key, value, packed, options)
        whole = attention.Packed(packed.starts[[0, -1]], [sum(packed.lengths)])
        together = attention.one_by_one(query, key, value, whole, options)
        return apart + together - together.detach()

    monkeypatch.setattr(attention, "fastest", lambda *_: leaking)
    found = tried(LLAMA)
    assert not found.packing
    (line,) = found.left_out
    assert line.startswith("LlamaForCausalLM is wrong with packed rows (the gradient of ")
    assert line.endswith("): training on padded ones")


def test_a_planted_lost_gradient_is_left_out(monkeypatch):
    backward = losses.LinearCrossEntropy.backward

    def without_weight(ctx, *grads):
        hidden, _, *others = backward(ctx, *grads)
        return (hidden, None, *others)

    monkeypatch.setattr(losses.LinearCrossEntropy, "backward", staticmethod(without_weight))
    found = tried(LLAMA)
    assert not found.chunked_loss and found.packing
    assert "LlamaForCausalLM gives another result with the loss in chunks (the gradient of lm_head.weight" in str(
        found.left_out
    )


def test_recomputed_activations_that_are_others_are_left_out(monkeypatch):
    enable = transformers.PreTrainedModel.gradient_checkpointing_enable

    def broken(model, **options):
        enable(model, **options)
        model.model.layers[0].self_attn.q_proj.weight.register_hook(lambda gradient: gradient * 0)

    monkeypatch.setattr(transformers.PreTrainedModel, "gradient_checkpointing_enable", broken)
    found = tried(LLAMA)
    assert not found.recomputes and "when it recomputes activations" in found.left_out[0]
    monkeypatch.undo()
    assert tried(LLAMA, gradient_checkpointing=False).recomputes  # not asked


@pytest.mark.parametrize(
    ("kernel", "said"), [("missing", None), ("wrong", "the gradient of "), ("raises", "RuntimeError: no such head")]
)
def test_kernels_are_tried_one_by_one(kernel, said, monkeypatch):
    """A missing kernel is no fault; a wrong or failing one is left out alone."""

    def apply(model, name):
        if kernel == "missing":
            return False
        if name == "rms_norm":
            norm = model.model.norm
            if kernel == "wrong":
                norm.weight.register_hook(lambda gradient: gradient * 1.5)
            else:
                norm.forward = lambda *_: (_ for _ in ()).throw(RuntimeError("no such head"))
        return True

    monkeypatch.setattr(liger, "apply", apply)
    decided = settings()
    ways = Ways(Copies(LLAMA, "", True, decided, trial.world_of(decided), torch.float32))
    assert ways.kernel("swiglu") == (None if kernel == "missing" else "")
    assert ways.kernel("rms_norm") is None if said is None else said in ways.kernel("rms_norm")


def test_an_encoder_is_refused():
    config = transformers.BertConfig(**SIZES, num_attention_heads=4, is_decoder=False)
    with pytest.raises(SettingsError, match="BertLMHeadModel sees the tokens that it has to predict"):
        tried(config)


def test_a_model_that_needs_more_than_text_is_refused_in_its_own_words():
    config = transformers.XmodConfig(**SIZES, num_attention_heads=4, is_decoder=True, languages=("en_XX", "de_DE"))
    with pytest.raises(SettingsError, match="XmodForCausalLM does not run on text alone .ValueError: Input language"):
        tried(config)


def test_a_failure_that_is_only_the_copys_refuses_nothing(monkeypatch):
    def broken(*_):
        raise RuntimeError("sizes do not fit each other")

    for name in ("as_it_is", "divided", "shrunk"):
        monkeypatch.setattr(tiny_copy, name, broken)
    found = tried(LLAMA)
    assert (found.copy, found.packing) == ("", True) and "sizes do not fit each other" in found.not_tried


def test_weights_that_would_be_frozen_though_text_passes_them_refuse_a_model(monkeypatch):
    monkeypatch.setattr(trial.towers, "unused", lambda model: ["model.layers.0.mlp.up_proj.weight"])
    with pytest.raises(SettingsError, match="has 1 weights outside of its language model that text passes too"):
        tried(LLAMA)


def test_a_model_that_cannot_be_made_is_refused(monkeypatch):
    def broken(self, config):
        raise KeyError("full_attention")

    monkeypatch.setattr(transformers.models.llama.modeling_llama.LlamaRotaryEmbedding, "__init__", broken)
    with pytest.raises(SettingsError, match="cannot make it from its config.json .KeyError: 'full_attention'."):
        tried(LLAMA)


def test_a_model_that_only_runs_in_fp32_is_told_so(monkeypatch):
    def only_fp32(self, states):
        return states @ torch.eye(states.shape[-1])

    monkeypatch.setattr(transformers.models.llama.modeling_llama.LlamaRMSNorm, "forward", only_fp32)
    with pytest.raises(
        SettingsError, match="PRECISION=bf16: LlamaForCausalLM does not run in bf16 .*set PRECISION=fp32"
    ):
        tried(LLAMA, precision="bf16")
    tried(LLAMA)


def test_the_second_start_reads_what_the_first_has_found(tmp_path, monkeypatch):
    folder = tmp_path / "model"
    LLAMA.save_pretrained(folder)
    decided = settings(model_name=str(folder), model_path=tmp_path / "models", max_length=128)
    first = cache.tried(decided, folder)
    monkeypatch.setattr(cache, "run", None)
    assert cache.tried(decided, folder) == first
    (kept,) = (tmp_path / "models" / "trials").iterdir()
    assert typed_json.read(kept, Tried) == first
    typed_json.write(kept, Tried(positions=64))
    with pytest.raises(SettingsError, match="MAX_LENGTH=128: .* reads 64 tokens at most"):
        cache.tried(decided, folder)  # also from the cache


def test_a_kept_trial_imports_nothing_that_takes_seconds():
    code = (
        "import sys, sft.trainer.prepare, sft.trainer.trial.cache;"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_padding_has_the_gradient_of_no_token():
    from sft.trainer.batching import collate

    rows = [(np.array([5, 6, 7]), np.ones(3, bool)), (np.array([8]), np.ones(1, bool))]
    batch = collate(rows, False, torch.device("cpu"))
    assert batch.input_ids.tolist() == [[5, 6, 7], [8, 8, 8]] and batch.attention_mask.tolist() == [
        [1, 1, 1],
        [1, 0, 0],
    ]


def test_the_record_is_read_as_it_was_written():
    found = Tried(copy="c", left_out=["x"], without_kernels=["rope"], positions=5, seconds=1.5)
    assert Tried.from_json(json.loads(json.dumps(found.to_json()))) == found
