"""The forms of other trainers and of known data sets train the same tokens, with the same targets, as `messages`."""

import csv
import json

import pyarrow
import pyarrow.parquet
import pytest

from sft.settings.load import load
from sft.trainer.data import prepared_data
from sft.trainer.data.rows import Rows
from tests.cases.outcome import TEMPLATE

SYSTEM = "Answer in one word."
TURNS = [("Snow is?", "White"), ("And coal?", "Black"), ("And [1, 2]?", " Numbers. ")]
(ASK, ANSWER), (ASK_2, ANSWER_2) = TURNS[:2]


def chat(turns, names, system=SYSTEM):
    """Return turns as a list of messages; `names`: of the two keys and the three roles."""
    key, text, *roles = names
    said = [(roles[0], system)] if system else []
    said += [(role, words) for turn in turns for role, words in zip(roles[1:], turn, strict=True)]
    return [{key: role, text: words} for role, words in said]


OPENAI = ("role", "content", "system", "user", "assistant")
SHAREGPT = ("from", "value", "system", "human", "gpt")
LAST = ("And\n[1, 2]?", " Numbers. ")
HISTORY = [*TURNS[:2], LAST]
FORMS = {
    "messages": {"messages": chat(HISTORY, OPENAI)},
    "alpaca of LLaMA-Factory": {
        "instruction": "And", "input": "[1, 2]?", "output": " Numbers. ", "system": SYSTEM, "history": TURNS[:2],
    },
    "ShareGPT of axolotl": {"conversations": chat(HISTORY, SHAREGPT)},
    "ShareGPT of LLaMA-Factory": {
        "conversations": chat(HISTORY, SHAREGPT, system=""), "system": SYSTEM, "tools": "[]",
    },
    "history of ms-swift": {"query": LAST[0], "response": LAST[1], "system": SYSTEM, "history": TURNS[:2]},
    "chat_template of axolotl": {"messages": chat(HISTORY, ("speaker", "text", "system", "user", "assistant"))},
    "pygmalion of axolotl": {"conversations": chat(HISTORY, ("role", "value", "system", "human", "bot"))},
    "weights of SlimOrca": {
        "conversations": [turn | {"weight": 0 if turn["from"] != "gpt" else 1} for turn in chat(HISTORY, SHAREGPT)]
    },
    "Bedrock": {
        "system": [{"text": SYSTEM}],
        "messages": [turn | {"content": [{"text": turn["content"]}]} for turn in chat(HISTORY, OPENAI, system="")],
    },
    "Vertex AI": {
        "systemInstruction": {"role": "system", "parts": [{"text": SYSTEM}]},
        "contents": [
            {"role": role, "parts": [{"text": text}]}
            for turn in HISTORY
            for role, text in zip(("user", "model"), turn, strict=True)
        ],
    },
    "Cohere": {"messages": chat(HISTORY, ("role", "content", "System", "User", "Chatbot"))},
    "NeMo": {
        "system": SYSTEM, "mask": "User",
        "conversations": chat(HISTORY, ("from", "value", "System", "User", "Assistant"), system=""),
    },
    "XTuner": {
        "conversation": [
            {"input": ask, "output": answer} | ({"system": SYSTEM} if ask == ASK else {}) for ask, answer in HISTORY
        ]
    },
    "Capybara": {"system": SYSTEM, "conversation": [{"input": ask, "output": answer} for ask, answer in HISTORY]},
    "UltraChat": {"system": SYSTEM, "data": [text for turn in HISTORY for text in turn]},
}  # fmt: skip
ONE = chat(TURNS[2:], OPENAI)
OF_ONE_ANSWER = {
    "messages": {"messages": ONE},
    "prompt and completion of TRL": {"prompt": ONE[:2], "completion": ONE[2:]},
    "OpenOrca of axolotl": {"system_prompt": SYSTEM, "question": TURNS[2][0], "response": TURNS[2][1]},
}
IN_TWO_COLUMNS = {
    "messages": {"messages": chat(TURNS[:1], OPENAI, system="")},
    "UltraChat 200k": {"messages": chat(TURNS[:1], OPENAI, system=""), "prompt": ASK},
    "NuminaMath": {"messages": chat(TURNS[:1], OPENAI, system=""), "problem": ASK, "solution": ANSWER},
    "OpenHermes": {"conversations": [turn | {"weight": None} for turn in chat(TURNS[:1], SHAREGPT, system="")]},
} | {
    f"{prompt} and {response}": {prompt: ASK, response: ANSWER}
    for prompt, response in (
        ("question", "answer"), ("prompt", "completion"), ("instruction", "output"), ("instruction", "response"),
        ("query", "response"), ("prompt", "generation"), ("problem", "solution"), ("input", "output"),
        ("input", "target"), ("inputs", "targets"), ("user", "assistant"), ("question", "final_answer"),
        ("INSTRUCTION", "RESPONSE"), ("message_1", "message_2"), ("input_text", "output_text"),
        ("Open-ended Verifiable Question", "Ground-True Answer"),
    )
}  # fmt: skip
TWO = chat(TURNS[:2], OPENAI, system="")
WITH_CONTEXT = {
    "weights of OpenAI": {"messages": [*TWO[:1], TWO[1] | {"weight": 0}, *TWO[2:]]},
    "train of axolotl": {"messages": [*TWO[:1], TWO[1] | {"train": False}, *TWO[2:]]},
    "training of axolotl": {"messages": [*TWO[:1], TWO[1] | {"training": False}, *TWO[2:]]},
    "loss of ms-swift": {"messages": [*TWO[:1], TWO[1] | {"loss": False}, *TWO[2:]]},
    "prompt and completion of TRL": {"prompt": TWO[:3], "completion": TWO[3:]},
    "preference of OpenAI": {
        "columns": {"input.messages": "prompt", "preferred_output": "response"},
        "input": {"messages": TWO[:3]}, "preferred_output": TWO[3:],
    },
    "preference of LLaMA-Factory": {
        "columns": {"conversations": "prompt", "chosen": "response"},
        "conversations": chat(TURNS[:2], SHAREGPT, system="")[:3], "chosen": {"from": "gpt", "value": ANSWER_2},
    },
}  # fmt: skip
SCHEMA = {
    "name": "weather", "description": "of a town",
    "parameters": {"type": "object", "properties": {"town": {"type": "string"}}},
}  # fmt: skip
CALL = {"name": "weather", "arguments": {"town": "Oslo"}}
AS_TEXT = {"id": "c1", "type": "function", "function": CALL | {"arguments": json.dumps(CALL["arguments"])}}
CALLED = {
    "OpenAI": {
        "tools": [{"type": "function", "function": SCHEMA}],
        "messages": [{"role": "user", "content": ASK}, {"role": "assistant", "content": None, "tool_calls": [AS_TEXT]}],
    },
    "functions of OpenAI": {
        "functions": [SCHEMA],
        "messages": [
            {"role": "user", "content": ASK},
            {"role": "assistant", "content": None, "function_call": AS_TEXT["function"]},
        ],
    },
    "Mistral": {
        "tools": [{"type": "function", "function": SCHEMA}],
        "messages": [{"role": "user", "content": ASK}, {"role": "assistant", "content": "", "tool_calls": [AS_TEXT]}],
    },
    "glaive of LLaMA-Factory": {
        "tools": json.dumps([SCHEMA]),
        "conversations": [{"from": "human", "value": ASK}, {"from": "function_call", "value": json.dumps(CALL)}],
    },
    "xLAM": {"tools": json.dumps([SCHEMA]), "query": ASK, "answers": json.dumps([CALL])},
}
INSIDE = {
    "messages": {"messages": chat(TURNS[:1], OPENAI, system="")},
    "SQuAD": {"columns": {"answers.text.0": "response"}, "question": ASK, "answers": {"text": [ANSWER, "x"]}},
    "verl": {
        "columns": {"prompt": "unused", "extra_info.question": "prompt", "extra_info.answer": "response"},
        "prompt": [{"role": "user", "content": "x"}], "extra_info": {"question": ASK, "answer": ANSWER},
    },
    "OpenR1": {
        "columns": {"problem": "prompt", "generations.1": "response"}, "problem": ASK, "generations": ["x", ANSWER],
    },
}  # fmt: skip


