"""Settings: sources, limits, contradictions, and that every problem is reported at once."""

import json

import pytest
from pydantic import ValidationError

from sft.errors import SettingsError
from sft.settings import deepspeed
from sft.settings.fields import Settings
from sft.settings.load import ELSEWHERE, load, thaw
from sft.settings.stages import Decided, Effective, resolve, without_plan
from tests.settings import decided


def test_seed_defaults():
    settings = load(None)
    assert settings.model_name == "meta-llama/Llama-3.2-1B-Instruct"
    assert (settings.batch_size, settings.max_epochs, settings.peak_learning_rate) == (4, 2, 1e-6)
    assert settings.master_port == 37171
    assert settings.sequences_per_step == 16


def test_environment_overrides_file(tmp_path, monkeypatch):
    env = tmp_path / ".env"
    env.write_text("BATCH_SIZE=8\nSEED=7\n")
    monkeypatch.setenv("BATCH_SIZE", "2")
    settings = load(env)
    assert (settings.batch_size, settings.seed) == (2, 7)


def test_all_problems_at_once_and_no_secret_in_them(tmp_path):
    env = tmp_path / ".env"
    env.write_text("BATCH_SIZE=0\nPRECISION=bf61\nBATCHSIZE=3\nDATASET=./nowhere\n")
    with pytest.raises(SettingsError) as caught:
        load(env)
    assert caught.value.problems == [
        f"BATCHSIZE: no such setting (from {env}); did you mean BATCH_SIZE?",
        "BATCH_SIZE=0: is out of range; use at least 1",
        "PRECISION=bf61: is not one of the choices; use 'auto', 'bf16', 'fp16' or 'fp32'",
        "DATASET=./nowhere: no such file or folder; check the path, or give a hub name such as openai/gsm8k",
    ]
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("path", ["$HOME/runs", "${HOME}/runs"])
def test_a_variable_of_the_shell_in_the_file_is_no_folder_of_that_name(tmp_path, path):
    (tmp_path / ".env").write_text(f"RUNS_PATH={path}\n")
    with pytest.raises(SettingsError) as caught:
        load(tmp_path / ".env")
    assert caught.value.problems == [
        f"RUNS_PATH={path}: begins with a variable, which only a shell replaces; correct it"
    ]


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("COLUMNS", "{hint: input}", 'is not a JSON object such as {"hint": "input"}; correct it'),
        ("CHAT_TEMPLATE_ARGUMENTS", "{", 'is not a JSON object such as {"enable_thinking": false}; correct it'),
        ("RUN_NAME", "latest", "is the name of the link to the newest run; use "),
        ("RUN_NAME", "-x", "is not a valid name; use a letter or digit of ASCII, then "),
    ],
)
def test_what_is_said_of_a_value_is_about_that_setting(name, value, said):
    with pytest.raises(SettingsError) as caught:
        load(None, **{name.lower(): value})
    assert len(caught.value.problems) == 1 and caught.value.problems[0].startswith(f"{name}={value}: {said}")


def test_misspelt_make_variable(monkeypatch):
    monkeypatch.setenv("MAKE_SETTINGS", "LEARNING_RAT=1 PYTHON=python3")
    with pytest.raises(SettingsError, match="did you mean LEARNING_RATE"):
        load(None)


@pytest.mark.parametrize(
    ("name", "meant"),
    [("LR", "LEARNING_RATE"), ("MODEL", "MODEL_NAME"), ("EPOCHS", "MAX_EPOCHS"), ("LORA_R", "LORA_RANK")],
)
def test_what_other_trainers_call_a_setting_is_known(monkeypatch, name, meant):
    monkeypatch.setenv("MAKE_SETTINGS", f"{name}=3")
    with pytest.raises(SettingsError, match=f"^{name}: no such setting \\(from make\\); did you mean {meant}\\?$"):
        load(None)


def test_every_name_of_other_trainers_is_another_than_ours():
    known = {name.upper() for name in Settings.model_fields}
    assert not known & set(ELSEWHERE) and set(ELSEWHERE.values()) <= known


@pytest.mark.parametrize("value", ["1e-4x", "nan", "2.5", "9" * 5000, "-1", "yes please"])
def test_no_wrong_value_is_explained_in_the_words_of_a_library(value):
    with pytest.raises(SettingsError) as caught:
        load(None, **dict.fromkeys(Settings.model_fields, value))
    assert [line for line in caught.value.problems if "nput should" in line or "parsing" in line] == []
    if value == "1e-4x":
        wanted = "LEARNING_RATE=1e-4x: is not a number; use a number such as 0.001 or 1e-3 or auto"
        assert wanted in caught.value.problems and "BATCH_SIZE=1e-4x: is not a whole number; use a whole number" in (
            caught.value.problems
        )


def test_every_gpu_gets_a_sequence():
    with pytest.raises(SettingsError, match="GLOBAL_BATCH_SIZE=3: is less than NODES x GPUS_PER_NODE = 4"):
        load(None, global_batch_size=3)


