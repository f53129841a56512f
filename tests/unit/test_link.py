"""The line between the node programs."""

import os
import resource
import socket
import threading
import time
from types import SimpleNamespace

import pytest

from sft import hostfile
from sft.errors import RunFailed, SettingsError
from sft.host.launch import link as links
from sft.host.launch import meeting, open_files
from sft.host.launch.link import MasterLink, WorkerLink
from sft.host.launch.node import Node
from sft.run import lifecycle, typed_json
from sft.run.records import Failure, RankEnd, RankExit
from tests.e2e.project import free_port
from tests.settings import decided


@pytest.fixture
def port(monkeypatch):
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    return free_port()


def until(true, *links):
    deadline = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline
        for link in links:
            link.poll()
        time.sleep(0.01)


@pytest.fixture
def met(port):
    master, worker = MasterLink(2, port), WorkerLink(1, port)
    master.name_run("mine")
    until(lambda: worker.run_name() and not master.missing(), master, worker)
    yield master, worker
    worker.close(well=True)
    master.close(well=True)


def test_a_worker_is_told_the_run_once_there_is_one(port):
    worker, master = WorkerLink(1, port), MasterLink(2, port)
    for _ in range(20):
        worker.poll()
        master.poll()
    assert worker.run_name() is None and master.missing() == [1]
    master.name_run("mine")
    until(lambda: worker.run_name() == "mine", master, worker)
    assert master.missing() == [] and master.lost() is None and worker.lost() is None
    worker.close(well=True)
    master.close(well=True)


def test_an_end_without_a_goodbye_is_a_loss(met):
    master, worker = met
    worker.close(well=False)
    until(lambda: master.lost() is not None, master)
    assert master.lost() == "lost node 1 (its program is gone)" and master.lost_rank() == 1


def test_a_goodbye_is_no_loss(met):
    master, worker = met
    master.close(well=True)
    until(lambda: worker.peers[0].lost, worker)
    assert worker.lost() is None


def test_a_worker_learns_why_there_is_no_run(port):
    master, worker = MasterLink(2, port), WorkerLink(1, port)
    refusing = threading.Thread(target=master.refuse, args=("SEED=x: wrong\nBATCH_SIZE=0: wrong",))
    refusing.start()
    until(lambda: worker.refusal() is not None, worker)
    refusing.join()
    assert worker.refusal() == "SEED=x: wrong / BATCH_SIZE=0: wrong"


def test_a_second_node_1_and_one_beyond_the_last_are_told_why_they_are_sent_away(met, port):
    master, worker = met
    second, beyond = WorkerLink(1, port), WorkerLink(7, port)
    for link in (second, beyond):
        until(lambda link=link: link.refusal(), master, link)
        assert link.run_name() is None
    assert second.refusal() == "node 1 is there already: give each host a NODE_RANK of its own"
    assert beyond.refusal() == "node 7 is not one of this run's 2 nodes, 0 to 1"
    assert master.lost() is None and worker.lost() is None and len(master.said) == 2


@pytest.mark.parametrize("well", [True, False])
def test_a_node_that_has_ended_and_is_early_for_the_next_attempt_waits_for_its_first_node(met, port, well):
    master, worker = met
    worker.close(well)
    early = WorkerLink(1, port)
    until(lambda: early.was_there and not early.peers, early, master)
    for _ in range(20):
        early.poll()
        master.poll()
    assert early.refusal() is None and early.run_name() is None and early.lost() is None
    assert not master.said and not master.refused
    master.close(well=False)
    following = MasterLink(2, port)
    following.name_run("mine")
    until(lambda: early.run_name() == "mine", early, following)
    early.ready()
    until(lambda: not following.not_ready(), early, following)
    assert following.lost() is None
    early.close(well=True)
    following.close(well=True)


def test_a_node_that_ends_while_the_run_is_opened_may_come_again(port):
    master, first, again = MasterLink(2, port), WorkerLink(1, port), WorkerLink(1, port)
    until(lambda: first.has_proven, first, master)
    first.close(well=False)
    until(lambda: again.has_proven, again, master)
    master.name_run("mine")
    until(lambda: again.run_name() == "mine", again, master)
    assert again.refusal() is None and master.missing() == [] and master.lost() is None
    again.close(well=True)
    master.close(well=True)


