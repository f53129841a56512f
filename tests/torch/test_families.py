"""A dozen families of different kinds, through the zoo's trial; and planted faults, each found by what is tried."""

import math
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from unittest import mock

import numpy as np
import pytest
import torch
import torch.distributed as dist
import transformers
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama import modeling_llama

from sft.errors import SettingsError
from sft.settings.load import load
from sft.trainer import attention, engine, packed, unpacked_layers
from sft.trainer.distributed import World
from sft.trainer.evaluation import generate, ways
from sft.trainer.fast_paths import take_fast_paths
from sft.trainer.loss import TargetLoss
from sft.trainer.model import liger, published
from sft.trainer.packed import Packed
from sft.trainer.trial import trial
from tests.settings import decided
from tests.zoo import runner, tiny

from .small_models import HEADS, SIZES, model_of

ALONE = World(0, 0, 1, torch.device("cpu"))
LLAMA = transformers.LlamaConfig(**SIZES, **HEADS)
MIXTURE = transformers.MixtralConfig(**SIZES, **HEADS, num_local_experts=4)
# Learnt positions, windows, a cap, sinks, ALiBi, a state space, a hybrid, experts, latent attention, frozen weights, a
# cache for one prompt alone; multimodal ones, with positions of three axes, and with layers that text does not pass.
FAMILIES = (
    "gpt2", "mistral", "gemma2", "gpt_oss", "bloom", "mamba", "jamba", "qwen3_moe", "deepseek_v3", "llama4_text",
    "afmoe", "qwen3_5_text", "rwkv", "gemma3", "qwen3_vl", "mllama",
)  # fmt: skip


