"""HOSTS: what it may say, and what follows from it; how hosts are compared; the word of the nodes."""

import socket
import stat

import pytest
from rich.console import Console

from sft import hostfile
from sft.errors import SettingsError
from sft.host.launch import launcher, rank_variables, word
from sft.host.launch.hosts import look, prove
from sft.host.launch.hosts.by_hand import ByHand, check_place
from sft.host.launch.hosts.messages import Facts
from sft.settings import hosts
from sft.settings.load import load
from sft.settings.stages import Decided
from tests.e2e.project import free_port
from tests.settings import decided


def test_hosts_are_written_as_for_ssh():
    found = hosts.parse("hostA, me@hostB:2222,[fe80::1%eth0]:22, fd77::2,10.0.0.3")
    assert [(host.user, host.name, host.port) for host in found] == [
        ("", "hostA", 0), ("me", "hostB", 2222), ("", "fe80::1%eth0", 22), ("", "fd77::2", 0), ("", "10.0.0.3", 0),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "text", ["-oProxyCommand=x", "a b", "host:", "host:99999", "@host", "a;b", "$(x)", "a,a", "a,,b", "a,b,"]
)
def test_what_is_not_a_host_is_refused(text):
    with pytest.raises(SettingsError, match="HOSTS="):
        load(None, hosts=text)


def test_hosts_decide_the_nodes():
    assert load(None, hosts="a,b,c", launcher="hosts").nodes == 3
    assert load(None, hosts="a,b,c", launcher="hosts").host_names == ["a", "b", "c"]
    assert load(None, hosts="a,b,c", launcher="local").nodes == 2
    with pytest.raises(SettingsError, match="NODES=2: HOSTS names 3 hosts; leave NODES out"):
        load(None, hosts="a,b,c", nodes=2)


def test_hosts_win_over_the_nodes_in_the_env_file(tmp_path):
    file = tmp_path / ".env"
    file.write_text("NODES=2\nGPUS_PER_NODE=2\n")
    assert load(file, hosts="a,b,c").nodes == 3
    file.write_text("NODES=2\nHOSTS=a,b,c\n")
    assert load(file).nodes == 3


def test_a_hostfile_of_deepspeed_is_taken(tmp_path):
    file = tmp_path / "hostfile"
    file.write_text("# ours\nhostA slots=4\nme@hostB slots=4\n")
    found = load(None, hosts=str(file))
    assert (found.hosts, found.nodes, found.gpus_per_node) == ("hostA,me@hostB", 2, 4)
    with pytest.raises(SettingsError, match="GPUS_PER_NODE=2: the hostfile says slots=4"):
        load(None, hosts=str(file), gpus_per_node=2)
    file.write_text("hostA slots=4\nhostB slots=2\n")
    with pytest.raises(SettingsError, match="unequal slots"):
        load(None, hosts=str(file))
    with pytest.raises(SettingsError, match="no such hostfile"):
        load(None, hosts=str(tmp_path / "nosuch"))


def test_the_hostfile_of_a_run_has_the_hosts_names():
    assert hostfile.hostfile(2, 4, ["a", "me@b:22"]) == "a slots=4\nme@b:22 slots=4\n"


def facts(**changes):
    values = {
        "host": "a", "boot": "1", "address": "", "python": "3.11.2", "packages": {"torch": "2.9"}, "code": {"x": "1"},
        "variables": {}, "cores": 1, "memory_gib": 1.0, "cards": [],
    }  # fmt: skip
    return Facts(**values | changes)


def test_what_has_to_be_the_same_is_compared(monkeypatch):
    monkeypatch.delenv("NCCL_ALGO", raising=False)
    other = facts(
        host="b", python="3.12.1", packages={"torch": "2.8", "peft": "1"}, code={"x": "2", "y": "1"},
        variables={"NCCL_ALGO": "Ring"},
    )  # fmt: skip
    assert [line.split(";")[0] for line in look.differences("b", other, "a", facts())] == [
        "HOSTS=b: has other code than a: x, y",
        "HOSTS=b: has Python 3.12.1, a has 3.11.2",
        "HOSTS=b: has peft 1, a has none",
        "HOSTS=b: has torch 2.8, a has 2.9",
        "HOSTS=b: has NCCL_ALGO=Ring, a has it not set",
    ]
    assert not look.differences("b", facts(host="b", python="3.11.9"), "a", facts())
    monkeypatch.setenv("NCCL_ALGO", "Tree")  # the task's goes to all nodes
    assert not look.differences("b", facts(host="b", variables={"NCCL_ALGO": "Ring"}), "a", facts())
    assert "is the same machine" in look.differences("c", facts(), "a", facts())[0]


@pytest.mark.parametrize("name", ["NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME", "NCCL_HOSTID", "HF_TOKEN", "HF_HOME"])
def test_what_belongs_to_one_host_stays_there(name):
    assert not look.is_forwarded(name)


