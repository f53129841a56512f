"""The work that is measured: a model of random weights in a given shape, and real rows prepared for it."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from sft.settings import Settings
from sft.trainer import prepare
from sft.trainer.data import Rows

# Marks of the yardstick's tokenizer around prompt and response.
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'assistant' %}{{ message['content'] }}"
    "{{ eos_token }}{% else %}<|user|>{{ message['content'] }}<|assistant|>{% endif %}{% endfor %}"
)


def options(description: str | None) -> argparse.ArgumentParser:
    """Return a parser of what says which work is measured, and where."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--shape", type=Path, required=True, help="config.json of the model")
    parser.add_argument("--tokenizer", type=Path, required=True, help="tokenizer.json with the yardstick's marks")
    parser.add_argument("--data", type=Path, required=True, help="folder with train.jsonl")
    parser.add_argument("--scratch", type=Path, default=Path("benchmarks-scratch"), help="model and prepared rows")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    return parser


def make_model(shape: Path, tokenizer: Path, folder: Path, device: str) -> None:
    """Write a Llama of random bf16 weights in the shape of a config.json, with a tokenizer, to `folder`."""
    import torch
    import transformers

    config = transformers.LlamaConfig(**json.loads(shape.read_text()))
    torch.manual_seed(0)
    with torch.device(device):
        model = transformers.LlamaForCausalLM(config)
    model.bfloat16()
    model.save_pretrained(folder)
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(tokenizer), bos_token="<|bos|>", eos_token="<|eos|>", pad_token="<|pad|>"
    )
    fast.chat_template = TEMPLATE
    fast.save_pretrained(folder)


def prepared(settings: Settings) -> tuple[Path, Rows]:
    """Return the folder of the model and the training rows."""
    found: dict[str, Any] = prepare.prepare(settings)
    return Path(found["model"]), Rows(Path(found["data"]) / "train")
