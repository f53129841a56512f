"""QLoRA: what is trained beside 4-bit weights is what a plain loop trains, and what `final/` holds."""

import json

import peft
import pytest
import torch
import transformers

from .adapters import SAVED, SETTINGS, STEPS, base_of, goes_on, plain_losses
from .project import metrics

pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed; pip install -e '.[dev]'")


@pytest.fixture(scope="module")
def qlora(project):
    return project.train("qlora", **SETTINGS, LORA_BASE_BITS=4, DS_CONFIG="zero2", SAVE_STEPS=SAVED)


def quantised(path):
    """Return the model in 4 bits, as the paper and peft's documentation have it."""
    how = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True, "bnb_4bit_compute_dtype": torch.float32}
    config = transformers.BitsAndBytesConfig(load_in_4bit=True, **how)
    return transformers.AutoModelForCausalLM.from_pretrained(
        path, dtype=torch.float32, quantization_config=config, device_map={"": "cpu"}
    )


def test_two_nodes_agree_with_a_plain_loop_over_peft(qlora, project):
    path, rows = base_of(qlora, project)
    found = metrics(qlora, "step", "train/loss")
    assert len(found) == STEPS and found[-1][1] < found[0][1]
    for seen, wanted in zip(found, plain_losses(quantised(path), rows, qlora.settings().seed), strict=True):
        assert seen == pytest.approx(wanted, rel=2e-5)


def test_the_final_model_is_the_one_that_was_trained_and_loads_without_bitsandbytes(qlora, project):
    path, _ = base_of(qlora, project)
    ids = torch.arange(5, 45)[None]
    with torch.no_grad():
        unquantised = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
        beside_others = peft.PeftModel.from_pretrained(unquantised, str(qlora.adapter))(ids).logits
        # in training mode: evaluating, bitsandbytes computes in bf16 on a CPU that can
        trained = peft.PeftModel.from_pretrained(quantised(path), str(qlora.adapter)).train()(ids).logits
        final = transformers.AutoModelForCausalLM.from_pretrained(qlora.final, dtype=torch.float32)
        merged = final(ids).logits
    assert "quantization_config" not in json.loads((qlora.final / "config.json").read_text())
    torch.testing.assert_close(merged, trained, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(merged, beside_others, atol=1e-2)


def test_a_checkpoint_holds_the_adapter_alone_and_the_run_goes_on_from_it(qlora, project):
    goes_on(qlora, project, 1)
