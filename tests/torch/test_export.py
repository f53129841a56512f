"""What is exported: an adapter that others can load, a model as its base was published, and files that others read."""

import json
import os

import peft
import pytest
import torch
import transformers

from sft.run import files
from sft.trainer.model import adapter, export
from sft.trainer.model.load import load_model
from tests.settings import decided

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
    adapter.write(model, model.state_dict(), base, folder, settings)
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


def test_the_final_model_is_configured_as_its_base_also_in_what_transformers_would_refuse_to_write(tiny, tmp_path):
    base = tmp_path / "base"
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny)
    model.save_pretrained(base)
    transformers.AutoTokenizer.from_pretrained(tiny).save_pretrained(base)
    odd = {"do_sample": False, "temperature": 0.6, "eos_token_id": 2}
    (base / "generation_config.json").write_text(json.dumps(odd))
    loaded = load_model(base, lora(model_name="tiny"), CPU)
    loaded.config.use_cache = False  # as training has it
    export.write_model(loaded, loaded.state_dict(), base, tmp_path / "final", False)
    generation = json.loads((tmp_path / "final" / "generation_config.json").read_text())
    assert {name: generation[name] for name in odd} == odd
    assert json.loads((tmp_path / "final" / "config.json").read_text())["use_cache"] is True
