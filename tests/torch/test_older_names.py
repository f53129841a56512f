"""What programs other than transformers 5 read in `final/` and `adapter/`: the names of the base's own files."""

import json

import pytest
import torch
import transformers

from sft.run.records import TemplateFacts
from sft.trainer.model import adapter, export, generation, older_names
from sft.trainer.model.load import load_model
from tests.settings import decided
from tests.torch.small_models import HEADS, SIZES, names_in, with_pictures
from tests.torch.test_sentencepiece import model_file  # noqa: F401 (a fixture)

ROPE = {
    "rope_type": "llama3", "factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
    "original_max_position_embeddings": 128,
}  # fmt: skip


def json_of(path):
    return json.loads(path.read_text())


def published(folder, config, **as_published):
    """Write config.json in a base's folder, with keys as their publisher wrote them."""
    config.save_pretrained(folder)
    content = json_of(folder / "config.json")
    for name in ("dtype", "rope_parameters"):
        content.pop(name, None)
    (folder / "config.json").write_text(json.dumps(content | as_published))
    return folder


def exported(base, folder, dtype="float32"):
    """Write the configuration as transformers does, and what is kept of the base's; return its content."""
    config = transformers.AutoConfig.from_pretrained(base)
    config.dtype = config.get_text_config().dtype = dtype  # as a loaded model has it
    config.save_pretrained(folder)
    older_names.add_to_config(base, folder, trusted=False)
    return json_of(folder / "config.json")


def test_a_configuration_has_the_bases_names_beside_the_new_ones(tmp_path):
    """A reader without `rope_parameters` takes a default for `rope_theta`, and its answers are others."""
    own = {"rope_theta": 500000.0, "rope_scaling": ROPE, "torch_dtype": "bfloat16", "_name_or_path": "elsewhere"}
    base = published(tmp_path / "base", transformers.LlamaConfig(**SIZES, **HEADS), **own)
    content = exported(base, tmp_path / "final")
    assert (content["rope_theta"], content["rope_scaling"]) == (500000.0, ROPE)
    assert content["rope_parameters"] == ROPE | {"rope_theta": 500000.0}
    assert content["torch_dtype"] == content["dtype"] == "float32"
    assert "_name_or_path" not in content
    again = exported(tmp_path / "final", tmp_path / "again", dtype="bfloat16")
    assert again == content | {"torch_dtype": "bfloat16", "dtype": "bfloat16"}


def test_a_part_of_a_configuration_has_them_too(tmp_path):
    whole = transformers.Gemma3Config(text_config={**SIZES, **HEADS, "head_dim": 8})
    whole.save_pretrained(tmp_path / "base")
    content = json_of(tmp_path / "base" / "config.json")
    content["torch_dtype"] = content["text_config"]["torch_dtype"] = "bfloat16"
    del content["text_config"]["rope_parameters"]
    content["text_config"] |= {"rope_theta": 12345.0, "rope_local_base_freq": 678.0}
    (tmp_path / "base" / "config.json").write_text(json.dumps(content))
    text = exported(tmp_path / "base", tmp_path / "final")["text_config"]
    assert (text["rope_theta"], text["rope_local_base_freq"], text["torch_dtype"]) == (12345.0, 678.0, "float32")
    assert text["rope_parameters"]["full_attention"]["rope_theta"] == 12345.0


def test_a_value_that_transformers_spells_in_another_way_stays_the_bases(tmp_path):
    """Infinity, which transformers writes as an object, and the names of layers."""
    mamba = transformers.Mamba2Config(num_hidden_layers=1, hidden_size=32, num_heads=4, head_dim=16)
    base = published(tmp_path / "base", mamba, time_step_limit=[0.0, float("inf")])
    assert exported(base, tmp_path / "final")["time_step_limit"] == [0.0, float("inf")]
    layers = ["mamba", "attention"]
    hybrid = transformers.GraniteMoeHybridConfig(**SIZES, **HEADS, layer_types=layers, mamba_n_heads=4)
    base = published(tmp_path / "hybrid", hybrid, layer_types=layers)
    assert exported(base, tmp_path / "final-hybrid")["layer_types"] == layers


def test_what_means_something_else_than_what_was_trained_is_not_kept(tmp_path):
    own = {"vocab_size": 64, "attn_implementation": "flash_attention_2", "return_dict": False, "rope_scaling": ROPE}
    own |= {"rope_theta": 5e5}
    base = published(tmp_path / "base", transformers.LlamaConfig(**SIZES, **HEADS), **own)
    config = transformers.AutoConfig.from_pretrained(base)
    config.return_dict = True  # as it is loaded for training
    config.vocab_size, config.rope_parameters = 70, {"rope_type": "default", "rope_theta": 5e5}
    config.save_pretrained(tmp_path / "final")
    older_names.add_to_config(base, tmp_path / "final", trusted=False)
    content = json_of(tmp_path / "final" / "config.json")
    assert content["vocab_size"] == 70 and content["rope_theta"] == 5e5
    assert not {"attn_implementation", "return_dict", "rope_scaling"} & content.keys()


