"""What the project makes of an input: the rows as they are trained, or the lines of the refusal."""

from __future__ import annotations

import contextlib
import io
import itertools
from dataclasses import dataclass, field
from pathlib import Path

import transformers

from sft.errors import SftError
from sft.rows import look
from sft.settings.load import load
from sft.trainer.data import demo, prepared_data
from sft.trainer.data.rows import Rows
from sft.trainer.model import tiny

TEMPLATE = Path(__file__).with_name("everything.jinja")


@dataclass(frozen=True)
class Outcome:
    """The sequences of an input, each as text with its targets in «…», and the rows that are dropped; or a refusal."""

    trained: list[str] = field(default_factory=list)
    held_out: list[str] = field(default_factory=list)
    dropped: int = 0
    refused: list[str] = field(default_factory=list)


def make_model(folder: Path) -> Path:
    """Make the tiny model, its tokenizer learnt from the demo's rows. Return its folder."""
    demo.write(folder / "data")
    texts = (folder / "data" / "train.jsonl").read_text(encoding="utf-8").splitlines()[:500]
    tiny.make(folder / "model", texts, seed=0)
    return folder / "model"


def outcome(path: Path, model: Path, cache: Path, **settings: str) -> Outcome:
    """Return what is made of an input, in the two steps of `make train`: the first look, then preparing."""
    given = {"chat_template": str(TEMPLATE), "data_path": str(cache), "dataset": str(path)} | settings
    try:
        chosen = load(None, None, **given)
        look.check_first_rows(path, chosen)
        with contextlib.redirect_stderr(io.StringIO()):  # which file is for what
            folder, found = prepared_data.prepared_data(chosen, model)
    except SftError as error:
        return Outcome(refused=[line.replace(f"{path.parent}/", "") for line in str(error).splitlines()])
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    trained, held_out = (texts(Rows(folder / split), tokenizer) for split in ("train", "validation"))
    return Outcome(trained, held_out, found.train.dropped_rows + found.validation.dropped_rows)


def texts(rows: Rows, tokenizer: transformers.PreTrainedTokenizerBase) -> list[str]:
    """Return sequences as text, without the BOS token, with every run of targets in «…»."""
    found = []
    for number in range(len(rows)):
        ids, is_target = rows[number]
        runs = itertools.groupby(zip(ids.tolist(), is_target.tolist(), strict=True), key=lambda pair: pair[1])
        parts = [(marked, str(tokenizer.decode([token for token, _ in run]))) for marked, run in runs]
        text = "".join(f"«{part}»" if marked else part for marked, part in parts)
        found.append(text.removeprefix(tiny.BOS))
    return found
