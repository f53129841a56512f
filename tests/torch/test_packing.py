"""Packed sequences never see each other, and the chunked loss is the loss: asked of real model families."""

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
import transformers
from torch.utils._python_dispatch import TorchDispatchMode

from sft.trainer import attention, flex, unpacked_layers, ways_to_pack
from sft.trainer import loss as losses
from sft.trainer.attention import IMPLEMENTATION
from sft.trainer.attention_options import Options
from sft.trainer.batching import collate
from sft.trainer.distributed import World
from sft.trainer.fast_paths import take_fast_paths
from sft.trainer.loss import TargetLoss
from sft.trainer.model import scans
from sft.trainer.packed import Packed, groups_of
from sft.trainer.ways_to_pack import end_packing

from .small_models import HEADS, SIZES, model_of

CPU = torch.device("cpu")
ALONE = World(0, 0, 1, CPU)
FAMILIES = {
    "llama": transformers.LlamaConfig(**SIZES, **HEADS),
    "qwen2": transformers.Qwen2Config(**SIZES, **HEADS),
    "qwen3": transformers.Qwen3Config(**SIZES, **HEADS, head_dim=8),
    "mistral": transformers.MistralConfig(**SIZES, **HEADS, sliding_window=4),
    "phi3": transformers.Phi3Config(**SIZES, **HEADS, pad_token_id=0),
    "gpt2": transformers.GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4),
    "gemma2": transformers.Gemma2Config(
        **SIZES, **HEADS, head_dim=8, attn_logit_softcapping=0.5, sliding_window=4, query_pre_attn_scalar=8
    ),
}
# Families that pack only because some of their layers are computed on padded batches, and which layers these are.
UNPACKED = {
    "ALiBi": (transformers.BloomConfig(vocab_size=64, hidden_size=32, n_layer=2, n_head=4), "BloomAttention"),
    "a mask that it learns": (transformers.DogeConfig(**SIZES, **HEADS), "DogeAttention"),
    "angles of positions that it counts itself": (transformers.RoFormerConfig(
        **SIZES, num_attention_heads=4, is_decoder=True, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    ), "RoFormerSelfAttention RoFormerSinusoidalPositionalEmbedding"),
    "a bias that a layer returns": (transformers.GPTNeoXJapaneseConfig(
        vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, attention_dropout=0.0,
        hidden_dropout=0.0,
    ), "GPTNeoXJapaneseAttention"),
    "positions that it counts itself": (transformers.BartConfig(
        vocab_size=64, d_model=32, decoder_layers=2, decoder_attention_heads=4, decoder_ffn_dim=64, is_decoder=True,
        is_encoder_decoder=False, pad_token_id=0, bos_token_id=1, eos_token_id=2, forced_eos_token_id=None,
        scale_embedding=False,
    ), "BartLearnedPositionalEmbedding"),
}  # fmt: skip
# Families that mix tokens in functions which keep packed sequences apart, and the layers that call them.
SCANS = {
    "a convolution": (
        transformers.Lfm2Config(**SIZES, **HEADS, layer_types=["conv", "full_attention"]), "Lfm2ShortConv",
    ),
    "a state space": (transformers.Mamba2Config(
        vocab_size=64, hidden_size=32, num_hidden_layers=2, num_heads=8, head_dim=8, state_size=8, n_groups=1,
    ), "Mamba2Mixer"),
    "a state space with one step after another": (
        transformers.MambaConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2, state_size=8), "MambaMixer",
    ),
    "a linear attention": (transformers.Qwen3NextConfig(
        **SIZES, **HEADS, head_dim=8, layer_types=["linear_attention", "full_attention"], num_experts=4,
        num_experts_per_tok=2, moe_intermediate_size=16, shared_expert_intermediate_size=16, linear_num_value_heads=4,
        linear_num_key_heads=2, linear_key_head_dim=8, linear_value_head_dim=8,
    ), "Qwen3NextGatedDeltaNet"),
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def group():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def sequences(*lengths):
    random = np.random.default_rng(0)
    return [(random.integers(1, 64, n), np.arange(n) >= n // 2) for n in lengths]


@pytest.mark.parametrize("family", FAMILIES)
def test_changing_one_packed_sequence_changes_no_others_logits(family):
    model = model_of(FAMILIES[family])
    model.set_attn_implementation(IMPLEMENTATION)
    one, two, three = sequences(7, 12, 5)
    other = (one[0][::-1].copy() + 1) % 64, one[1]

    def logits(*parts):
        batch = collate(parts, True, CPU)
        inputs = {"input_ids": batch.input_ids, "position_ids": batch.position_ids, "packed": batch.packed}
        with torch.no_grad():
            return model(**inputs, use_cache=False).logits[0]

    before, after = logits(one, two, three), logits(other, two, three)
    assert not torch.equal(before[:7], after[:7])
    assert torch.equal(before[7:], after[7:])
    torch.testing.assert_close(before[7:19], logits(two), atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        own = model_of(FAMILIES[family])(input_ids=torch.from_numpy(two[0])[None]).logits[0]
    torch.testing.assert_close(before[7:19], own, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_and_padded_have_the_same_loss_and_gradients(family):
    model = model_of(FAMILIES[family])
    module = TargetLoss(model).eval()
    rows = sequences(7, 12, 5)
    found = []
    for packing in (True, False):
        assert take_fast_paths(module, packing, ALONE) is packing
        model.zero_grad()
        loss = module(*collate(rows, packing, CPU))
        loss.backward()
        found.append([loss.detach(), *(parameter.grad for parameter in model.parameters())])
    for packed, padded in zip(*found, strict=True):
        torch.testing.assert_close(packed, padded, atol=1e-4, rtol=1e-4)


def names_of_padded(module):
    """The classes of the layers that are computed on padded batches."""
    return {type(layer.module).__name__ for layer in unpacked_layers.of(module.model)}


@pytest.mark.parametrize("kind", UNPACKED)
def test_layers_that_mix_tokens_are_computed_on_padded_batches(kind):
    config, name = UNPACKED[kind]
    assert_packed_is_padded(config, set(name.split()))


@pytest.mark.parametrize("kind", SCANS)
def test_convolutions_and_scans_keep_packed_sequences_apart_by_themselves(kind):
    assert_packed_is_padded(SCANS[kind][0], set())


@pytest.mark.parametrize("kind", ["a state space", "a linear attention"])
def test_faster_scans_keep_packed_sequences_apart(kind, monkeypatch):
    config, _ = SCANS[kind]
    used = []
    monkeypatch.setattr(scans.Mixing, "fast", lambda self, *given: used.append(self.kind.fast) or self.apart(*given))
    scans.use(TargetLoss(model_of(config)).model, [kind.fast for kind in scans.KINDS])
    try:
        assert_packed_is_padded(config, set())
    finally:
        scans.use(model_of(config), [])
    assert (
        set(used) == {"a state space": {"state space in chunks"}, "a linear attention": {"delta rule in blocks"}}[kind]
    )


@pytest.mark.parametrize("kind", SCANS)
def test_a_scan_that_mixes_sequences_is_found_and_its_layers_get_padded_batches(kind, monkeypatch):
    config, name = SCANS[kind]
    monkeypatch.setattr(scans, "in_groups", lambda plain, given, sequences, axis: plain(given))
    monkeypatch.setattr(scans, "spread", lambda plain, given, sequences: plain(given))
    assert_packed_is_padded(config, set(name.split()))


def assert_packed_is_padded(config, names):
    """Packed rows have the loss and gradients of padded ones, with these layers on padded batches."""
    module = TargetLoss(model_of(config)).eval()
    rows = sequences(7, 12, 5, 12)
    found = []
    for packing in (True, False):
        end_packing(module)
        assert take_fast_paths(module, packing, ALONE) is packing
        assert {type(layer.module).__name__ for layer in unpacked_layers.of(module.model)} == (
            names if packing else set()
        )
        module.model.zero_grad()
        loss = module(*collate(rows, packing, CPU))
        loss.backward()
        found.append([loss.detach(), *(p.grad for p in module.model.parameters() if p.grad is not None)])
    for packed, padded in zip(*found, strict=True):
        torch.testing.assert_close(packed, padded, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", UNPACKED)
def test_a_layer_that_mixes_sequences_unnoticed_is_found(kind, monkeypatch):
    """The search for such layers finds one too few: the last."""
    find = unpacked_layers.find

    def one_too_few(model, compute):
        *layers, lost = find(model, compute)
        lost.remove()
        return layers

    monkeypatch.setattr(unpacked_layers, "find", one_too_few)
    assert take_fast_paths(TargetLoss(model_of(UNPACKED[kind][0])).eval(), True, ALONE) is False


def test_a_mask_that_adds_the_same_to_all_scores_is_not_left_out():
    """As a new model has it: its logits are right without it, but its gradient would be lost."""
    model = model_of(UNPACKED["a mask that it learns"][0])
    for layer in model.model.layers:
        torch.nn.init.zeros_(layer.self_attn.A)
    module = TargetLoss(model)
    assert take_fast_paths(module, True, ALONE) is True and names_of_padded(module) == {"DogeAttention"}


@pytest.mark.parametrize("lost", ["softcap", "sinks"])
def test_a_kernel_that_forgets_soft_capping_or_sinks_is_found(lost, monkeypatch):
    config = transformers.GptOssConfig(
        **SIZES, **HEADS, head_dim=8, num_local_experts=4, num_experts_per_tok=2, sliding_window=4,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4},
    ) if lost == "sinks" else FAMILIES["gemma2"]  # fmt: skip
    module = TargetLoss(model_of(config)).eval()
    assert take_fast_paths(module, True, ALONE) is True and not names_of_padded(module)
    end_packing(module)
    fitting = attention.fastest

    def forgetting(device, dtype, options):
        kernel = fitting(device, dtype, options)
        return lambda q, k, v, packed, asked: kernel(q, k, v, packed, asked._replace(**{lost: None}))

    monkeypatch.setattr(attention, "fastest", forgetting)
    assert take_fast_paths(module, True, ALONE) is True
    assert names_of_padded(module) == {type(module.model).__name__.replace("ForCausalLM", "Attention")}


def test_flex_attention_is_attention_in_each_sequence(monkeypatch):
    """Not compiled, which a CPU cannot do: as it is written out by PyTorch."""
    from torch.nn.attention.flex_attention import flex_attention

    monkeypatch.setattr(flex, "compiled", lambda: flex_attention)
    torch.manual_seed(0)
    lengths = [40, 7, 130, 1, 90]
    starts = np.concatenate(([0], np.cumsum(lengths))).astype(np.int32)
    packed = Packed(torch.from_numpy(starts), lengths)
    query, key, value = (torch.randn(sum(lengths), heads, 16) for heads in (4, 2, 2))
    for window in (0, 9):
        options = Options(0.3, window, 0.0, softcap=2.0, sinks=torch.randn(4))
        ours = flex.flex(query, key, value, packed, options)
        torch.testing.assert_close(ours, attention.one_by_one(query, key, value, packed, options))


def with_large_scores():
    """A model in bf16 whose attention is rounded by 0.1 of its logits where it is written out: scores of hundreds."""
    model = model_of(FAMILIES["llama"])
    for layer in model.model.layers:
        for part in (layer.self_attn.q_proj, layer.self_attn.k_proj):
            part.weight.data.mul_(30)
    return TargetLoss(model.to(torch.bfloat16))


def test_large_scores_whose_rounding_changes_much_are_packed(monkeypatch):
    module = with_large_scores()
    assert take_fast_paths(module, True, ALONE, longest=24) is True
    assert (module.left_out, module.own_attention) == ([], "sdpa")

    def leaking(query, key, value, packed, options):  # as if all were one sequence
        whole = Packed(packed.starts[[0, -1]], [sum(packed.lengths)])
        return attention.one_by_one(query, key, value, whole, options)

    monkeypatch.setattr(attention, "fastest", lambda *_: leaking)
    module = with_large_scores()
    take_fast_paths(module, True, ALONE, longest=24)
    assert names_of_padded(module) == {"LlamaAttention"}


def test_in_bf16_attention_that_a_family_writes_out_does_not_see_what_follows():
    config = transformers.XGLMConfig(
        vocab_size=64, d_model=32, num_layers=2, attention_heads=4, ffn_dim=64, dropout=0.0, attention_dropout=0.0
    )
    model = model_of(config).to(torch.bfloat16)
    loss = TargetLoss(model)
    assert take_fast_paths(loss, True, ALONE, longest=12)
    row = sequences(12)
    gradients = []
    for packed in (True, False):
        loss.zero_grad()
        if not packed:
            end_packing(loss)
        loss(*collate(row, packed, CPU)).backward()
        gradients.append(model.model.layers[1].self_attn.out_proj.weight.grad.float())
    assert (gradients[0] - gradients[1]).norm() < 0.02 * gradients[1].norm()  # 0.3 of it without a mask


def test_a_bias_of_each_pair_leaves_the_window_its_size():
    """As Inkling has both, in layers that are computed on padded batches."""
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 2, 4, 12, 8)
    bias = torch.randn(2, 4, 12, 12)
    found, _ = attention.attention(
        torch.nn.Identity(), query, key, value, None, sliding_window=3, position_bias=bias, scaling=1.0
    )
    shown = attention.causal(query, 3)
    scores = (query @ key.transpose(2, 3) + bias).masked_fill(~shown, -torch.inf)
    torch.testing.assert_close(found, (scores.softmax(-1) @ value).transpose(1, 2))


def test_a_sink_of_each_token_is_used():
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 2, 4, 12, 8)
    sinks = torch.randn(2, 4, 12, 1)
    found, _ = attention.attention(torch.nn.Identity(), query, key, value, None, sinks=sinks, scaling=1.0)
    scores = (query @ key.transpose(2, 3)).masked_fill(~attention.causal(query, 0), -torch.inf)
    shares = torch.cat((scores, sinks), dim=-1).softmax(-1)[..., :-1]
    torch.testing.assert_close(found, (shares @ value).transpose(1, 2))


def test_tokens_see_the_keys_that_an_indexer_has_chosen():
    query, key, value = torch.randn(3, 1, 2, 6, 8)
    indices = torch.tensor([[[0, 1], [0, 1], [0, 2], [1, 3], [2, 4], [0, 5]]])
    found, _ = attention.attention(torch.nn.Identity(), query, key, value, None, indices=indices, scaling=1.0)
    shown = torch.zeros(6, 6, dtype=torch.bool).scatter(1, indices[0], True) & attention.causal(query, 0)
    scores = (query @ key.transpose(2, 3)).masked_fill(~shown, -torch.inf)
    torch.testing.assert_close(found, (scores.softmax(-1) @ value).transpose(1, 2))


def test_chosen_keys_of_sequences_of_different_lengths_are_packed():
    starts = torch.tensor([0, 9, 12], dtype=torch.int32)
    groups = Packed(starts, [9, 3]).by_length
    assert len(groups.places) == 2
    chosen = [torch.arange(9).expand(1, 9, 9), torch.arange(3).expand(1, 3, 3)]
    packed = unpacked_layers.merged(chosen, groups)
    assert packed.shape == (1, 12, 9) and packed[0, -1].tolist() == [0, 1, 2, 2, 2, 2, 2, 2, 2]


def test_attention_with_an_unknown_tensor_is_not_another_attention():
    parts = torch.randn(3, 1, 2, 5, 8)
    with pytest.raises(NotImplementedError, match="attention with blocks"):
        attention.attention(torch.nn.Identity(), *parts, None, blocks=torch.zeros(1, 5, 2))
    attention.attention(torch.nn.Identity(), *parts, None, position_ids=torch.arange(5)[None])


def test_groups_have_little_padding_and_every_sequence_once():
    lengths = np.random.default_rng(0).integers(1, 400, 60).tolist()
    groups = groups_of(lengths, 1.25)
    assert sorted(index for group in groups for index in group) == list(range(60))
    assert sum(len(group) * lengths[group[0]] for group in groups) <= 1.25 * sum(lengths)
    packed = Packed(torch.from_numpy(np.cumsum([0, *lengths]).astype(np.int32)), lengths)
    tokens = torch.arange(sum(lengths))
    for found in (packed.by_length, packed.together):
        assert torch.equal(found.pack([found.unpack(tokens, group) for group in range(len(found.places))]), tokens)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("cap", [None, 1000.0])
def test_a_cap_is_found_that_does_not_show_in_small_logits(cap, dtype):
    config = transformers.Gemma2Config(**SIZES, **HEADS, head_dim=8, final_logit_softcapping=cap)
    module = TargetLoss(model_of(config).to(dtype)).eval()
    take_fast_paths(module, False, ALONE)
    assert (module.head_loss is None) == (cap is not None)


def test_a_model_that_no_way_of_packing_fits_trains_on_padded_sequences(capsys, monkeypatch):
    config = transformers.Gemma2Config(**SIZES, **HEADS, head_dim=8, final_logit_softcapping=0.1)
    module = TargetLoss(model_of(config)).eval()
    monkeypatch.setattr(ways_to_pack, "WAYS", ())
    assert take_fast_paths(module, True, ALONE) is False
    assert module.head_loss is None and module.model.config._attn_implementation == module.own_attention
    said = capsys.readouterr().out
    assert "Gemma2ForCausalLM changes its logits after the head: no chunked loss" in said
    assert "Gemma2ForCausalLM cannot keep packed sequences apart: training on padded ones" in said
    batch = collate(sequences(7, 12), False, CPU)
    logits = module.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits.flatten(0, 1)
    own = F.cross_entropy(logits[batch.predicting], batch.targets, reduction="sum")
    torch.testing.assert_close(module(*batch), own)


@pytest.mark.parametrize("ends_after", [700, 1000])
def test_a_table_that_ends_before_a_micro_step_does_is_found_and_one_that_does_not_is_packed(ends_after):
    config = transformers.BigBirdConfig(
        **SIZES | {"max_position_embeddings": ends_after}, num_attention_heads=4, is_decoder=True,
        attention_type="original_full", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    module = TargetLoss(model_of(config)).eval()
    rows = sequences(*[50] * 18)  # 900 tokens in a micro-step
    packing = take_fast_paths(module, True, ALONE, longest=50, most_tokens=900)
    assert packing is (ends_after > 900)
    found = module(*collate(rows, packing, CPU))
    end_packing(module)
    torch.testing.assert_close(found, module(*collate(rows, False, CPU)))


@pytest.mark.parametrize("rows_at_once", [1, 3, 100])
@pytest.mark.parametrize("bias", [True, False])
def test_the_chunked_loss_is_cross_entropy(monkeypatch, rows_at_once, bias):
    monkeypatch.setattr(losses, "CHUNK_BYTES", rows_at_once * 4 * 50)
    torch.manual_seed(0)
    head = torch.nn.Linear(8, 50, bias=bias).double()
    hidden = torch.randn(10, 8, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(50, (10,))
    found = []
    for loss in (losses.HeadLoss(head)(hidden, targets), F.cross_entropy(head(hidden), targets, reduction="sum")):
        (0.3 * loss).backward()
        found.append([loss.detach(), *(parameter.grad for parameter in (hidden, *head.parameters()))])
        hidden.grad = None
        head.zero_grad()
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours.double(), theirs, atol=1e-6, rtol=1e-6)


class LargestTensor(TorchDispatchMode):
    """Notes the number of elements of the largest tensor that any operation makes."""

    largest = 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        result = function(*arguments, **(options or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, torch.Tensor):
                self.largest = max(self.largest, tensor.numel())
        return result


def test_no_tensor_of_tokens_times_vocabulary_is_ever_made(monkeypatch):
    tokens, vocabulary = 400, 1000
    monkeypatch.setattr(losses, "CHUNK_BYTES", 16 * 4 * vocabulary)
    module = TargetLoss(model_of(transformers.LlamaConfig(**SIZES | {"vocab_size": vocabulary}, **HEADS)))
    take_fast_paths(module, True, ALONE)
    batch = collate([(ids, np.ones(len(ids), dtype=bool)) for ids, _ in sequences(*[tokens // 10] * 10)], True, CPU)
    with LargestTensor() as seen:
        module(*batch).backward()
    assert len(batch.targets) > 380
    assert seen.largest == max(32 * vocabulary, tokens * 64)  # the head's gradient; what a layer computes
