"""What `inv test-env` says of the hub, the token, memory and disk: what a run with these settings would meet."""

import io
import json
from dataclasses import replace

from rich.console import Console

from sft.errors import RunFailed
from sft.host import check_lines
from sft.host.check import Check, CheckRecord
from sft.host.doctor import accounts, hardware, installation, machine, template
from sft.run.records import TemplateFacts
from sft.settings.load import load


def test_a_gated_model_without_a_token_is_named_before_the_download(tmp_path):
    gated = accounts.hub_token(load(None, model_path=tmp_path))
    assert gated.level == "warning" and "meta-llama/Llama-3.2-1B-Instruct is a gated model" in gated.found
    assert accounts.hub_token(load(None, model_name="tiny")).level == "ok"
    assert accounts.hub_token(load(None, model_name="Qwen/Qwen3-0.6B", model_path=tmp_path)).level == "ok"


def test_memory_and_disk_are_held_against_what_the_settings_need(tmp_path):
    def needed(**settings):
        return hardware.needed_gb(load(None, model_path=tmp_path, **settings), checkpoints=3)

    assert needed(model_name="tiny") < 0.1
    one_b = needed()
    assert 55 < one_b < 75 and needed(model_name="meta-llama/Llama-3.1-8B") > 6 * one_b
    assert needed(lora_rank=16) < 8
    assert needed(model_name="org/unknown") == 0
    assert hardware.amount("disk", 40, 5, needed_gb=64, remedy="lower it").level == "warning"
    assert hardware.amount("disk", 3, 5, needed_gb=64, remedy="lower it").remedy == "64 GB are needed"
    assert hardware.amount("disk", 40, 5, needed_gb=0.02, remedy="lower it") == Check("disk", "ok", "40 GB")


def test_what_an_image_lacks_is_said(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    settings = load(None, launcher="compose", lora_base_bits=4, lora_rank=8, ds_config="zero2")
    found = installation.extras(settings)
    assert found.level == "failure" and found.remedy == "set QLORA=1 in .env, and `make setup`"
    (tmp_path / ".env").write_text("QLORA=1\n")
    assert installation.extras(settings).level == "ok"


def test_what_is_wrong_with_model_or_data_is_a_failure(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"question": "a"}\n')
    found = machine.model_and_data(load(None, model_name="tiny", dataset=str(tmp_path / "rows.jsonl")))
    assert found.level == "failure" and "RESPONSE_COLUMN=answer: no row of" in found.found


def template_check(line, code=0):
    return template.result(line, code)


def test_what_is_found_out_about_the_chat_template_is_one_line():
    facts = TemplateFacts(
        source="the model's own", templates={}, end_mark="<|im_end|>", end_is_appended=False, stops=[1], added_stops=[],
        said=["the chat template writes earlier answers in another way: each answer is a sequence of its own"],
    )  # fmt: skip
    found = template_check(json.dumps(facts.to_json()))
    assert found.level == "ok" and found.found.startswith("the model's own; answers end with <|im_end|>; the chat")


def test_a_chat_template_that_cannot_be_used_is_a_failure_with_its_remedy():
    found = template_check('{"error": "MODEL_NAME=x: its chat template takes no answer; set CHAT_TEMPLATE"}', 2)
    said = "MODEL_NAME=x: its chat template takes no answer"
    assert found == Check("chat template", "failure", said, "set CHAT_TEMPLATE")
    for line in ("", "Killed", "[]", "{}"):
        assert template_check(line, -9).level == "failure", line


def test_no_program_looks_at_a_tokenizer_that_is_not_here(tmp_path):
    for name in ("tiny", "org/model"):
        with template.started(load(None, model_name=name, model_path=tmp_path)) as process:
            assert process is None and template.check(process).level == "ok"


def told(*checks):
    """Return what is printed of checks, and the error that follows."""
    console = Console(file=io.StringIO(), width=200)
    console.soft_wrap = True
    error = ""
    try:
        check_lines.report(checks, console)
    except RunFailed as failed:
        error = str(failed)
    return console.file.getvalue().splitlines(), error


def test_failures_come_last_one_line_each():
    lines, error = told(
        Check("a", "failure", "wrong", "do this"), Check("b", "ok", "fine"), Check("c", "warning", "slow", "do that"),
        Check("d", "failure", "also wrong", "do so", where="llm-worker"),
    )  # fmt: skip
    assert [line.strip() for line in lines] == [
        "ok  b: fine", "warning  c: slow; do that", "failure  a: wrong; do this",
        "failure  llm-worker: d: also wrong; do so",
    ]  # fmt: skip
    assert error == "2 checks failed; see the remedies above"
    assert told(Check("c", "warning", "slow", "do that"))[1] == ""


def test_a_terminal_gets_lines_of_80_columns():
    console = Console(file=io.StringIO(), width=120, force_terminal=True, color_system=None)
    check_lines.show(Check("disk", "warning", "word " * 30, "another one"), console)
    lines = console.file.getvalue().splitlines()
    assert len(lines) == 3 and all(len(line) <= 80 for line in lines) and lines[1].startswith(" " * 10 + "word")


def test_json_has_the_values_behind_the_words():
    check = Check("disk", "warning", "40 GB", "lower it", values={"free_bytes": 40_000_000_000})
    assert CheckRecord.from_json(json.loads(json.dumps(check.record().to_json()))).check("node") == replace(
        check, where="node"
    )
