"""What is exported: an adapter that others can load, a model as its base was published, and files that others read."""

import json
import os

import peft
import pytest
import torch
import transformers

from sft.run import files
from sft.run.records import TemplateFacts
from sft.trainer.model import adapter, export, generation
from sft.trainer.model.load import load_model
from tests.settings import decided
from tests.torch.small_models import HEADS, SIZES, model_of

CPU = torch.device("cpu")
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def lora(**given):
    return decided(lora_rank=2, nodes=1, gpus_per_node=1, **given)


def written(base, folder, settings):
    """Write the adapter of a model that it changes, and return the logits that it gives."""
    model = load_model(base, settings, CPU)
    adapter.add(model, settings)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    adapter.write(model, model.state_dict(), base, None, folder, settings)
    with torch.no_grad():
        return model.eval()(torch.arange(5, 25)[None]).logits


def test_peft_loads_an_adapter_with_its_base_by_name_and_its_tokenizer(tiny, tmp_path):
    wanted = written(tiny, tmp_path / "adapter", lora(model_name=str(tiny)))
    model = peft.AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter")
    with torch.no_grad():
        torch.testing.assert_close(model(torch.arange(5, 25)[None]).logits, wanted)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "adapter")
    assert tokenizer.chat_template == transformers.AutoTokenizer.from_pretrained(tiny).chat_template


def test_an_adapter_names_a_model_of_the_hub_with_its_commit_and_no_folder_of_this_machine(tiny, tmp_path):
    folder = tmp_path / "models--owner--name" / "snapshots" / COMMIT
    folder.parent.mkdir(parents=True)
    folder.symlink_to(tiny)
    written(folder, tmp_path / "adapter", lora(model_name="owner/name"))
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("owner/name", COMMIT)
    assert str(tmp_path) not in json.dumps(config)


def test_a_local_base_is_named_as_the_user_gave_it(tiny, monkeypatch):
    monkeypatch.chdir(tiny.parent)
    assert adapter.base_name(tiny, lora(model_name=f"./{tiny.name}")) == (f"./{tiny.name}", None)


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_a_whole_folders_files_have_the_mode_that_umask_gives(tmp_path, umask):
    before = os.umask(umask)
    try:
        with files.whole_folder(tmp_path / "final") as folder:
            folder.mkdir()
            (folder / "model.safetensors").touch(mode=0o600)
            (folder / "config.json").touch()
    finally:
        os.umask(before)
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "final").iterdir()}
    assert modes == {0o666 & ~umask}


@pytest.mark.parametrize("asked", [{"output_attentions": True}, {"attn_implementation": "flash_attention_2"}])
def test_the_final_model_is_configured_as_its_base_also_in_what_transformers_would_refuse_to_write(
    tiny, tmp_path, asked
):
    """Of the attention, it is not: no fast one gives its scores, and not every machine has each."""
    base = tmp_path / "base"
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny)
    model.save_pretrained(base)
    transformers.AutoTokenizer.from_pretrained(tiny).save_pretrained(base)
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | asked))
    odd = {"do_sample": False, "temperature": 0.6, "eos_token_id": 2}
    (base / "generation_config.json").write_text(json.dumps(odd))
    loaded = load_model(base, lora(model_name="tiny"), CPU)
    loaded.config.use_cache = False  # as training has it
    export.write_model(loaded, loaded.state_dict(), base, None, tmp_path / "final", False)
    generation = json.loads((tmp_path / "final" / "generation_config.json").read_text())
    assert {name: generation[name] for name in odd} == odd
    assert json.loads((tmp_path / "final" / "config.json").read_text())["use_cache"] is True


CHAT = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"


def facts(*stops, templates=None):
    return TemplateFacts(
        source="the model's", templates=templates or {"default": CHAT}, end_mark="<|im_end|>", end_is_appended=False,
        stops=list(stops), added_stops=["<|im_end|>"],
    )  # fmt: skip


