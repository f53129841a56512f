"""What the benchmarks train: a model with random weights in a given shape, and real rows that are prepared for it."""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sft.settings.fields import Settings
from sft.trainer import prepare
from sft.trainer.data.rows import Rows

if TYPE_CHECKING:
    import torch

ROWS = 2000  # of random words
SPECIAL = ["<|bos|>", "<|eos|>", "<|pad|>", "<|user|>", "<|assistant|>"]
MADE_ROWS, MADE_WORDS = 3000, (15, 100)  # a question and an answer have so many words, each a token or two
SHARD_BYTES = 4 * 2**30  # per file of weights
# With the special tokens that the tokenizer of the benchmarks has.
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'assistant' %}{{ message['content'] }}"
    "{{ eos_token }}{% else %}<|user|>{{ message['content'] }}<|assistant|>{% endif %}{% endfor %}"
)


def options(description: str | None) -> argparse.ArgumentParser:
    """Return a parser of the options that say what is measured, and where."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--shape", type=Path, required=True, help="config.json of the model")
    parser.add_argument(
        "--tokenizer",
        type=Path,
        help="tokenizer.json with the special tokens "
        + ", ".join(SPECIAL[:-1])
        + f" and {SPECIAL[-1]}; goes with --data",
    )
    parser.add_argument("--data", type=Path, help="folder with train.jsonl; made-up rows if there is none")
    parser.add_argument("--scratch", type=Path, default=Path("benchmarks-scratch"), help="model and prepared rows")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    return parser


def make_model(shape: Path, tokenizer: Path, folder: Path, device: str) -> None:
    """Write a model with random bf16 weights in the shape of a config.json, and a tokenizer, to `folder`."""
    import torch
    import transformers

    content = json.loads(shape.read_text())
    torch.manual_seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    if content["model_type"] == "llama":
        write_llama(content, folder, device)
    else:
        with torch.device(device):
            config = transformers.AutoConfig.for_model(**content)
            model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        model.save_pretrained(folder)
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(tokenizer), bos_token="<|bos|>", eos_token="<|eos|>", pad_token="<|pad|>"
    )
    fast.chat_template = TEMPLATE
    fast.save_pretrained(folder)


def write_llama(content: dict[str, Any], folder: Path, device: str) -> None:
    """Write a Llama's random weights, drawn on `device` tensor by tensor: nothing ever holds the whole model."""
    import torch
    import transformers
    from safetensors.torch import save_file

    config = transformers.LlamaConfig(**content | {"architectures": ["LlamaForCausalLM"]})
    config.dtype = torch.bfloat16
    index: dict[str, str] = {}
    for number, shard in enumerate(shards(config, device)):
        name = f"model-{number:05d}.safetensors"
        save_file(shard, folder / name, metadata={"format": "pt"})
        index |= dict.fromkeys(shard, name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    config.save_pretrained(folder)


def shards(config: Any, device: str) -> Iterator[dict[str, torch.Tensor]]:
    """Yield the random weights of a Llama by name, one dict per file."""
    import torch
    import transformers

    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(config)
    shard: dict[str, torch.Tensor] = {}
    for name, parameter in model.named_parameters():  # a tied head comes once
        tensor = torch.empty(parameter.shape, dtype=torch.bfloat16, device=device)
        tensor = tensor.normal_(0, config.initializer_range) if tensor.ndim > 1 else tensor.fill_(1)
        shard[name] = tensor.cpu()
        if sum(part.nbytes for part in shard.values()) >= SHARD_BYTES:
            yield shard
            shard = {}
    yield shard


def rows_and_tokenizer(folder: Path) -> tuple[Path, Path]:
    """Write a tokenizer, and a folder with train.jsonl of made-up words, about as long as GSM8K's; return the paths."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 8))) for _ in range(2000)]

    def text() -> str:
        return " ".join(rng.choices(words, k=rng.randint(*MADE_WORDS)))

    rows = [{"question": text(), "answer": text()} for _ in range(MADE_ROWS)]
    data = folder / "rows"
    data.mkdir(parents=True, exist_ok=True)
    for name, part in (("train", rows[:-50]), ("test", rows[-50:])):
        (data / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=4000, special_tokens=SPECIAL, show_progress=False)
    tokenizer.train_from_iterator((row["question"] for row in rows), trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder / "tokenizer.json", data


def write_rows(path: Path) -> Path:
    """Write rows of random words whose lengths vary like GSM8K's; return the file."""
    rng = random.Random(0)
    words = [f"{first}{second}" for first in ("ba", "co", "du", "fi", "lo", "me") for second in ("n", "rt", "st", "x")]
    with path.open("w") as file:
        for _ in range(ROWS):
            length = min(550, int(rng.gammavariate(5.5, 32)))
            texts = [" ".join(rng.choices(words, k=max(2, int(length * share)))) for share in (0.45, 0.55)]
            file.write(json.dumps({"question": texts[0], "answer": texts[1]}) + "\n")
    return path


def prepared(settings: Settings) -> tuple[Path, Rows]:
    """Prepare model and data; return the folder of the model, and the training rows."""
    found = prepare.prepare(settings)
    return Path(found.model), Rows(Path(found.data) / "train")