def test_two_ways_to_say_the_global_batch_must_agree():
    with pytest.raises(SettingsError, match="GRADIENT_ACCUMULATION_STEPS=2: .* 32 per step, GLOBAL_BATCH_SIZE=16"):
        load(None, global_batch_size=16, gradient_accumulation_steps=2)
    assert load(None, global_batch_size=32, gradient_accumulation_steps=2).sequences_per_step == 32


def test_ds_config_contradiction_names_both(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"zero_optimization": {"stage": 3}, "bf16": {"enabled": True}}))
    with pytest.raises(SettingsError) as caught:
        load(None, ds_config=str(path), precision="fp32")
    assert "PRECISION=fp32" in str(caught.value) and 'bf16 = {"enabled": true}' in str(caught.value)


def test_deepspeed_receives_numbers_only(tmp_path):
    path = tmp_path / "auto.json"
    path.write_text(
        json.dumps(
            {"zero_optimization": {"stage": 3, "reduce_bucket_size": "auto"}, "train_micro_batch_size_per_gpu": "auto"}
        )
    )
    config = deepspeed.configuration(load(None, ds_config=str(path))).content
    assert "auto" not in json.dumps(config)
    assert config["train_micro_batch_size_per_gpu"] == 4
    assert "bf16" not in config


def test_precision_follows_the_device():
    settings = load(None)
    assert deepspeed.configuration(resolve(settings, "cuda", "local")).content["bf16"] == {"enabled": True}
    assert without_plan(resolve(settings, "cpu", "local")).precision == "fp32"
    assert deepspeed.configuration(resolve(load(None, precision="fp16"), "cuda", "local")).content["fp16"] == {
        "enabled": True
    }


def test_secrets_are_not_frozen():
    settings = decided(wandb_api_key="k" * 40, huggingface_api_key="hf_secret")
    text = json.dumps(settings.freeze())
    assert "kkkk" not in text and "hf_secret" not in text and "kkkk" not in repr(settings)
    assert thaw(json.loads(text)).model_name == settings.model_name


@pytest.mark.parametrize(
    ("name", "value", "limit"),
    [("master_port", 65535, 65534), ("nodes", 1025, 1024), ("gpus_per_node", 65, 64), ("max_steps", 2**31, 2**31 - 1)],
)
def test_whole_numbers_have_their_own_limits(name, value, limit):
    with pytest.raises(SettingsError, match=f"{name.upper()}={value}: is out of range; use at most {limit}"):
        load(None, **{name: value})


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (
            {"lora_base_bits": "4", "ds_config": "zero2"},
            "LORA_BASE_BITS=4: 4-bit weights cannot be trained themselves, and LORA_RANK=0 has no adapter; "
            "use LORA_RANK=16, or LORA_BASE_BITS=16",
        ),
        (
            {"lora_base_bits": "4", "lora_rank": 8},
            "LORA_BASE_BITS=4: DS_CONFIG=zero3 is ZeRO-3, which cannot shard 4-bit weights; use DS_CONFIG=zero2",
        ),
        ({"lora_base_bits": "8"}, "LORA_BASE_BITS=8: is not one of the choices; use 16 or 4"),
    ],
)
def test_four_bits_are_for_an_adapters_base_that_is_whole_on_every_gpu(given, problem):
    with pytest.raises(SettingsError) as caught:
        load(None, **given)
    assert caught.value.problems == [problem]
    assert load(None, lora_base_bits="4", lora_rank=8, ds_config="zero1").lora_base_bits == 4


STATES = "which has room for 32 bits; use DS_CONFIG=zero3, or OPTIMIZER_BITS=32"


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"precision": "fp32"}, "needs bf16, and PRECISION is fp32; use PRECISION=bf16, or OPTIMIZER_BITS=32"),
        ({"precision": "auto"}, "needs bf16, and PRECISION is fp32; use PRECISION=bf16, or OPTIMIZER_BITS=32"),  # CPU
        ({"ds_config": "zero3_offload"}, f"DS_CONFIG=zero3_offload offloads to main memory, {STATES}"),
        (
            {"ds_config": "zero3_offload_all"},
            f"DS_CONFIG=zero3_offload_all offloads to main memory, {STATES}",
        ),
        (
            {"lora_base_bits": "4", "lora_rank": 8, "ds_config": "zero2"},
            "with LORA_BASE_BITS=4 the optimizer has only the adapter, a few MiB; use OPTIMIZER_BITS=32",
        ),
    ],
)
def test_states_in_16_bits_are_for_bf16_on_the_gpu(given, problem):
    with pytest.raises(SettingsError) as caught:
        decided(**{"precision": "bf16", "optimizer_bits": "16"} | given)
    assert caught.value.problems == [f"OPTIMIZER_BITS=16: {problem}"]


@pytest.mark.parametrize("kind", ["zero1", "zero2", "zero3"])
def test_deepspeed_is_told_of_states_in_16_bits(kind):
    settings = decided(precision="bf16", optimizer_bits="16", ds_config=kind)
    found = deepspeed.configuration(settings).content
    assert found["bf16"] == {"enabled": True, "bf16_master_weights_and_grads": True, "bf16_optimizer_states": True}
    assert deepspeed.configuration(settings, found).content == found  # as it was when a run began
    usual = deepspeed.configuration(decided(precision="bf16", ds_config=kind)).content
    assert usual["bf16"] == {"enabled": True}
    with pytest.raises(SettingsError, match="OPTIMIZER_BITS=8: is not one of the choices; use 32 or 16"):
        load(None, optimizer_bits="8")