def test_the_word_of_the_nodes_is_in_a_file_that_only_this_user_reads(tmp_path, monkeypatch):
    monkeypatch.delenv(word.WORD, raising=False)
    found = word.word_of(tmp_path / "runs")
    (path,) = (tmp_path / "runs").iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and len(found) == 64
    assert word.word_of(tmp_path / "runs") == found
    monkeypatch.setenv(word.WORD, "from ssh")
    assert word.word_of(tmp_path) == "from ssh"


@pytest.mark.parametrize(
    ("variables", "place"),
    [
        ({"NODE_RANK": "1", "MASTER_ADDR": "a"}, (1, "a", None)),
        ({"PET_NODE_RANK": "1", "PET_MASTER_ADDR": "a", "PET_NNODES": "2"}, (1, "a", 2)),
        ({"SKYPILOT_NODE_RANK": "1", "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2", "SKYPILOT_NUM_NODES": "2"},
         (1, "10.0.0.1", 2)),
        ({"SLURM_NODEID": "1", "SLURM_LAUNCH_NODE_IPADDR": "10.0.0.1", "SLURM_STEP_NUM_NODES": "2"},
         (1, "10.0.0.1", 2)),
        ({"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2", "MASTER_ADDR": "a"}, (1, "a", 2)),
    ],
)  # fmt: skip
def test_schedulers_tell_a_node_its_place(monkeypatch, variables, place):
    for name in (*rank_variables.NODE_RANK, *rank_variables.MASTER_ADDRESS, *rank_variables.NODES):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    nodes = rank_variables.nodes()
    assert (rank_variables.node_rank(), rank_variables.master_address(), nodes and nodes[1]) == place


@pytest.mark.parametrize("rank", ["one", "-1", "0.5"])
def test_a_rank_that_is_no_number_is_said_and_no_other_variable_taken_instead(monkeypatch, rank):
    for name, value in {"NODE_RANK": rank, "SLURM_NODEID": "0", "MASTER_ADDR": "hostA"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=f"^LAUNCHER=hosts: NODE_RANK={rank} is not the number of a node; count fr"):
        launcher.choose(load(None, launcher="hosts"), has_gpu=False)


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"SLURM_NODEID": "0", "SLURM_STEP_NUM_NODES": "2", "SLURM_STEP_TASKS_PER_NODE": "4(x2)"},
         "SLURM_STEP_TASKS_PER_NODE=4(x2): is more than one program on a node"),
        ({"SLURM_NODEID": "0", "SLURM_STEP_NUM_NODES": "2", "SLURM_STEP_TASKS_PER_NODE": "1(x2)"}, ""),
        ({"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_LOCAL_SIZE": "2"},
         "OMPI_COMM_WORLD_LOCAL_SIZE=2: is more than one program on a node"),
        ({"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_SIZE": "1"}, ""),
        ({"NODE_RANK": "1", "SLURM_STEP_TASKS_PER_NODE": "2"}, ""),
    ],
)  # fmt: skip
def test_a_scheduler_that_starts_a_program_for_each_gpu_is_said(monkeypatch, variables, said):
    for name in (*rank_variables.NODE_RANK, *rank_variables.NODES):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    settings = load(None, launcher="hosts", nodes=2)
    if not said:
        check_place(settings)
        return
    with pytest.raises(SettingsError) as caught:
        check_place(settings)
    assert len(caught.value.problems) == 1 and caught.value.problems[0].startswith(said)


# Where MASTER_ADDR leads


@pytest.mark.parametrize("address", ["127.0.0.1", "localhost", socket.gethostname()])
def test_the_first_node_finds_itself_at_its_address(address):
    assert prove.elsewhere(address, free_port()) == ""


def test_a_first_node_at_another_address_is_told_so_before_a_run_is_opened(monkeypatch, tmp_path):
    monkeypatch.setattr(prove, "KNOWN_WITHIN_S", 0.0)
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    monkeypatch.setenv("PET_MASTER_ADDR", "nosuch.invalid")
    settings = decided(launcher="hosts", runs_path=tmp_path / "runs", data_path=tmp_path, model_path=tmp_path)
    with pytest.raises(
        SettingsError, match=r"^PET_MASTER_ADDR=nosuch.invalid: does not lead to this host, .+ \(.+\); "
    ):
        ByHand().prepare(Decided.of(settings, master_port=free_port()), [], Console())


def test_what_answers_at_the_address_of_the_first_node_must_be_itself(monkeypatch):
    monkeypatch.setattr(prove, "CONNECT_TIMEOUT_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as ours, socket.create_server(("127.0.0.1", 0)) as theirs:
        ours.settimeout(0.1)
        for server, reason in ((ours, ""), (theirs, "another machine answers there")):
            assert prove.not_to(ours, "127.0.0.1", server.getsockname()[1]) == reason