def loads_the_same(folder, tokenizer):
    """Tell whether a tokenizer's folder loads as the tokenizer that was written to it."""
    loaded = transformers.AutoTokenizer.from_pretrained(folder)
    assert loaded.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()
    assert (loaded.special_tokens_map, loaded.all_special_ids) == (
        tokenizer.special_tokens_map, tokenizer.all_special_ids,
    )  # fmt: skip
    return type(loaded) is type(tokenizer) and loaded.chat_template == tokenizer.chat_template


def of_base(base, folder, trusted=False):
    """Write the tokenizer of a base to another folder as an export does; return it and its configuration."""
    tokenizer = generation.exported_tokenizer(base, None, trusted)
    older_names.write_tokenizer(tokenizer, base, folder, trusted)
    return tokenizer, json_of(folder / "tokenizer_config.json")


def test_transformers_4_knows_the_class_and_the_special_tokens_of_a_tokenizer(tiny, tmp_path):
    """It raises errors for a class that is called TokenizersBackend, and for a list of extra_special_tokens."""
    tokenizer, content = of_base(tiny, tmp_path)
    assert content["tokenizer_class"] == "PreTrainedTokenizerFast" and "extra_special_tokens" not in content
    assert content["additional_special_tokens"] == ["<user>", "<assistant>"]
    assert content["added_tokens_decoder"]["3"]["content"] == "<user>"
    assert loads_the_same(tmp_path, tokenizer)


def test_a_tokenizer_keeps_what_its_base_says_under_names_that_transformers_does_not_write(tiny, tmp_path):
    base = tmp_path / "base"
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny)
    tokenizer.save_pretrained(base)
    own = json_of(base / "tokenizer_config.json")
    del own["extra_special_tokens"]
    own |= {
        "tokenizer_class": "Qwen2TokenizerFast", "add_bos_token": False, "extra_special_tokens": {"role": "<user>"},
        "chat_template": "{{ raise_exception('not what was trained') }}",
    }  # fmt: skip
    (base / "tokenizer_config.json").write_text(json.dumps(own))
    (base / "config.json").write_text(json.dumps({"model_type": "qwen2"}))
    written, content = of_base(base, tmp_path / "final")
    kept = ("add_bos_token", "extra_special_tokens")
    assert {name: content[name] for name in kept} == {name: own[name] for name in kept}
    assert content["tokenizer_class"].removesuffix("Fast") == "Qwen2Tokenizer"
    assert content["chat_template"] == written.chat_template != own["chat_template"]
    assert "model_specific_special_tokens" not in content
    assert loads_the_same(tmp_path / "final", written)


def test_an_end_mark_that_add_tokens_made_is_known_to_transformers_4_too(tiny, tmp_path):
    """Qwen's class looks for special tokens in raw text, whatever the file says: no older name was kept."""
    base = tmp_path / "base"
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny)
    tokenizer.add_tokens(["<|im_end|>"])
    tokenizer.save_pretrained(base)
    own = json_of(base / "tokenizer_config.json")
    (base / "tokenizer_config.json").write_text(json.dumps(own | {"tokenizer_class": "Qwen2Tokenizer"}))
    (base / "config.json").write_text(json.dumps({"model_type": "qwen2"}))
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    template = TemplateFacts(
        source="the model's", templates={}, end_mark="<|im_end|>", end_is_appended=False, stops=[end], added_stops=[]
    )
    trained = generation.exported_tokenizer(base, template, False)
    older_names.write_tokenizer(trained, base, tmp_path / "final", False)
    content = json_of(tmp_path / "final" / "tokenizer_config.json")
    assert content["additional_special_tokens"][-1] == "<|im_end|>" and "extra_special_tokens" not in content
    loaded = transformers.AutoTokenizer.from_pretrained(tmp_path / "final")
    text = "caf\u00e9 cafe\u0301<|im_end|> <|im_end|>e\u0301 x"
    assert loaded(text).input_ids == trained(text).input_ids and loaded(text).input_ids.count(end) == 2