LOST = "with which AdamW's small updates are rounded to nothing; remove it from the file; OPTIMIZER_BITS=16 has such"


@pytest.mark.parametrize(
    ("content", "bits", "problem"),
    [
        (
            {"bf16": {"bf16_master_weights_and_grads": True}},
            32,
            f"DS_CONFIG=FILE: says bf16.bf16_master_weights_and_grads, {LOST} states, rounded stochastically",
        ),
        (
            {"fp16": {"fp16_master_weights_and_grads": True}},
            32,
            f"DS_CONFIG=FILE: says fp16.fp16_master_weights_and_grads, {LOST} states, rounded stochastically",
        ),
        (
            {"bf16": {"bf16_optimizer_states": False}},
            16,
            "OPTIMIZER_BITS=16: DS_CONFIG=FILE says bf16_optimizer_states = false; remove bf16_optimizer_states from "
            "the file, or use OPTIMIZER_BITS=32",
        ),
        (
            {"data_types": {"grad_accum_dtype": "fp32"}},
            16,
            'OPTIMIZER_BITS=16: DS_CONFIG=FILE says grad_accum_dtype = "fp32"; remove grad_accum_dtype from the file, '
            "or use OPTIMIZER_BITS=32",
        ),
        (
            {"zero_optimization": {"stage": 3, "mics_shard_size": 2}},
            16,
            "OPTIMIZER_BITS=16: DS_CONFIG=FILE says mics_shard_size = 2; remove mics_shard_size from the file, or use "
            "OPTIMIZER_BITS=32",
        ),
        ({"bf16": {"bf16_master_weights_and_grads": True, "bf16_optimizer_states": True}}, 16, ""),
        ({"bf16": {"bf16_master_weights_and_grads": "auto", "bf16_optimizer_states": False}}, 32, ""),
    ],
)
def test_a_file_may_not_round_states_to_the_nearest_value(tmp_path, content, bits, problem):
    file = tmp_path / "own.json"
    file.write_text(json.dumps({"zero_optimization": {"stage": 3}} | content))
    given = {"precision": "bf16", "optimizer_bits": str(bits), "ds_config": str(file)}
    if not problem:
        assert deepspeed.configuration(decided(**given)).has_16_bit_states == (bits == 16)
        return
    with pytest.raises(SettingsError) as caught:
        decided(**given)
    assert [line.replace(str(file), "FILE") for line in caught.value.problems] == [problem]


def test_settings_of_another_stage_ask_for_nothing_more_than_before():
    frozen = thaw(decided(master_port=40000).freeze())
    assert type(frozen) is Decided and not frozen.is_explicit("master_port")
    again = Settings.of(frozen, launcher="auto", eval_limit=3)
    assert (type(again), again.launcher, again.eval_limit) == (Settings, "auto", 3)
    assert not again.is_explicit("master_port") and again.master_port == 40000
    assert Effective.of(decided(master_port=40000)).is_explicit("master_port")


@pytest.mark.parametrize("name", ["device", "launcher", "precision", "learning_rate", "gradient_checkpointing"])
def test_nothing_is_open_in_decided_settings(name):
    with pytest.raises(ValidationError):
        Decided.of(decided(), **{name: Settings.model_fields[name].default})


def test_an_older_run_s_settings_lack_what_had_no_auto_then():
    old = decided(model_name="tiny").freeze()
    for name in ("learning_rate", "max_tokens_per_micro_step", "gradient_checkpointing"):
        del old[name]
    found = thaw(old)
    assert (found.learning_rate, found.max_tokens_per_micro_step, found.gradient_checkpointing) == (3e-3, 8192, False)


def test_an_empty_value_empties_a_setting(tmp_path, monkeypatch):
    env = tmp_path / ".env"
    env.write_text("SYSTEM_PROMPT=Be brief.\nMAX_EPOCHS=5\nSEED=7\nSEED=\nDATASET_CONFIG=de\nTRAIN_SPLIT=\n")
    written = load(env)
    assert (written.system_prompt, written.max_epochs, written.seed) == ("Be brief.", 5, 42)
    for name in ("SYSTEM_PROMPT", "MAX_EPOCHS", "DATASET_CONFIG"):
        monkeypatch.setenv(name, "")
    assert load(env) == written, "an empty variable of the shell is one that is not set"
    monkeypatch.setenv("MAKE_SETTINGS", "SYSTEM_PROMPT= MAX_EPOCHS= DATASET_CONFIG=")
    emptied = load(env)
    assert (emptied.system_prompt, emptied.max_epochs, emptied.dataset_config) == ("", 2, "main")
    of_run = load(None, defaults={"system_prompt": "Be brief.", "max_epochs": 5})
    assert (of_run.system_prompt, of_run.max_epochs) == ("", 5), "what may not be empty stays as the run has it"
