"""What `inv test-env` says of the hub, the token, memory and disk: what a run with these settings would meet."""

import io
import json
import os
from dataclasses import replace
from types import SimpleNamespace

import pytest
from rich.console import Console

from sft import resources
from sft.errors import RunFailed, SettingsError
from sft.host import check_lines, gpus
from sft.host.check import Check, CheckRecord
from sft.host.doctor import hardware, hub, installation, machine, start, template
from sft.host.folders import make_folders
from sft.host.gpus import Gpu
from sft.host.launch.launcher import LAUNCHERS
from sft.host.plan import disk
from sft.run.records import TemplateFacts
from sft.settings.load import load
from sft.settings.stages import Resolved, resolve


def test_the_form_of_a_hub_token_is_checked():
    assert hub.token(load(None)).level == "ok"
    assert hub.token(load(None, huggingface_api_key="hf_" + "a" * 34)).level == "ok"
    assert hub.token(load(None, huggingface_api_key="gho_" + "a" * 34)).level == "failure"


def test_what_is_here_needs_no_hub(tmp_path):
    assert hub.model(load(None, model_name="tiny")).found == "tiny is on this machine"
    snapshot = tmp_path / "models--org--model" / "snapshots" / "main"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    settings = load(None, model_name="org/model", model_path=tmp_path)
    assert not disk.has_weights(settings)
    (snapshot / "model.safetensors").touch()
    assert hub.model(settings).level == "ok"
    names = [check.name for check in hub.checks(load(None, model_name="tiny", dataset="demo"))]
    assert names == ["hub token", "model"]


@pytest.fixture
def free(monkeypatch):
    """Let every file system have so many bytes free."""

    def tell(number):
        monkeypatch.setattr(disk, "free_bytes", lambda path: number)

    return tell


def needed(folder, **settings):
    folders = {name: folder / name for name in ("runs_path", "model_path", "data_path")}
    return disk.need(resolve(load(None, **folders | settings), settings.get("device", "cuda"), "local"))


def test_the_disk_that_a_run_needs_follows_from_its_checkpoints(tmp_path):
    one_b = needed(tmp_path)
    assert one_b.checkpoint == 12 * 1_235_814_400 and one_b.checkpoints == 3
    assert one_b.runs == 3 * one_b.checkpoint and one_b.model == one_b.final == 2 * 1_235_814_400
    assert needed(tmp_path, ds_config="zero2").checkpoint == 14 * 1_235_814_400
    assert needed(tmp_path, keep_checkpoints=1).checkpoints == 2
    assert needed(tmp_path, save_steps=0).checkpoints == 1
    assert needed(tmp_path, max_steps=30, save_steps=20).checkpoints == 2  # at step 20 and after the last one
    adapter = needed(tmp_path, lora_rank=16)
    assert adapter.checkpoint < 0.2e9 and adapter.runs == 2 * adapter.checkpoint + adapter.final
    assert needed(tmp_path, model_name="org/unknown") is None
    assert needed(tmp_path, model_name="tiny", dataset="demo", device="cpu").runs < 20e6


def test_what_a_resumed_run_has_already_is_not_needed_again(tmp_path):
    folder = tmp_path / "runs_path" / "mine" / "checkpoints" / "step-000100"
    folder.mkdir(parents=True)
    with (folder / "shard").open("wb") as file:
        file.truncate(10**9)
    assert needed(tmp_path, run_name="mine").runs == needed(tmp_path).runs - 10**9
    assert needed(tmp_path, run_name="mine", fresh=True).runs == needed(tmp_path).runs


def test_a_disk_that_is_too_small_is_refused_before_the_run(tmp_path, free):
    folders = {name: tmp_path / name for name in ("runs_path", "model_path", "data_path")}
    settings = resolve(load(None, **folders), "cuda", "local")
    free(60e9)
    assert disk.check(settings) == [] and [check.level for check in hardware.disks(settings)] == ["ok"]
    free(40e9)
    with pytest.raises(SettingsError) as caught:
        disk.check(settings)
    assert str(caught.value) == (
        f"RUNS_PATH={tmp_path}/runs_path: 40.0 GB are free, this run needs 47.0 GB "
        "(3 checkpoints of 14.8 GB, final/ 2.5 GB); "
        "set KEEP_CHECKPOINTS=1, make room, or set RUNS_PATH to a folder on a larger disk"
    )
    (found,) = hardware.disks(settings)
    assert found.level == "failure" and found.values["checkpoint_bytes"] == 12 * 1_235_814_400
    assert found.values["settings"] == "RUNS_PATH, MODEL_PATH, DATA_PATH"
    assert len(disk.check(Resolved.of(settings, plan="warn"))) == 1
    free(20e9)
    (found,) = hardware.disks(settings)
    assert found.remedy == "make room, or set RUNS_PATH to a folder on a larger disk"  # KEEP_CHECKPOINTS=1 is too much


