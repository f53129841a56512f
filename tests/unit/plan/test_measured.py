"""What `make test-env` has measured takes the place of the table's speeds, on the machine that it was measured on."""

from dataclasses import replace

import pytest

from sft.host import gpus
from sft.host.check import Check
from sft.host.doctor.keep import keep
from sft.host.launch.probe import measured as as_check
from sft.host.plan import measured, planner, view
from sft.host.plan.conditions import HERE, Options
from sft.run import typed_json
from sft.run.records import LinkSpeeds
from sft.settings.load import load

from .planning import card_here

SPEEDS = LinkSpeeds(ranks=4, backend="nccl", all_reduce_gb_s=5.5, gather_gb_s=4.0, to_gpu_gb_s=12.0, from_gpu_gb_s=11.0)


@pytest.fixture
def four(monkeypatch):
    """Let this machine have four cards."""
    cards = [replace(card_here()[0], index=i, uuid=f"GPU-{i}", driver="580.1") for i in range(4)]
    tell(monkeypatch, cards)
    return cards


def tell(monkeypatch, cards):
    monkeypatch.setattr(gpus, "visible", lambda: cards)


@pytest.fixture
def settings(tmp_path):
    return load(None, data_path=tmp_path / "data", runs_path=tmp_path / "runs", launcher="local", ds_config="zero3")


def checked(settings, launcher="local", speeds=SPEEDS, disk=2.0):
    return keep(
        settings, launcher, [as_check(speeds, "cuda"), Check("disk speed", "ok", "", values={"write_gb_s": disk})]
    )


def planned(settings, options=HERE):
    return planner.plan_with(settings, options)


def test_the_plan_uses_what_was_measured_and_says_when(four, settings):
    before = planned(settings)
    assert checked(settings).level == "ok"
    found = planned(settings)
    day = measured.kept(settings, four)[0].day()
    assert found.conditions.card.link == f"NCCL between 4 ranks, measured on {day}"
    assert (found.conditions.card.link_gb_s, found.conditions.card.host_gb_s) == (4.0, 11.0)
    ratio = before.conditions.card.link_gb_s / 4.0
    assert found.timing.link_s == pytest.approx(before.timing.link_s * ratio, rel=0.001)
    lines = "\n".join(view.full_lines(found))
    assert f"NCCL between 4 ranks, measured on {day}, 4 GB/s" in lines
    assert f"a save takes 7.41 s at 2 GB/s, measured on {day}" in lines
    in_zero2 = planned(settings.model_copy(update={"ds_config": "zero2"}))
    assert f"measured on {day}, 5.5 GB/s" in "\n".join(view.full_lines(in_zero2))
    assert in_zero2.timing.link_s == pytest.approx(in_zero2.timing.link_bytes / 5.5e9, rel=0.001)


def test_offload_is_planned_with_the_measured_copies(four, settings):
    offload = settings.model_copy(update={"ds_config": "zero3_offload"})
    before = planned(offload).timing.optimizer_s
    checked(settings)
    assert planned(offload).timing.optimizer_s > before  # 11 instead of 20 GB/s


def test_a_card_that_is_not_here_has_the_speed_of_the_table(four, settings):
    checked(settings)
    assert "assumed" in planned(settings, Options(gpu="3090", gpus=4)).conditions.card.link


def test_the_launchers_have_speeds_of_their_own(four, settings):
    checked(settings)
    slower = LinkSpeeds(ranks=4, nodes=2, backend="nccl", all_reduce_gb_s=2.0)
    checked(settings, "compose", slower, disk=0.0)
    assert planned(settings).conditions.card.link_gb_s == 4.0
    in_containers = planned(settings.model_copy(update={"launcher": "compose"}))
    assert in_containers.conditions.card.link_gb_s == 2.0 and in_containers.conditions.disk_gb_s == 2.0


def test_each_speed_keeps_its_own_day_and_auto_takes_one_of_this_machine(four, settings, monkeypatch):
    monkeypatch.setattr(measured.time, "time", lambda: 1_700_000_000.0)
    checked(settings)
    monkeypatch.setattr(measured.time, "time", lambda: 1_800_000_000.0)
    checked(settings, "hosts", LinkSpeeds(ranks=8, nodes=2, backend="nccl", all_reduce_gb_s=1.0), disk=0.0)
    found = planned(settings.model_copy(update={"launcher": "auto"})).conditions
    assert found.card.link_gb_s == 4.0 and found.card.link.endswith("measured on 2023-11-14")
    assert found.disk_measured_on == "2023-11-14"
    assert planned(settings, Options(hosts=2)).conditions.wire.name.endswith("measured on 2027-01-15")


@pytest.mark.parametrize(
    ("change", "note"),
    [
        (lambda cards: cards[:3], "are of other cards (4 x NVIDIA GeForce RTX 4090)"),
        (lambda cards: [replace(card, name="NVIDIA GeForce RTX 3090") for card in cards], "are of other cards (4 x "),
        (lambda cards: [replace(card, driver="590.2") for card in cards], "are of driver 580.1: `make test-env`"),
    ],
)
def test_what_other_cards_or_drivers_did_is_not_used_and_a_note_says_so(four, settings, monkeypatch, change, note):
    checked(settings)
    changed = change(four)
    tell(monkeypatch, changed)
    found = planned(settings.model_copy(update={"gpus_per_node": 1}))
    assert "assumed" in found.conditions.card.link
    assert any(note in line for line in found.conditions.notes), found.conditions.notes


def test_what_another_machine_did_is_not_used_and_a_note_says_so(four, settings, monkeypatch):
    checked(settings)
    monkeypatch.setattr(measured, "machine", lambda: "another")
    assert "are another machine's of this name" in " ".join(planned(settings).conditions.notes)
    monkeypatch.setattr(measured, "path", lambda settings: measured.folder(settings) / "other.json")
    (before,) = measured.folder(settings).iterdir()
    assert f"the speeds measured on {before.stem} are not this machine's" in " ".join(
        planned(settings).conditions.notes
    )


def test_a_damaged_file_is_named_and_written_anew(four, settings):
    checked(settings)
    measured.path(settings).write_text('{"version": 1, "cards": 7}')
    assert "remove it; `make test-env` measures again" in " ".join(planned(settings).conditions.notes)
    checked(settings)
    assert typed_json.read(measured.path(settings), measured.Measured).links == {"local": SPEEDS}


def test_a_machine_without_cards_keeps_its_disk_alone(settings, monkeypatch):
    tell(monkeypatch, [])
    checked(settings, speeds=LinkSpeeds(ranks=2, backend="gloo", all_reduce_gb_s=0.4))
    found = planned(settings, Options(gpu="4090", gpus=4))
    assert found.conditions.disk_gb_s == 2.0 and "assumed" in found.conditions.card.link
    assert keep(settings, "local", [Check("all-reduce", "failure", "hung")]) is None