@pytest.fixture(scope="module")
def found():
    """The zoo's results, from a process of its own: its children are forked, which this one must not be."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        results = pool.submit(runner.all_results, list(FAMILIES), ["packed"]).result()
    return {result.family: result for result in results}


@pytest.fixture
def group():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_is_trained_as_a_plain_loop_trains_it(found, family):
    way = found[family].ways["packed"]
    assert (way.verdict, way.reason) == ("right", "")
    assert way.packed


def test_a_leak_between_packed_sequences_is_found(group, monkeypatch, capsys):
    def leaking(query, key, value, packed, options):  # as if all were one sequence
        whole = Packed(packed.starts[[0, -1]], [sum(packed.lengths)])
        return attention.one_by_one(query, key, value, whole, options)

    module = TargetLoss(model_of(LLAMA)).eval()
    assert take_fast_paths(module, True, ALONE) is True and not unpacked_layers.of(module.model)
    monkeypatch.setattr(attention, "fastest", lambda *_: leaking)
    assert take_fast_paths(module, True, ALONE) is True  # without this kernel: its attention gets padded batches
    assert len(unpacked_layers.of(module.model)) == SIZES["num_hidden_layers"]
    assert "LlamaForCausalLM mixes packed rows in 2 layers (LlamaAttention)" in capsys.readouterr().out


def test_a_leak_that_only_shows_in_long_rows_is_found(group, monkeypatch):
    def windowless(query, key, value, packed, options):
        return attention.one_by_one(query, key, value, packed, options._replace(window=0))

    module = TargetLoss(model_of(transformers.MistralConfig(**SIZES, **HEADS, sliding_window=32))).eval()
    monkeypatch.setattr(attention, "fastest", lambda *_: windowless)
    assert take_fast_paths(module, True, ALONE) is True  # no row is longer than the window
    assert not unpacked_layers.of(module.model)
    assert take_fast_paths(module, True, ALONE, longest=64) is True
    assert len(unpacked_layers.of(module.model)) == SIZES["num_hidden_layers"]


def test_a_kernel_that_a_family_lacks_is_left_out_alone(monkeypatch, capsys):
    def apply(model, kernels):
        if kernels["rope"]:
            raise NotImplementedError("liger_rotary_pos_emb is not available for this model")

    monkeypatch.setattr("transformers.integrations.liger.apply_liger_kernel", apply)
    monkeypatch.setattr(liger, "offered", lambda model: set(liger.KERNELS))
    assert engine.take_liger_kernels(model_of(LLAMA), ALONE) == ["swiglu", "rms_norm"]
    assert "LlamaForCausalLM has no rope kernel in Liger" in capsys.readouterr().out


def test_a_family_that_liger_does_not_know_has_none_of_its_kernels(monkeypatch, capsys):
    monkeypatch.setattr("transformers.integrations.liger.apply_liger_kernel", lambda model, kernels: None)
    monkeypatch.setattr(liger, "offered", lambda model: {"geglu", "rope"})
    assert engine.take_liger_kernels(model_of(LLAMA), ALONE) == ["rope", "swiglu"]
    monkeypatch.setattr(liger, "offered", lambda model: set())
    assert engine.take_liger_kernels(model_of(LLAMA), ALONE) == []
    assert "LlamaForCausalLM has no rope, swiglu, rms_norm kernel in Liger" in capsys.readouterr().out


def test_what_liger_replaces_for_all_models_is_put_back(monkeypatch):
    def apply(model, kernels):
        modeling_llama.LlamaRMSNorm = torch.nn.Identity

    own = modeling_llama.LlamaRMSNorm
    monkeypatch.setattr("transformers.integrations.liger.apply_liger_kernel", apply)
    monkeypatch.setattr(liger, "offered", lambda model: {"rms_norm"})
    assert liger.apply(model_of(LLAMA), "rms_norm")
    with liger.undone():
        assert isinstance(model_of(LLAMA).model.norm, own)
    assert isinstance(model_of(LLAMA).model.norm, torch.nn.Identity)
    liger.undo()
    assert modeling_llama.LlamaRMSNorm is own


def test_experts_keep_their_grouped_products(monkeypatch):
    monkeypatch.setattr("transformers.integrations.liger.apply_liger_kernel", lambda model, kernels: None)
    monkeypatch.setattr(liger, "offered", lambda model: set(liger.KERNELS))
    assert engine.take_liger_kernels(model_of(MIXTURE), ALONE) == ["rope", "rms_norm"]


def test_experts_whose_grouped_products_fail_are_computed_in_turn(group, monkeypatch, capsys):
    def misfit(*_, **__):
        raise RuntimeError("expected data_ptr to be aligned to 16 bytes")

    module = TargetLoss(model_of(MIXTURE))
    monkeypatch.setitem(ALL_EXPERTS_FUNCTIONS._global_mapping, "grouped_mm", misfit)
    assert take_fast_paths(module, True, ALONE)
    assert "cannot compute its experts in grouped products here (RuntimeError: expected" in capsys.readouterr().out


LOST = "[gloo/transport/tcp/pair.cc:537] Read error [192.168.48.3]:15541: Connection reset by peer"


def test_the_end_of_another_rank_is_no_fault_of_the_model(group):
    module = TargetLoss(model_of(LLAMA))
    for error, raised in ((RuntimeError(LOST), RuntimeError), (RuntimeError("shapes differ"), SettingsError)):
        module.model.forward = mock.Mock(side_effect=error)
        with pytest.raises(raised):
            take_fast_paths(module, True, ALONE)


@pytest.mark.parametrize("part", ["the whole model", "a layer"])
def test_the_end_of_another_rank_does_not_mean_that_the_model_cannot_pack(group, capsys, part):
    module = TargetLoss(model_of(LLAMA))
    tried = module.model.model if part == "the whole model" else module.model.model.layers[0].mlp
    own = tried.forward

    def forward(*inputs, **named):
        if error is not None and packed.noted() is not None:
            raise error
        return own(*inputs, **named)

    tried.forward = forward
    for error in (RuntimeError(LOST), RuntimeError("CUBLAS_STATUS_ALLOC_FAILED"), MemoryError()):
        with pytest.raises(type(error)):
            take_fast_paths(module, True, ALONE)
    assert "cannot keep packed sequences apart" not in capsys.readouterr().out
    error = ValueError("no varlen for this size")
    assert take_fast_paths(module, True, ALONE) is (part == "a layer")  # which is then computed on padded rows


def test_a_model_that_sees_what_it_has_to_predict_is_refused(group):
    sizes = SIZES | {"num_attention_heads": 4, "is_decoder": False}
    module = TargetLoss(model_of(transformers.BertConfig(**sizes)))
    with pytest.raises(SettingsError, match="BertLMHeadModel sees the tokens that it has to predict"):
        take_fast_paths(module, True, ALONE)


def test_a_model_with_weights_that_are_not_numbers_is_refused(group):
    module = TargetLoss(model_of(LLAMA))
    module.model.model.layers[1].mlp.up_proj.weight.data[3, 5] = float("nan")
    with pytest.raises(SettingsError, match="LlamaForCausalLM has weights that are NaN or infinite in float32; fetch"):
        take_fast_paths(module, True, ALONE)


class Quiet:
    """A reporter that keeps what is printed."""

    def __init__(self):
        self.said = []

    def print(self, text):
        self.said.append(text)


class Never(transformers.StoppingCriteria):
    """Ends no answer."""

    def __call__(self, input_ids, scores, **_):
        return torch.zeros(len(input_ids), dtype=torch.bool)


def test_prompts_are_not_padded_for_a_family_that_cannot_be_padded(group):
    model = model_of(transformers.BartConfig(
        vocab_size=128, d_model=32, decoder_layers=2, decoder_attention_heads=4, decoder_ffn_dim=64, is_decoder=True,
        is_encoder_decoder=False, pad_token_id=0, bos_token_id=1, eos_token_id=2, forced_eos_token_id=None,
        max_position_embeddings=128,
    ))  # fmt: skip
    reporter = Quiet()
    way = ways.find(model, 0, 20, reporter, ALONE)
    assert not way.pads and "cannot pad prompts" in reporter.said[0]
    assert (
        ways.find(model_of(transformers.LlamaConfig(**SIZES | {"vocab_size": 128}, **HEADS)), 0, 20, reporter, ALONE)
        == ways.WAYS[0]
    )


def test_batches_of_one_length_have_every_row_once():
    lengths = np.array([5, 5, 3, 3, 3, 2])
    prompts = {index: [0] * int(length) for index, length in enumerate(lengths)}
    assert list(generate.batches_of([0, 1, 2, 3, 4, 5], prompts, 2, 0)) == [[0, 1], [2, 3], [4], [5]]
    assert list(generate.batches_of([0, 1, 2, 3, 4, 5], prompts, 4, math.inf)) == [[0, 1, 2], [3, 4, 5]]
    assert list(generate.batches_of([0, 1, 2, 3, 4, 5], prompts, 4, 3)) == [[0, 1], [2, 3, 4, 5]]


def test_a_cache_that_is_wrong_for_several_prompts_is_found(group):
    torch.manual_seed(0)
    model, reporter = transformers.RwkvForCausalLM(tiny.config_of("rwkv")).eval(), Quiet()
    model.get_input_embeddings().weight.data.mul_(5)  # so that what a token follows matters
    assert ways.find(model, 0, 20, reporter, ALONE) == ways.Way(False, False)
    assert "has no cache that works here" in reporter.said[0]


NUMBERED = (
    "roberta", "xlm-roberta", "camembert", "data2vec-text", "roberta-prelayernorm", "xmod", "gpt2", "opt", "bart",
    "whisper", "biogpt", "ctrl",
)  # fmt: skip


@pytest.mark.parametrize("family", NUMBERED)
def test_the_positions_of_a_model_are_those_that_it_can_read(family):
    config = tiny.config_of(family)
    if family == "xmod":
        config.default_language = "en_XX"
    most = published.positions(config)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        model(torch.full((1, most), 5), use_cache=False)
        with pytest.raises((IndexError, RuntimeError)):
            model(torch.full((1, most + 1), 5), use_cache=False)


@pytest.mark.parametrize("prompt", [60, 63, 64])
def test_an_answer_ends_where_the_positions_do(group, prompt):
    model = model_of(transformers.GPT2Config(vocab_size=128, n_embd=32, n_layer=1, n_head=2, n_positions=64))
    model.config.use_cache = False
    for way in (*ways.WAYS, ways.PLAIN):
        found = generate.answer_batch(model, [[5] * prompt], [-1], 0, load(None, max_new_tokens=8), Never(), ALONE, way)
        assert len(found[0]) == min(8, 64 - prompt)


def test_a_family_whose_fast_attention_sees_the_future_is_not_refused(group, monkeypatch, tmp_path):
    def leaking(module, query, key, value, attention_mask, **_):
        groups = query.shape[1] // key.shape[1]
        key, value = (part.repeat_interleave(groups, dim=1) for part in (key, value))
        return torch.nn.functional.scaled_dot_product_attention(query, key, value).transpose(1, 2), None

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._global_mapping, "sdpa", leaking)
    settings = decided(model_name="tiny", nodes=1, gpus_per_node=1, runs_path=tmp_path)
    assert trial.try_model(LLAMA, settings, ALONE).not_tried == ""