@pytest.fixture
def base(tiny, tmp_path):
    """A base model as many are published: the chat's marks are no special tokens, no pad token, EOS the only end."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny)
    tokenizer.add_tokens(["<|im_start|>", "<|im_end|>"])
    tokenizer.pad_token = tokenizer.chat_template = None
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.generation_config.pad_token_id = model.config.pad_token_id = None
    model.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    generation = json.loads((tmp_path / "base" / "generation_config.json").read_text())
    (tmp_path / "base" / "generation_config.json").write_text(json.dumps(generation | {"temperature": 0.6}))
    return tmp_path / "base"


def exported(base, folder, template):
    """Export the model in `base`; return its tokenizer and its generation configuration."""
    model = load_model(base, lora(model_name="tiny"), CPU)
    export.write_model(model, model.state_dict(), base, template, folder, False)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    return tokenizer, json.loads((folder / "generation_config.json").read_text())


def test_the_final_model_stops_where_answers_end_and_is_asked_as_it_was_trained(base, tmp_path):
    published = transformers.AutoTokenizer.from_pretrained(base)
    end = published.convert_tokens_to_ids("<|im_end|>")
    tokenizer, configured = exported(base, tmp_path / "final", facts(published.eos_token_id, end))
    assert configured["eos_token_id"] == [published.eos_token_id, end]
    assert configured["pad_token_id"] == published.eos_token_id and configured["temperature"] == 0.6
    assert not configured.get("_from_model_config")
    assert json.loads((tmp_path / "final" / "config.json").read_text())["eos_token_id"] == published.eos_token_id
    assert tokenizer.chat_template == CHAT and tokenizer.eos_token == published.eos_token
    # The mark is left out of a decoded answer, and everything is tokenised as before.
    ids = published("5 <|im_end|> 6").input_ids
    assert tokenizer("5 <|im_end|> 6").input_ids == ids and end in ids
    assert published.decode(ids, skip_special_tokens=True) == "5 <|im_end|> 6"
    assert tokenizer.decode(ids, skip_special_tokens=True) == "5  6"


def test_the_final_model_of_a_run_without_facts_about_the_template_is_as_published(base, tmp_path):
    tokenizer, configured = exported(base, tmp_path / "final", None)
    assert configured["eos_token_id"] == tokenizer.eos_token_id and "pad_token_id" not in configured
    assert tokenizer.chat_template is None and "<|im_end|>" not in tokenizer.all_special_tokens


def test_the_licence_of_the_base_goes_with_the_final_model(base, tmp_path):
    texts = {name: f"the text of {name}" for name in ("LICENSE.txt", "USE_POLICY.md", "NOTICE")}
    for name, text in texts.items():
        (base / name).write_text(text)
    (base / "LICENSE-pictures").mkdir()
    exported(base, tmp_path / "final", facts(1))
    assert {name: (tmp_path / "final" / name).read_text() for name in texts} == texts


def test_all_named_templates_are_exported_and_the_default_is_the_usual_one(base, tmp_path):
    named = {"default": CHAT, "tool_use": CHAT + " "}
    tokenizer, _ = exported(base, tmp_path / "final", facts(1, templates=named))
    assert tokenizer.chat_template == named
    assert (tmp_path / "final" / "chat_template.jinja").read_text() == CHAT


@pytest.mark.parametrize("templates", [{"default": CHAT}, {"default": CHAT, "tool_use": CHAT + " "}])
def test_programs_that_look_for_the_template_in_the_tokenizers_configuration_find_it_there(base, tmp_path, templates):
    exported(base, tmp_path / "final", facts(1, templates=templates))
    content = json.loads((tmp_path / "final" / "tokenizer_config.json").read_text())
    found = content["chat_template"]
    assert found == CHAT or {one["name"]: one["template"] for one in found} == templates
    assert not {"is_local", "local_files_only"} & content.keys()  # of this machine


def test_an_adapter_has_the_template_that_it_was_trained_with(base, tmp_path):
    model = load_model(base, lora(model_name=str(base)), CPU)
    adapter.add(model, lora(model_name=str(base)))
    adapter.write(model, model.state_dict(), base, facts(1), tmp_path / "adapter", lora(model_name=str(base)))
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "adapter").chat_template == CHAT


def test_a_batch_of_prompts_is_answered_without_a_word_about_padding(base, tmp_path, caplog):
    exported(base, tmp_path / "final", facts(1, 2))
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "final")
    transformers.utils.logging.enable_propagation()
    ids = torch.tensor([[5, 6, 7], [8, 9, 10]])
    model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=4, do_sample=False)
    transformers.utils.logging.disable_propagation()
    assert "pad_token_id" not in caplog.text


@pytest.mark.parametrize(("pad", "eos", "expected"), [(0, 1, 0), (None, 1, 1), (64, 1, 1), (-1, 1, 1), (None, None, 7)])
def test_padding_is_a_token_that_the_model_has(pad, eos, expected):
    class Marks:
        pad_token_id, eos_token_id = pad, eos

    model = model_of(transformers.LlamaConfig(**SIZES, **HEADS))
    assert generation.pad_token(model, Marks(), [7]) == expected
