"""Models whose answers do not end with their EOS are trained to the end: every answer stops, wherever it is asked for.

Three kinds of chat template, each with the tiny model: ChatML on a base model, whose EOS is another token; answers that
end where the next turn begins; a generation prompt that opens a block of reasoning, which no answer of the data has.
"""

import itertools
import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import transformers

from sft.run import typed_json
from sft.run.directory import Run
from sft.run.records import Prepared
from sft.settings.load import DEMO_SETTINGS
from sft.trainer.data.rows import Rows

QUESTIONS = 50
MAX_NEW_TOKENS = 32


@dataclass(frozen=True)
class Kind:
    """A kind of template."""

    template: str
    marks: tuple[str, ...]  # tokens that the tokenizer gets
    more_stops: tuple[str, ...]  # at which the base model stops by its generation configuration
    end: str  # the token that ends an answer
    said: str  # about the template, when the run starts


KINDS = {
    "chatml": Kind(
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
        ("<|im_start|>", "<|im_end|>"), (), "<|im_end|>", "<|im_end|>",
    ),
    "next-role": Kind(
        "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}",
        ("<|user|>", "<|assistant|>"), ("<|user|>",), "<|user|>", "<|user|>",
    ),
    "reasoning": Kind(
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}"
        "{{ '<|answer|>' + m.content.split('</think>')[-1] + eos_token }}"
        "{% else %}{{ '<|question|>' + m.content }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|answer|><think>\n' }}{% endif %}",
        ("<|question|>", "<|answer|>", "<think>", "</think>"), (), "</s>", "<think>",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Trained:
    """A finished run, and what its `final/` answers by itself."""

    kind: Kind
    run: Run
    said: str  # what was printed
    rows: Rows  # that are held out
    prompts: list[list[int]]
    answers: list[list[int]]  # of `generate`, with the folder's own generation configuration


def base_model(kind: Kind, tiny: Path, folder: Path) -> Path:
    """Write the tiny model with another template, and with the marks of that template as tokens."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny)
    tokenizer.add_tokens(list(kind.marks))
    tokenizer.chat_template = kind.template
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    stops = [tokenizer.eos_token_id, *map(tokenizer.convert_tokens_to_ids, kind.more_stops)]
    model.generation_config.eos_token_id = stops if kind.more_stops else tokenizer.eos_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=KINDS)
def trained(request, project, tiny, tmp_path_factory):
    kind, run = KINDS[request.param], Run(project.path / "runs" / request.param)
    settings = {key.upper(): value for key, value in DEMO_SETTINGS.items()}
    settings |= {"MODEL_NAME": base_model(kind, tiny, tmp_path_factory.mktemp("base")), "RUN_NAME": run.name}
    settings |= {"NODES": 1, "BATCH_SIZE": 32, "MAX_EPOCHS": 3, "SAVE_STEPS": 0, "WANDB_MODE": "disabled"}
    done = project.inv("train", **settings | {"EVAL_LIMIT": 100, "MAX_NEW_TOKENS": MAX_NEW_TOKENS})
    assert done.returncode == 0, done.stdout
    rows = Rows(project.path / typed_json.read(run.prepared, Prepared).data / "validation")
    tokenizer = transformers.AutoTokenizer.from_pretrained(run.final)
    model = transformers.AutoModelForCausalLM.from_pretrained(run.final)
    chats = [[{"role": "user", "content": texts.prompt}] for texts in itertools.islice(rows.texts(), QUESTIONS)]
    prompts = [tokenizer.apply_chat_template(chat, add_generation_prompt=True).input_ids for chat in chats]
    tokenizer.padding_side = "left"
    batch = tokenizer.pad({"input_ids": prompts}, return_tensors="pt")
    with torch.no_grad():
        output = model.generate(**batch, max_new_tokens=MAX_NEW_TOKENS, do_sample=False)
    answers = [without_padding(ids, model) for ids in output[:, batch["input_ids"].shape[1] :].tolist()]
    return Trained(kind, run, done.stdout, rows, prompts, answers)


def without_padding(ids: list[int], model: transformers.PreTrainedModel) -> list[int]:
    """Return generated tokens without the padding behind the first end mark."""
    ends = model.generation_config.eos_token_id
    return ids[: 1 + next((at for at, token in enumerate(ids) if token in ends), len(ids))]


def evaluated(run: Run) -> list[dict[str, str]]:
    """Return the answers of the evaluation after training to the first rows."""
    lines = [json.loads(line) for line in run.answers.read_text().splitlines()]
    return sorted((line for line in lines if line["moment"] == "after"), key=lambda line: line["index"])[:QUESTIONS]


def test_it_has_learnt_to_answer_and_to_stop(trained):
    after = json.loads(trained.run.evaluation.read_text())["after"]
    assert after["exact_match_flexible"] >= 0.95 and after["cut_answers"] == 0, after


def test_what_is_unusual_is_said_when_it_starts(trained):
    (line,) = [line for line in trained.said.splitlines() if line.strip().startswith("template:")][:1]
    assert trained.kind.said in line


def test_the_final_model_is_asked_as_evaluation_asks(trained):
    assert trained.prompts == [trained.rows.prompt_ids(index) for index in range(QUESTIONS)]


def test_the_final_model_stops_by_itself(trained):
    tokenizer = transformers.AutoTokenizer.from_pretrained(trained.run.final)
    assert {tokenizer.convert_ids_to_tokens(ids[-1]) for ids in trained.answers} == {trained.kind.end}
    found = [tokenizer.decode(ids[:-1]) for ids in trained.answers]
    assert found == [line["generated"] for line in evaluated(trained.run)]
    configured = json.loads((trained.run.final / "generation_config.json").read_text())
    assert configured["eos_token_id"] == typed_json.read(trained.run.prepared, Prepared).template.stops


def test_a_chat_gives_the_answers_of_evaluation_character_for_character(trained):
    lines = evaluated(trained.run)
    tokenizer = transformers.AutoTokenizer.from_pretrained(trained.run.final, padding_side="left")
    chat = transformers.pipeline("text-generation", model=str(trained.run.final), tokenizer=tokenizer)
    chats = [[{"role": "user", "content": line["prompt"]}] for line in lines]
    options = {"max_new_tokens": MAX_NEW_TOKENS, "do_sample": False, "return_full_text": False, "batch_size": 25}
    texts = [found["generated_text"] for (found,) in chat(chats, **options)]
    if "<think>" in trained.kind.marks:  # nobody tells the library where reasoning ends
        assert texts == [line["generated"] for line in lines]
        texts = [text.rpartition("</think>")[2].lstrip() for text in texts]
    assert texts == [line["answer"] for line in lines]
