"""A model's folder whose tokenizer, configuration or template cannot be right is refused in one line before any row."""

import json
import shutil

import pytest
import transformers

from sft.errors import DataError, SettingsError
from sft.settings.load import load
from sft.trainer.data.prepared_data import tokeniser_of

from .chat_templates import chat, tokeniser, trained

ROW = chat("Q?", "None of it")


@pytest.fixture
def folder(tiny, tmp_path):
    shutil.copytree(tiny, tmp_path / "model")
    return tmp_path / "model"


def change(path, **values):
    """Change a JSON file; a value that is None goes."""
    content = json.loads(path.read_text()) | values if path.exists() else values
    path.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))


def opened(folder, **settings):
    return tokeniser_of(load(None, model_name=str(folder), **settings), folder)


@pytest.mark.parametrize(
    ("file", "values", "said"),
    [
        (
            "tokenizer_config.json",
            {"eos_token": None},
            "its tokenizer has no EOS token, so no answer would ever end; set",
        ),
        (
            "tokenizer_config.json",
            {"eos_token": "<|nope|>"},
            "it has no embedding for <|nope|>, which ends answers: only",
        ),
        ("tokenizer_config.json", {"chat_template": 3}, "its chat template is not text but int; set CHAT_TEMPLATE to"),
        ("tokenizer.json", {"added_tokens": None}, "its tokenizer cannot be loaded ('added_tokens'); check the folder"),
        ("config.json", {"model_type": None}, "its config.json cannot be loaded (Unrecognized model in "),
        (
            "config.json",
            {"model_type": "llama9"},
            f"is a llama9, which transformers {transformers.__version__} does not",
        ),
        ("config.json", {"vocab_size": "many"}, "its config.json cannot be loaded (Validation error for field "),
    ],
)
def test_what_cannot_be_right_is_one_line(folder, file, values, said):
    if "chat_template" in values:
        (folder / "chat_template.jinja").unlink()
    change(folder / file, **values)
    with pytest.raises(SettingsError) as caught:
        opened(folder)
    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"MODEL_NAME={folder}: {said}")


@pytest.mark.parametrize("stops", [[2, 99_999], [-1], 2, None])
def test_stops_that_the_model_cannot_generate_are_left_out(folder, stops):
    change(folder / "generation_config.json", eos_token_id=stops)
    found = opened(folder)
    assert found.probe.stops == [2] and trained(found, ROW) == ["<s><user>Q?<assistant>⟦None of it</s>⟧"]


def test_a_stop_without_a_token_ends_no_answer(folder):
    change(folder / "config.json", vocab_size=5000)
    change(folder / "generation_config.json", eos_token_id=[2, 4999])
    found = opened(folder)
    assert found.probe.stops == [2, 4999] and found.probe.stop_texts == ["</s>"]
    assert trained(found, ROW) == ["<s><user>Q?<assistant>⟦None of it</s>⟧"]


def test_a_row_with_a_token_that_has_no_embedding_is_named(folder):
    change(folder / "config.json", vocab_size=100)
    with pytest.raises(
        DataError, match=r"^a.jsonl:7: token \d+ \('.+'\) is beyond the 100 embeddings of the model; take"
    ):
        trained(opened(folder), ROW)


# MAX_LENGTH


def test_evaluation_asks_for_the_last_answer_that_is_there(tokenizer):
    row = chat("1?", "Ana has one", "2?", "Ana has two", "3?", "Ana has three")
    found = tokeniser(tokenizer)
    ((whole,),) = found.rows([("a.jsonl:7", row)])
    starts = [i for i, is_target in enumerate(whole.is_target) if is_target and not whole.is_target[i - 1]]
    assert (whole.prompt, whole.reference, whole.answer_start) == ("3?", "Ana has three", starts[2])
    assert (whole.counts.answers, whole.counts.target_answers, whole.is_cut) == (3, 3, False)
    for limit, number in ((starts[2], 1), (starts[1] + 2, 1), (starts[1], 0)):
        ((cut,),) = tokeniser(tokenizer, max_length=limit).rows([("a.jsonl:7", row)])
        assert (cut.prompt, cut.answer_start) == (f"{number + 1}?", starts[number])
        assert cut.reference == ("Ana has one", "Ana has two")[number] and cut.ids == whole.ids[:limit]
        assert (cut.counts.answers, cut.counts.target_answers, cut.is_cut) == (3, number + 1, True)


def test_a_row_of_several_sequences_is_counted_once_and_asked_once(tokenizer):
    own = "{% for m in messages %}{{ m.role }}: {{ m.content }}{% if loop.last %}</s>{% endif %}\n{% endfor %}"
    own += "{% if add_generation_prompt %}assistant: {% endif %}"
    tokenizer = type(tokenizer).from_pretrained(tokenizer.name_or_path)
    tokenizer.chat_template = own
    found = tokeniser(tokenizer)
    ((first, second, third),) = found.rows([("a.jsonl:7", chat("1?", "one", "2?", "two", "3?", "three"))])
    assert [sequence.answer_start >= 0 for sequence in (first, second, third)] == [False, False, True]
    assert (first.counts, second.counts) == (None, None) and third.counts.answers == third.counts.target_answers == 3
    assert (third.prompt, third.reference) == ("3?", "three")
    limit = len(second.ids)
    ((first, second),) = tokeniser(tokenizer, max_length=limit).rows(
        [("a.jsonl:7", chat("1?", "one", "2?", "two", "and so on " * 30, "three"))]
    )
    assert (second.prompt, second.reference, second.counts.target_answers) == ("2?", "two", 2)
    assert second.answer_start >= 0 and first.answer_start == -1