@pytest.mark.parametrize("address", ["127.0.0.1", "nosuch.invalid"])
def test_a_node_that_waits_for_the_first_one_says_why_it_does_not_reach_it(port, address, monkeypatch, capsys):
    monkeypatch.setenv("MASTER_ADDR", address)
    monkeypatch.setattr(meeting, "QUIET_S", 0.0)
    worker = WorkerLink(1, port)
    settings = decided(nodes=2, master_port=port - 1).model_copy(update={"rendezvous_timeout_s": 0.5})
    with pytest.raises(RunFailed) as caught:
        meeting.told_run(settings, worker, SimpleNamespace(end_now=False, who=lambda: None))
    at = f"{address}:{port}"
    assert f"node 0 did not come to {at} ({worker.why_not}) within" in str(caught.value) and worker.why_not
    assert capsys.readouterr().out == f"node 1: node 0 is not yet at {at} ({worker.why_not})\n"


def test_a_node_of_another_user_does_not_know_the_word_and_is_told_so(port):
    master, stranger, own = MasterLink(2, port, "ours"), WorkerLink(1, port, "theirs"), WorkerLink(1, port, "ours")
    master.name_run("mine")
    until(lambda: stranger.refusal(), master, stranger)
    reason = f"node 1 does not know this run's word, which only user id {os.getuid()} may read; start every node with"
    assert stranger.refusal().startswith(reason)
    assert meeting.no_meeting(decided(nodes=2), [1], 0.0, master).startswith(reason)
    assert stranger.run_name() is None and master.missing() == [1]
    until(lambda: own.run_name() == "mine", master, own)
    assert master.not_ready() == [1]
    own.ready()
    until(lambda: not master.not_ready(), master, own)
    for link in (own, stranger, master):
        link.close(well=True)


def test_a_stranger_who_talks_without_end_is_sent_away(port):
    master = MasterLink(2, port, "ours")
    master.name_run("mine")
    with socket.create_connection(("127.0.0.1", port)) as stranger:
        stranger.settimeout(0.1)
        stranger.sendall(b"x" * 5000)
        until(lambda: is_closed(stranger), master)
    assert not master.newcomers and master.missing() == [1]
    master.close(well=True)


def is_closed(connection):
    """Tell whether the other side has closed a connection. What it has said before is read, and left out."""
    try:
        return connection.recv(4096) == b""
    except TimeoutError:
        return False
    except ConnectionError:
        return True


# The next attempt


@pytest.fixture
def nodes(met, tmp_path):
    """Two nodes of a run that have met."""
    run = lifecycle.create(decided(nodes=2, gpus_per_node=1, runs_path=tmp_path, run_name="a"), hostfile.hostfile(2, 1))
    return [Node(run, rank, link, Signalled()) for rank, link in enumerate(met)]


class Signalled:
    """A node that was sent a signal once the other one had ended."""

    end_now, signalled = False, False

    def who(self):
        return "a signal to node" if self.signalled else None


def test_a_node_that_ends_after_the_first_one_writes_nothing_into_the_next_attempt(nodes):
    first, second = nodes
    run, reason = first.run, "rank 0: the reason"
    run.fail(Failure(kind="crash", reason=reason, rank=0))
    first.leave(well=False, lock=None)
    assert run.state().status == "failed"
    lifecycle.reopen(run, run.settings(), again=True)
    until(lambda: second.link.first_has_ended, second.link)
    second.supervisor.look()
    second.supervisor.heard.signalled = True
    second.supervisor.look()
    second.supervisor.fail(Failure(kind="killed", reason="the launcher was killed by signal 9"))
    second.supervisor.wait_for_reason()
    with pytest.raises(RunFailed, match=reason):
        second.supervisor.raise_failure()
    second.leave(well=False, lock=None)
    assert run.failure() is None and run.stop_reason() is None and run.state().status == "launching"


def test_a_signal_to_a_node_that_ends_after_the_first_one_does_not_stop_the_next_attempt(nodes):
    first, second = nodes
    run = first.run
    run.update_state("stopped")
    first.leave(well=True, lock=None)
    lifecycle.reopen(run, run.settings())
    until(lambda: second.link.first_has_ended, second.link)
    second.supervisor.heard.signalled = True
    second.supervisor.look()
    assert run.stop_reason() is None and run.failure() is None


