"""Multimodal models: the class that they were published as, what text does not pass, and their processor's template."""

import json
from types import SimpleNamespace

import pytest
import transformers
from huggingface_hub.utils import filter_repo_objects

from sft.errors import DataError, SettingsError
from sft.hub.repository import Repository
from sft.settings.load import load
from sft.trainer.data import chat_template
from sft.trainer.data.encode import check_ids
from sft.trainer.hub.download import download
from sft.trainer.model import adapter, experts, processor, published, towers
from sft.trainer.model.hub import FILES
from tests.zoo import tiny

TEMPLATE = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'][0]['text'] }}{% endfor %}"


@pytest.mark.parametrize(
    ("family", "names", "expected"),
    [
        ("gemma3", None, "Gemma3ForConditionalGeneration"),
        ("mistral3", "Mistral3ForConditionalGeneration", "Mistral3ForConditionalGeneration"),
        ("llama4", "Llama4ForConditionalGeneration", "Llama4ForConditionalGeneration"),
        ("llama4_text", "Llama4ForCausalLM", "Llama4ForCausalLM"),
        ("qwen3_5", "Qwen3_5ForConditionalGeneration", "Qwen3_5ForConditionalGeneration"),
        ("qwen3_5_text", "Qwen3_5ForCausalLM", "Qwen3_5ForCausalLM"),
        ("qwen3_vl", "Qwen3VLForConditionalGeneration", "Qwen3VLForConditionalGeneration"),
        ("voxtral", None, "VoxtralForConditionalGeneration"),
        ("llama", "LlamaModel", "LlamaForCausalLM"),
    ],
)
def test_a_checkpoint_is_loaded_as_the_class_that_it_names(family, names, expected):
    config = tiny.config_of(family)
    config.architectures = names and [names]
    assert published.class_of(config).__name__ == expected


@pytest.mark.parametrize(("family", "name"), [("mllama", "MllamaForCausalLM"), ("emu3", "Emu3ForCausalLM")])
def test_a_language_model_that_was_published_without_its_towers_is_loaded_alone(family, name):
    config = transformers.CONFIG_MAPPING[family]().text_config
    config.architectures = [name]
    assert published.class_of(config).__name__ == name


def test_a_model_that_writes_no_text_has_no_class():
    with pytest.raises(LookupError, match="no ViTModel that writes text"):
        published.class_of(transformers.ViTConfig(architectures=["ViTModel"]))


@pytest.mark.parametrize(
    ("family", "words"),
    [
        ("gemma3", "vision_tower, multi_modal_projector"),
        ("qwen3_vl", "visual"),
        ("mllama", "vision_model, language_model.layers.3, multi_modal_projector"),  # layer 3 looks at pictures only
        ("aria", "vision_tower, multi_modal_projector"),  # experts by value: by the place of its decoder
        ("qwen3", ""),
    ],
)
def test_what_text_does_not_pass_is_found_by_the_structure(family, words):
    model = published.from_config(tiny.config_of(family))
    assert towers.in_words(model, towers.freeze(model)) == words
    assert {name for name, one in model.named_parameters() if not one.requires_grad} == set(towers.unused(model))


def test_adapters_are_put_beside_the_language_model_alone(tmp_path):
    settings = load(None, model_name="x", lora_rank=2, lora_targets="q_proj,v_proj", runs_path=tmp_path)
    model = published.from_config(tiny.config_of("gemma3"))
    adapter.add(model, settings, towers.unused(model))
    adapted = [name for name, _ in model.named_parameters() if "lora_" in name]
    assert adapted
    assert all("language_model" in name for name in adapted)


@pytest.mark.parametrize(
    ("family", "names"), [("idefics2", []), ("qwen3_vl_moe", ["experts.down_proj", "experts.gate_up_proj"])]
)
def test_parameters_of_a_tower_are_not_taken_for_experts(family, names):
    model = published.from_config(tiny.config_of(family))
    assert experts.names(model, towers.unused(model)) == names


def test_a_target_that_only_the_tower_has_is_refused(tmp_path):
    settings = load(None, model_name="x", lora_rank=2, lora_targets="fc1", runs_path=tmp_path)
    model = published.from_config(tiny.config_of("gemma3"))
    with pytest.raises(SettingsError, match="fc1 is not a linear layer that text passes"):
        adapter.add(model, settings, towers.unused(model))


@pytest.fixture
def folder(tiny, tmp_path):
    """A tokenizer without a chat template, and a processor that has one."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny)
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": TEMPLATE}))
    (tmp_path / "preprocessor_config.json").write_text('{"size": 32}')
    (tmp_path / "processor_config.json").write_text('{"image_seq_length": 4}')
    return tmp_path


def test_the_template_of_a_processor_is_used(folder):
    assert chat_template.load(folder, load(None)).templates == {"default": TEMPLATE}


def test_the_files_of_a_processor_go_with_the_model_and_have_the_template_that_was_trained(folder, tmp_path):
    final = tmp_path / "final"
    final.mkdir()
    processor.copy(folder, SimpleNamespace(templates={"default": "trained"}), final)
    assert json.loads((final / "chat_template.json").read_text()) == {"chat_template": "trained"}
    assert (final / "preprocessor_config.json").read_text() == '{"size": 32}'
    assert json.loads((final / "processor_config.json").read_text()) == {"image_seq_length": 4}


def test_a_model_without_a_class_is_refused_before_rows_are_read(tmp_path):
    with pytest.raises(SettingsError, match=r"MODEL_NAME=x: is a vit: transformers \S+ has no ViTModel that writes"):
        published.check(transformers.ViTConfig(architectures=["ViTModel"]), load(None, model_name="x"))


def test_the_weights_of_a_model_are_downloaded_once(monkeypatch, tmp_path):
    there = [
        "config.json",
        "model-00001-of-00002.safetensors",
        "consolidated.safetensors",
        "original/model.safetensors",
    ]
    asked = {}
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **options: asked.update(options) or tmp_path)
    download(Repository.of_model(load(None, model_name="a/b", model_path=tmp_path)), FILES)
    patterns = {name: asked[name] for name in ("allow_patterns", "ignore_patterns")}
    assert list(filter_repo_objects(there, **patterns)) == there[:2]


def test_a_row_with_the_place_of_a_picture_is_refused(folder):
    tokenizer = chat_template.load(folder, load(None)).tokenizer
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    config = transformers.Gemma3Config(image_token_index=tokenizer.convert_tokens_to_ids("<image>"))
    pictures = published.tokens_of_pictures(config, tokenizer)
    check_ids(tokenizer("What is it?").input_ids, "a.jsonl:1", tokenizer, None, pictures)
    with pytest.raises(DataError, match="a.jsonl:2: <image> stands for a picture, film or sound; only text is trained"):
        check_ids(tokenizer("<image>What is it?").input_ids, "a.jsonl:2", tokenizer, None, pictures)