def write_jsonl(path, row):
    path.with_suffix(".jsonl").write_text(json.dumps(row) + "\n")


def write_csv(path, row):
    with path.with_suffix(".csv").open("w", newline="") as file:
        csv.writer(file).writerows([row, [v if isinstance(v, str) else json.dumps(v) for v in row.values()]])


def write_parquet(path, row):
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), path.with_suffix(".parquet"))


GROUPS = (FORMS, OF_ONE_ANSWER, IN_TWO_COLUMNS, WITH_CONTEXT, CALLED, INSIDE)


@pytest.mark.parametrize("write", [write_jsonl, write_csv, write_parquet])
@pytest.mark.parametrize("rows", GROUPS)
def test_rows_of_every_form_are_the_same_tokens(rows, write, tmp_path, tiny):
    trained = {}
    for number, (name, row) in enumerate(rows.items()):
        folder = tmp_path / str(number)
        folder.mkdir()
        columns, content = row.get("columns", {}), {key: value for key, value in row.items() if key != "columns"}
        for split in ("train", "validation"):
            write(folder / split, content)
        settings = load(
            None, dataset=str(folder), data_path=tmp_path / "data", columns=json.dumps(columns),
            chat_template=str(TEMPLATE), use_columns="warn" if columns else "refuse",
        )  # fmt: skip
        prepared, _ = prepared_data.prepared_data(settings, tiny)
        split = Rows(prepared / "train")
        sequences = (split[i] for i in range(len(split)))
        trained[name] = [(ids.tolist(), is_target.tolist()) for ids, is_target in sequences]
    first = next(iter(trained.values()))
    assert trained == dict.fromkeys(rows, first) and any(first[0][1])
