"""Plans for several hosts: what crosses the network, what a step becomes, and from which step size on it pays."""

from dataclasses import replace

import pytest

from sft.errors import UserError
from sft.host import gpus
from sft.host.plan import alternatives, measured, planner, several_hosts, view
from sft.host.plan.conditions import Options
from sft.run.records import LinkSpeeds
from sft.settings.load import load

from .planning import card_here

LARGE = {"link": "25gbe", "gpus": "16", "model_name": "meta-llama/Llama-3.1-8B"}


def planned(link="10gbe", hosts="2", gpus="", gpu="4090", **settings):
    return planner.plan_with(load(None, **settings), Options.of(gpu, hosts=hosts, link=link, gpus=gpus, host_gib="256"))


@pytest.mark.parametrize(
    ("text", "rate"), [("10gbe", 10), ("100GbE", 100), ("2.5gbe", 2.5), ("40", 40), ("25g", 25), ("1gbit", 1)]
)
def test_networks_are_named_by_their_rate(text, rate):
    assert Options.of(link=text).link == rate


@pytest.mark.parametrize("text", ["wifi", "0", "-1", "10 gb/s", "gbe", "nan", "1e3"])
def test_what_is_not_a_network_is_refused(text):
    with pytest.raises(UserError, match=r"LINK=.*: is not a network; use one such as 10gbe"):
        Options.of(link=text)


def test_a_network_of_one_host_is_refused():
    with pytest.raises(UserError, match="LINK=10: this plan is for one host.*; set HOSTS=2 too, or leave LINK out"):
        planned(hosts="")


def test_hosts_are_a_number_or_names():
    assert [Options.of(hosts=text).hosts for text in ("2", "a,b", "a, b ,c", "", "1024")] == [2, 2, 3, 0, 1024]
    for text in ("1", "0", "a", ",", "99999999999"):
        with pytest.raises(UserError, match="HOSTS=.*: is not a number of hosts from 2 to 1024"):
            Options.of(hosts=text)
    with pytest.raises(UserError, match="GPUS=9: cannot be shared by 2 hosts"):
        planned(gpus="9")
    with pytest.raises(UserError) as caught:
        Options.of(hosts="1", link="wifi", gpus="x")
    assert len(str(caught.value).splitlines()) == 3


def test_two_hosts_of_two_cards_over_10_gbe():
    """Each network card carries what each rank's link does: 3.7 GB for all weights of the 1B model, 3.3 s."""
    plan = planned(gpus="4")
    assert (plan.settings.nodes, plan.settings.gpus_per_node) == (2, 2)
    assert plan.timing.wire_bytes == plan.timing.link_bytes == pytest.approx(3.71e9, rel=0.01)
    assert plan.timing.link_s == pytest.approx(3.71 / 1.125, rel=0.01)
    assert planned(link="25gbe", gpus="4").timing.link_s == pytest.approx(plan.timing.link_s / 2.5, rel=0.001)
    assert planned(link="400gbe", gpus="4").timing.link_s == pytest.approx(0.371, rel=0.01)  # PCIe decides


def test_without_hosts_nothing_is_new():
    plan = planner.plan_with(load(None), Options.of("4090"))
    assert plan.conditions.wire is None and plan.timing.wire_bytes == 0 and plan.job.hosts == 1
    assert list(several_hosts.lines(plan)) == [] and several_hosts.summary(plan) == {}
    assert not any("hpZ" in name for name, _ in alternatives.variants(plan))


def test_each_host_has_the_gpus_of_this_machine_and_its_share_of_the_memory():
    plan = planned()  # NODES=2 GPUS_PER_NODE=2 are four cards of one machine
    assert plan.settings.world_size == 8 and plan.job.hosts == 2
    one = planner.plan_with(load(None), Options.of("4090", gpus="8", host_gib="256"))
    assert plan.host.save == one.host.save / 2 and plan.host.export == one.host.export
    assert "3 checkpoints of 14.8 GB" in "\n".join(view.full_lines(plan))  # RUNS_PATH is shared


def test_the_plan_says_from_which_step_on_two_hosts_pay():
    plan = planned()
    now = several_hosts.compared(plan, plan.conditions.wire, plan.settings.sequences_per_step)
    assert not now.pays and now.times < 0.2
    found = several_hosts.pays_from(plan, plan.conditions.wire)
    size = found.all_hosts.settings.sequences_per_step
    assert found.pays and not several_hosts.compared(plan, plan.conditions.wire, size // 2).pays
    assert found.one_host.settings.sequences_per_step == size and found.one_host.settings.world_size == 4
    lines = list(several_hosts.lines(plan))
    assert lines[0].startswith("one host: ") and f"GLOBAL_BATCH_SIZE={size} on" in lines[1]
    assert lines[2].startswith("LORA_RANK=16 DS_CONFIG=zero2 sends 0.06 GB a step")
    assert several_hosts.summary(plan)["pays_from_global_batch_size"] == size
    fast = planned(link="400gbe", global_batch_size=2048)
    assert several_hosts.compared(fast, fast.conditions.wire, 2048).pays and len(list(several_hosts.lines(fast))) == 1
    assert "no step size of these rows" in list(several_hosts.lines(planned(link="0.01")))[1]


def test_hpz_is_a_row_where_it_helps():
    large = planned(**LARGE)
    rows = dict(alternatives.variants(large))
    kept_inside = rows["zero3, hpZ 8"]
    assert kept_inside.job.hpz == 8 and kept_inside.timing.wire_bytes < large.timing.wire_bytes
    assert kept_inside.timing.link_bytes == large.timing.link_bytes  # the rest of it moves on each host
    moment = kept_inside.memory.moments["optimizer"].weights - large.memory.moments["optimizer"].weights
    assert moment == pytest.approx(2 * large.job.weights / 8)  # the second copy
    assert '"zero_hpz_partition_size": 8 (tried on CPU only)' in "\n".join(view.full_lines(large))
    small = planned()  # its weights are gathered once a step: nothing to keep
    assert not any("hpZ" in name for name, _ in alternatives.variants(small))


def test_lines_fit_80_columns():
    for plan in (planned(), planned(**LARGE)):
        assert [line for line in view.full_lines(plan) if len(line) > 80] == []


def test_a_run_on_hosts_is_planned_with_what_was_measured_between_them(monkeypatch, tmp_path):
    cards = [replace(card, uuid=f"GPU-{card.index}") for card in card_here()]
    monkeypatch.setattr(gpus, "visible", lambda: cards)
    settings = load(None, launcher="hosts", hosts="a,b", gpus_per_node=4, data_path=tmp_path)
    by_hosts = planner.plan_with(
        load(None, hosts="a,b", gpus_per_node=4, data_path=tmp_path), Options.of(host_gib="256")
    )
    assert by_hosts.job.hosts == 2  # LAUNCHER=auto
    assumed = planner.plan_with(settings, Options.of(host_gib="256"))
    assert assumed.conditions.wire.name.startswith("10 GbE between hosts (assumed") and assumed.settings.world_size == 8
    between = LinkSpeeds(ranks=8, nodes=2, backend="nccl", all_reduce_gb_s=2.5, gather_gb_s=2.4)
    measured.keep(settings, cards, {"hosts": between}, 0.0)
    found = planner.plan_with(settings, Options.of(host_gib="256")).conditions
    assert found.wire.gb_s == 2.4 and "measured on 2" in found.wire.name
    assert "assumed" in found.card.link  # within a host nothing was measured