def test_each_file_system_is_asked_for_its_own_part(tmp_path, monkeypatch):
    settings = load(None, **{name: tmp_path / name for name in ("runs_path", "model_path", "data_path")})
    for name in ("runs_path", "model_path", "data_path"):
        (tmp_path / name).mkdir()
    stat = os.stat
    monkeypatch.setattr(
        disk.os, "stat", lambda path, **more: SimpleNamespace(st_dev=7) if path.name == "model_path" else stat(path)
    )
    need = disk.need(resolve(settings, "cuda", "local"))
    found = {place.settings: place.needed for place in disk.places(settings, need)}
    assert found == {("RUNS_PATH", "DATA_PATH"): need.runs + need.data, ("MODEL_PATH",): need.model}


def test_folders_that_a_run_could_not_write_are_found_by_the_check_and_by_the_run(tmp_path):
    (tmp_path / "runs").symlink_to("/no/disk/here")
    (tmp_path / "file").touch()
    settings = load(None, runs_path=tmp_path / "runs", data_path=tmp_path / "file", model_path=tmp_path / "file" / "a")
    lines = [
        f"RUNS_PATH={tmp_path}/runs: cannot be written (it is a link to /no/disk/here, which is not there)",
        f"DATA_PATH={tmp_path}/file: cannot be written (it is a file)",
        f"MODEL_PATH={tmp_path}/file/a: cannot be written ({tmp_path}/file is a file)",
    ]
    with pytest.raises(SettingsError) as caught:
        make_folders(settings)
    assert sorted(line.split("; ")[0] for line in caught.value.problems) == sorted(lines)
    checks = start.checks(settings, LAUNCHERS["local"]())
    found = [check.found for check in checks if check.name == "folders"]
    assert sorted(found) == sorted(lines)


def test_what_make_train_would_refuse_is_a_failure(tmp_path, free, monkeypatch):
    free(1e12)
    monkeypatch.setattr(resources, "available_bytes", lambda: 64 * 2**30)
    folders = {name: tmp_path / name for name in ("runs_path", "model_path", "data_path")}
    monkeypatch.setattr(gpus, "facts", lambda: [])
    good = {check.name: check for check in start.decided(load(None, model_name="tiny", **folders), False)}
    assert good["run"].level == "ok" and good["run"].values == {"launcher": "local", "gpus": 0}
    (bad,) = [check for check in start.decided(load(None, **folders), False) if check.level == "failure"]
    assert bad.name == "run" and bad.found.startswith("DEVICE=auto: no NVIDIA GPU is visible here")
    assert all(check.level == "ok" for check in start.decided(load(None, **folders), True))
    card = Gpu(0, "NVIDIA GeForce RTX 4090", 0, 0.0, 24.0, 40, 50.0, "580.1", "GPU-0", (8, 9))
    monkeypatch.setattr(gpus, "facts", lambda: [replace(card, index=i, uuid=f"GPU-{i}") for i in range(4)])
    found = {check.name: check for check in start.decided(load(None, launcher="local", **folders), False)}
    assert found["plan"].level == "ok" and found["plan"].values["usable_gib"] == 23.04
    assert found["host memory"].values["with_copy_gib"] > 13
    large = load(None, launcher="local", model_name="meta-llama/Llama-3.1-8B", **folders)
    (bad,) = [check for check in start.decided(large, False) if check.level == "failure"]
    assert bad.name == "plan" and "needs" in bad.found and "LORA_RANK=16" in bad.remedy


def test_what_an_image_lacks_is_said(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    settings = load(None, launcher="compose", lora_base_bits=4, lora_rank=8, ds_config="zero2")
    found = installation.extras(settings)
    assert found.level == "failure" and found.remedy == "set QLORA=1 in .env, and `make setup`"
    (tmp_path / ".env").write_text("QLORA=1\n")
    assert installation.extras(settings).level == "ok"


def test_what_is_wrong_with_model_or_data_is_a_failure(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"question": "a"}\n')
    (found,) = start.model_and_data(load(None, model_name="tiny", dataset=str(tmp_path / "rows.jsonl")))
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


@pytest.mark.parametrize(
    ("name", "words", "left_out"),
    [
        ("local", "everything is checked", set()),
        ("compose", "in the nodes' containers", {"packages", "torch", "all-reduce"}),
        ("slurm", "LAUNCHER=local", {"packages", "torch", "all-reduce", "GPUs", "port", "memory", "CPU"}),
    ],
)
def test_what_is_checked_here_depends_on_the_launcher(monkeypatch, tmp_path, name, words, left_out):
    monkeypatch.setattr(gpus, "facts", lambda: [])
    monkeypatch.setattr(machine.kernel, "check", lambda settings: Check("torch", "ok", ""))
    monkeypatch.setattr(machine, "all_reduce", lambda settings: Check("all-reduce", "ok", ""))
    monkeypatch.setattr(machine.disk_speed, "check", lambda settings: Check("disk speed", "ok", ""))
    settings = load(None, model_name="tiny", dataset="demo", launcher=name, runs_path=tmp_path, data_path=tmp_path)
    found = {check.name: check for check in machine.checks(settings, LAUNCHERS[name]())}
    everything = {"packages", "torch", "all-reduce", "GPUs", "port", "memory", "CPU", "disk speed"}
    assert words in found["launcher"].found and everything - found.keys() == left_out
