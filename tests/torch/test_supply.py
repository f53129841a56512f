"""What comes with a model: pickled weights and code run only where the user has said so."""

import io
import json
import shutil

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from sft import model_files
from sft.errors import SettingsError
from sft.host.commands import setup, train
from sft.settings.load import load
from sft.settings.stages import resolve, without_plan
from sft.trainer.data import base_model
from sft.trainer.model.load import load_model
from tests.settings import decided

CPU = torch.device("cpu")

CODE = """
from transformers import LlamaConfig, LlamaForCausalLM
class MineConfig(LlamaConfig):
    model_type = "mine"
class MineForCausalLM(LlamaForCausalLM):
    config_class = MineConfig
"""


@pytest.fixture
def pickled(tiny, tmp_path):
    """The tiny model with its weights in a pickle."""
    folder = tmp_path / "pickled"
    shutil.copytree(tiny, folder)
    weights = folder / "model.safetensors"
    torch.save(load_file(weights), folder / "pytorch_model.bin")
    weights.unlink()
    return folder


@pytest.fixture
def coded(tiny, tmp_path):
    """The tiny model, its class written in a file that comes with it."""
    folder = tmp_path / "coded"
    shutil.copytree(tiny, folder)
    (folder / "mine.py").write_text(CODE)
    config = json.loads((folder / "config.json").read_text())
    own = {"AutoConfig": "mine.MineConfig", "AutoModelForCausalLM": "mine.MineForCausalLM"}
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "mine", "auto_map": own}))
    return folder


def test_pickled_weights_are_refused_before_anything_starts(pickled, tmp_path):
    settings = load(None, model_name=str(pickled), runs_path=tmp_path / "runs")
    with pytest.raises(SettingsError) as caught:
        train.train(settings, Console(file=io.StringIO()))
    assert str(caught.value) == (
        f"MODEL_NAME={pickled}: its weights are pickled (pytorch_model.bin), which can run any program when they are "
        "loaded; take a model with safetensors, or set ALLOW_PICKLE=1 if you trust its source"
    )
    assert not (tmp_path / "runs").exists()
    with pytest.raises(SettingsError, match="are pickled"):
        base_model.base_model(settings)
    with pytest.raises(OSError, match="safetensors"):
        load_model(pickled, without_plan(resolve(settings, "cpu", "local")), CPU)


def test_pickled_weights_load_where_they_are_allowed(pickled):
    settings = decided(model_name=str(pickled), allow_pickle=True)
    assert base_model.base_model(settings) == pickled
    assert load_model(pickled, settings, CPU).config.model_type == "llama"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), "holds no config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "its config.json is not a JSON object"),
        (lambda folder: (folder / "pytorch_model.bin").unlink(), "has no weights in safetensors"),
    ],
)
def test_a_folder_that_is_no_model_is_refused(pickled, change, message):
    change(pickled)
    with pytest.raises(SettingsError, match=message):
        train.train(
            load(None, model_name=str(pickled), runs_path=pickled.parent),
            Console(file=io.StringIO()),
        )


def test_code_of_a_model_runs_only_where_it_is_trusted(coded, monkeypatch, tmp_path):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    with pytest.raises(SettingsError) as caught:
        base_model.base_model(load(None, model_name=str(coded)))
    assert str(caught.value) == (
        f"TRUST_REMOTE_CODE=0: {coded} needs Python code of its own; set TRUST_REMOTE_CODE=1 if you have read that "
        "code, or take another model"
    )
    settings = decided(model_name=str(coded), trust_remote_code=True)
    assert base_model.base_model(settings) == coded
    assert type(load_model(coded, settings, CPU)).__name__ == "MineForCausalLM"


def test_code_that_is_not_needed_is_not_run(coded):
    config = json.loads((coded / "config.json").read_text())
    (coded / "config.json").write_text(json.dumps(config | {"model_type": "llama"}))
    (coded / "mine.py").write_text("raise SystemExit('the code ran')")
    settings = decided(model_name=str(coded))
    assert base_model.base_model(settings) == coded
    assert type(load_model(coded, settings, CPU)).__name__ == "LlamaForCausalLM"


@pytest.mark.parametrize(("mode", "warned"), [(0o644, True), (0o600, False)])
def test_an_env_file_that_others_may_read_is_warned_about(tmp_path, monkeypatch, mode, warned):
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("SEED=1\n")
    (tmp_path / ".env").chmod(mode)
    console = Console(file=io.StringIO())
    setup.make_env_file(console)
    assert ("others may read the keys in it; chmod 600 .env" in console.file.getvalue()) is warned


def test_four_bits_without_bitsandbytes_are_one_line(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    settings = load(None, lora_base_bits=4, lora_rank=8, ds_config="zero2")
    with pytest.raises(SettingsError) as caught:
        model_files.check_bitsandbytes(settings)
    assert caught.value.problems == [
        "LORA_BASE_BITS=4: bitsandbytes is not installed; `.venv/bin/pip install -e '.[qlora]'` installs it, in "
        "containers QLORA=1 in .env does"
    ]
    model_files.check_bitsandbytes(load(None, lora_rank=8))
