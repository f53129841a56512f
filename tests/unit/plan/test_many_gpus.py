"""Plans for up to 1,024 GPUs, and for machines whose speed an earlier run has measured."""

import json

import pytest

from sft import hostfile
from sft.errors import SettingsError, UserError
from sft.host.plan import planner
from sft.host.plan.conditions import Options
from sft.run import lifecycle
from sft.settings.load import load
from tests.settings import decided

LONG = {"max_length": 2048, "global_batch_size": 1024, "evaluate": False}


def planned(gpus, hosts, link="100gbe", measured="", **settings):
    given = {"gpus": str(gpus), "hosts": str(hosts) if hosts > 1 else "", "link": link if hosts > 1 else ""}
    options = Options.of("H100", tokens_per_row="2048", rows="1000000", host_gib="2000", measured=measured, **given)
    return planner.plan_with(load(None, **LONG | settings), options)


def test_the_network_stops_more_gpus_from_being_faster():
    speed = {gpus: planned(gpus, gpus // 8).timing.tokens_per_second for gpus in (8, 64, 256, 1024)}
    assert speed[64] > 3 * speed[8] and speed[256] < 2 * speed[64] and speed[1024] < 1.1 * speed[256]


def test_what_crosses_a_hosts_network_card_hardly_grows_with_the_number_of_hosts():
    wires = [planned(gpus, gpus // 8).timing.wire_bytes for gpus in (64, 256, 1024)]
    assert wires == pytest.approx([wires[0]] * 3, rel=0.02)


def test_messages_pass_all_ranks_one_after_the_other():
    """Ranks of the 8B model, whose layers are gathered: 1,024 of them wait 3 ms for each message, and 16 not at all."""
    large = {"model_name": "meta-llama/Llama-3.1-8B", "ds_config": "zero3", "gradient_checkpointing": True}
    fast = [planned(gpus, gpus // 8, "100000", **large) for gpus in (16, 1024)]
    per_gather = [
        (plan.timing.link_s - plan.timing.link_bytes / plan.conditions.card.link_gb_s / 1e9)
        / (plan.work.micro_steps * 2 * 32)
        for plan in fast
    ]
    assert per_gather[0] < 0.0001 and 0.003 < per_gather[1] < 0.006


@pytest.mark.parametrize(
    ("gpus", "hosts", "settings", "message"),
    [
        (1024, 1, {}, "GPUS=1024: is out of range; use at most 64, or HOSTS=128 for as many machines"),
        (1000, 128, {}, "GPUS=1000: cannot be shared by 128 hosts; use a multiple of 128"),
        (1024, 128, {"global_batch_size": 512}, "GLOBAL_BATCH_SIZE=512: is less than NODES x GPUS_PER_NODE = 1024"),
    ],
)
def test_what_cannot_be_divided_is_refused(gpus, hosts, settings, message):
    with pytest.raises(UserError, match=message):
        planned(gpus, hosts, **settings)


@pytest.fixture
def earlier(tmp_path):
    """A run of one host of 8 GPUs whose steps took 8 s."""
    settings = decided(runs_path=tmp_path, run_name="before", nodes=1, gpus_per_node=8, precision="bf16", **LONG)
    run = lifecycle.create(settings, hostfile.hostfile(1, 8))
    # The first step took a minute, and the run was stopped for an hour after the sixth.
    times = [0.0, 60.0, 68.0, 76.0, 84.0, 92.0, 3700.0, 3708.0, 3716.0]
    lines = [{"step": i, "time": time, "train/tokens": 1024 * 2048} for i, time in enumerate(times)]
    run.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run


def test_the_speed_of_an_earlier_run_counts_in_place_of_the_cards(earlier, tmp_path):
    same = {"max_tokens_per_micro_step": 8192, "gradient_checkpointing": False}
    settings = {"runs_path": tmp_path, "precision": "bf16"} | same
    measured = planned(8, 1, measured="before", **settings)
    assert measured.timing.step_s == pytest.approx(8.0, rel=0.01)
    assert any("as H100's figures say: measured by before" in note for note in measured.conditions.notes)
    plain, slower = planned(64, 8, **settings), planned(64, 8, measured="before", **settings)
    assert plain.timing.wire_bytes == slower.timing.wire_bytes and plain.timing.link_s == slower.timing.link_s
    ratio = slower.timing.computing_s / plain.timing.computing_s
    assert ratio == pytest.approx(slower.timing.optimizer_s / plain.timing.optimizer_s) and 1.5 < ratio < 2.5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lora_rank": 8}, "that run had LORA_RANK=0; name a run that trains the same"),
        ({"model_name": "meta-llama/Llama-3.2-3B"}, "that run's model, .*1B-Instruct, is another one"),
    ],
)
def test_a_run_that_says_nothing_about_these_settings_is_refused(earlier, tmp_path, settings, message):
    with pytest.raises(SettingsError, match=f"MEASURED=before: {message}"):
        planned(8, 1, measured="before", runs_path=tmp_path, precision="bf16", **settings)


def test_a_run_that_is_too_short_or_not_there_is_refused(earlier, tmp_path):
    earlier.metrics.write_text("")
    with pytest.raises(SettingsError, match="MEASURED=before: that run has logged 0 steps after its first 2"):
        planned(8, 1, measured="before", runs_path=tmp_path, precision="bf16")
    with pytest.raises(UserError, match="no such run"):
        planned(8, 1, measured="nosuch", runs_path=tmp_path)


def test_a_run_on_several_hosts_is_refused(tmp_path):
    settings = decided(runs_path=tmp_path, run_name="wide", hosts="a,b", precision="bf16", **LONG)
    lifecycle.create(settings.of(settings, launcher="hosts"), hostfile.hostfile(2, 2))
    with pytest.raises(SettingsError, match="MEASURED=wide: that run was on several hosts"):
        planned(8, 1, measured="wide", runs_path=tmp_path, precision="bf16")