def test_what_ranks_of_the_last_attempt_write_after_the_next_one_has_begun_is_not_of_its_ranks(nodes):
    second = nodes[1]
    second.run.note_end(1, RankEnd(status="failed", failure=Failure(kind="lost_rank", reason="rank 1: lost", rank=1)))
    typed_json.write(second.run.exit_file(1), RankExit(pid=1, code=-6))
    second.introduce()
    second.supervisor.judge_ranks()
    assert second.run.failure() is None and not second.supervisor.ranks.broken


# Many nodes


def test_nodes_that_all_come_in_the_same_moment_are_all_taken_at_the_next_look(port):
    nodes = 300  # more than the 128 that Python's sockets let wait
    master = MasterLink(nodes, port, "ours")
    workers = [WorkerLink(rank, port, "ours") for rank in range(1, nodes)]
    for worker in workers:
        worker.poll()
    master.name_run("mine")
    assert all(worker.peers for worker in workers)
    for _ in range(3):  # once for each message that is waited for
        time.sleep(0.2)
        master.poll()
        for worker in workers:
            worker.poll()
            worker.ready()
    time.sleep(0.2)
    master.poll()
    assert master.missing() == [] == master.not_ready()
    master.tell(Failure(kind="lost_node", reason="node 0: lost node 7\nand more"))
    until(lambda: workers[-1].broken(), *workers)
    assert {(worker.broken().kind, worker.broken().reason) for worker in workers} == {
        ("lost_node", "node 0: lost node 7\nand more")
    }
    for one in (*workers, master):
        one.close(well=True)


def test_strangers_who_stay_silent_keep_no_node_away(port, monkeypatch):
    monkeypatch.setattr(links, "STRANGERS", 5)
    master = MasterLink(2, port, "ours")
    strangers = [socket.create_connection(("127.0.0.1", port)) for _ in range(20)]
    until(lambda: len(master.newcomers) == 7, master)
    worker = WorkerLink(1, port, "ours")
    master.name_run("mine")
    until(lambda: worker.run_name() == "mine", worker, master)
    monkeypatch.setattr(links, "NEWCOMER_S", 0.0)
    until(lambda: not master.newcomers, master)
    assert master.lost() is None and not master.missing()
    for one in (*strangers, worker, master):
        one.close(True) if isinstance(one, links.Link) else one.close()


def test_a_connection_that_is_reset_before_the_run_is_named_is_made_again(port):
    worker = WorkerLink(1, port)
    with socket.create_server(("127.0.0.1", port)) as other:
        worker.poll()
        connection = other.accept()[0]
        connection.sendall(b"prove abc\n")
        until(lambda: worker.has_proven, worker)
        worker.ready()
        connection.close()
        until(lambda: not worker.peers, worker)
        assert worker.lost() is None
    master = MasterLink(2, port)
    master.name_run("mine")
    until(lambda: worker.run_name() == "mine", master, worker)
    worker.ready()
    until(lambda: not master.not_ready(), master, worker)
    master.close(well=True)
    worker.close(well=True)


def test_a_first_node_that_ends_before_it_names_a_run_is_lost(port):
    master, worker = MasterLink(2, port), WorkerLink(1, port)
    until(lambda: worker.has_proven, master, worker)
    master.close(well=False)
    until(lambda: worker.lost() is not None, worker)
    assert worker.lost() == "lost node 0 (its program is gone)"


def test_a_program_asks_for_the_files_that_it_needs_and_says_if_it_may_not_open_them(monkeypatch):
    limits, wanted = {"now": (1024, 4096)}, []
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits["now"])
    monkeypatch.setattr(resource, "setrlimit", lambda _, pair: wanted.append(pair))
    open_files.allow(202, "NODES", 2, "node 0")
    open_files.allow(1224, "NODES", 1024, "node 0")
    assert wanted == [(1324, 4096)]
    limits["now"] = (1024, 1024)
    with pytest.raises(SettingsError, match=r"NODES=1024: node 0 may open 1024 files here, and needs 1324; raise"):
        open_files.allow(1224, "NODES", 1024, "node 0")


def test_a_message_about_missing_nodes_names_a_few(monkeypatch):
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    said = meeting.no_meeting(decided(nodes=512), list(range(1, 512)), 0.0)
    assert said.startswith("nodes 1, 2, 3, 4, 5, 6, 7, 8 and 503 more did not come to 127.0.0.1:")