@pytest.mark.parametrize("legacy", [True, False, None])
def test_sentencepieces_vocabulary_goes_with_the_model_and_text_is_cut_as_in_training(tmp_path, model_file, legacy):  # noqa: F811
    """Converters to GGUF read it, and from the configuration which tokens were added to it.

    `legacy` decides about a space behind a mark: without it final/ was asked in other tokens than it was trained on.
    """
    base = tmp_path / "base"
    base.mkdir()
    (base / "tokenizer.model").write_bytes(model_file.read_bytes())
    (base / "config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": 420}))
    own = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>"}
    own |= {} if legacy is None else {"legacy": legacy}
    (base / "tokenizer_config.json").write_text(json.dumps(own))
    tokenizer, content = of_base(base, tmp_path / "final")
    assert (tmp_path / "final" / "tokenizer.model").read_bytes() == model_file.read_bytes()
    assert content.get("legacy") is legacy and content["added_tokens_decoder"]["2"]["content"] == "</s>"
    assert loads_the_same(tmp_path / "final", tokenizer)
    text = "<s>How are you?</s><s>I am well"
    loaded = transformers.AutoTokenizer.from_pretrained(tmp_path / "final")
    assert loaded(text).input_ids == transformers.AutoTokenizer.from_pretrained(base)(text).input_ids


FAST = "class Words(transformers.PreTrainedTokenizerFast):\n    pass\n"
SLOW = """
class Words(transformers.PreTrainedTokenizer):
    def __init__(self, **given):
        self.characters = [chr(number) for number in range(32, 127)]
        super().__init__(**given)
    @property
    def vocab_size(self):
        return len(self.characters)
    def get_vocab(self):
        return {**{text: number for number, text in enumerate(self.characters)}, **self.added_tokens_encoder}
    def _tokenize(self, text, **_):
        return list(text)
    def _convert_token_to_id(self, token):
        return self.characters.index(token) if token in self.characters else 0
    def _convert_id_to_token(self, number):
        return self.characters[number]
    def save_vocabulary(self, save_directory, filename_prefix=None):
        return ()
"""


@pytest.mark.parametrize("code", [FAST, SLOW], ids=["fast", "slow"])
def test_a_tokenizer_with_code_of_its_own_loads_again(tiny, tmp_path, code):
    """transformers writes where the code is in a form that it does not read, unless the class is called a Tokenizer."""
    base = tmp_path / "base"
    transformers.AutoTokenizer.from_pretrained(tiny).save_pretrained(base)
    (base / "config.json").write_text(json.dumps({"model_type": "llama"}))
    (base / "own_words.py").write_text(f"import transformers\n\n{code}")
    content = json_of(base / "tokenizer_config.json")
    place = [None, "own_words.Words"] if code is FAST else ["own_words.Words", None]
    content |= {"tokenizer_class": "Words", "auto_map": {"AutoTokenizer": place}}
    (base / "tokenizer_config.json").write_text(json.dumps(content))
    if code is SLOW:
        (base / "tokenizer.json").unlink()
    tokenizer, content = of_base(base, tmp_path / "final", trusted=True)
    loaded = transformers.AutoTokenizer.from_pretrained(tmp_path / "final", trust_remote_code=True)
    assert type(loaded).__name__ == "Words" and content["auto_map"] == {"AutoTokenizer": place}
    assert loaded("<user>2 + 3").input_ids == tokenizer("<user>2 + 3").input_ids


@pytest.mark.parametrize("inside", ["", "vision_model."])
def test_the_weights_have_the_names_that_the_base_has(tiny, tmp_path, inside):
    """transformers 5 removed a part of the names of vision towers: other programs miss the weights under new ones."""
    base = with_pictures(tmp_path / "base", transformers.AutoTokenizer.from_pretrained(tiny), inside)
    model = load_model(base, decided(nodes=1, gpus_per_node=1, model_name=str(base)), torch.device("cpu"))
    export.write_model(model, model.state_dict(), base, None, tmp_path / "final", False)
    assert names_in(tmp_path / "final") == names_in(base)


@pytest.mark.parametrize("folder", ["final", "adapter"])
def test_both_folders_of_a_run_are_written_so(tiny, tmp_path, folder):
    settings = decided(lora_rank=2, nodes=1, gpus_per_node=1, model_name=str(tiny))
    model = load_model(tiny, settings, torch.device("cpu"))
    if folder == "adapter":
        adapter.add(model, settings)
        adapter.write(model, model.state_dict(), tiny, None, tmp_path / folder, settings)
    else:
        export.write_model(model, model.state_dict(), tiny, None, tmp_path / folder, False)
    assert json_of(tmp_path / folder / "tokenizer_config.json")["tokenizer_class"] == "PreTrainedTokenizerFast"
