"""Weights counted in the headers of a model's files, whatever its config.json says."""

import json
from pathlib import Path

from sft.host.plan import counted, shapes
from sft.host.plan.job import Job
from sft.settings.load import load
from tests.unit.plan.planning import H100

CONFIG = {
    "model_type": "a_new_one", "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2, "vocab_size": 10,
    "num_attention_heads": 2, "num_experts": 4, "num_experts_per_tok": 2, "tie_word_embeddings": True,
}  # fmt: skip


def layer(index: int, inside: str = "model.layers") -> dict[str, tuple[int, ...]]:
    """The tensors of a layer: attention, its mask, and experts, as files have them, one by one."""
    start = f"{inside}.{index}"
    experts = {f"{start}.mlp.experts.{number}.up_proj.weight": (16, 8) for number in range(4)}
    return {f"{start}.attn.c_attn.weight": (24, 8), f"{start}.attn.bias": (1, 1, 64, 64)} | experts


SIZES = (
    {"model.embed_tokens.weight": (10, 8), "model.norm.weight": (8,), "lm_head.weight": (10, 8)}
    | {"mtp.fc.weight": (8, 16), "visual.blocks.0.attn.qkv.weight": (24, 8)}
    | layer(0)
    | layer(1)
    | layer(2)  # one more than config.json says: it predicts the token after the next
)


def folder_of(sizes: dict[str, tuple[int, ...]], folder: Path) -> Path:
    """Write config.json, and the header of a safetensors file without its tensors."""
    header = {name: {"dtype": "BF16", "shape": size, "data_offsets": [0, 0]} for name, size in sizes.items()}
    content = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(len(content).to_bytes(8, "little") + content)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder / "config.json"


def test_weights_are_those_that_transformers_loads():
    found = counted.count(SIZES, layers=2, tied=True)
    experts, attention, ends = 2 * 4 * 16 * 8, 2 * 24 * 8, 10 * 8 + 8
    assert found.language == experts + attention + ends and found.frozen == 24 * 8
    assert (found.experts, found.linear, found.sides) == (experts, attention, 2 * (24 + 8))
    assert found.layer == (experts + attention) // 2 and not found.has_head
    assert counted.count(SIZES, layers=2, tied=False).has_head


def test_the_decoder_of_an_encoder_with_one_is_counted():
    both = {f"model.{part}.layers.0.fc1.weight": (8, 4) for part in ("encoder", "decoder")}
    assert counted.count(both, layers=1, tied=False).language == 32
    assert counted.count({"bert.encoder.layer.0.a.weight": (8, 4), "lm_head.decoder.weight": (4, 4)}, 1, False).linear


def test_a_plan_counts_in_the_files_beside_config_json(tmp_path):
    shape = shapes.read(folder_of(SIZES, tmp_path))
    assert shape.weights - shape.language_weights == 24 * 8
    assert shape.expert_share == 2 * 4 * 16 * 8 / shape.weights
    all_weights, adapters = (
        Job.of(load(None, precision="bf16", ds_config="zero2", lora_rank=rank), shape, H100) for rank in (0, 3)
    )
    assert (all_weights.trained, adapters.trained) == (shape.language_weights, 3 * 2 * (24 + 8))
    (tmp_path / "model.safetensors").write_bytes(b"version https://git-lfs")
    assert shapes.read(tmp_path / "config.json").counted is None  # config.json has to do
