"""The line between the node programs."""

import socket
import threading
import time

import pytest

from sft.host.launch.link import MasterLink, WorkerLink
from tests.e2e.project import free_port


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
    assert master.lost() == "lost node 1 (its program is gone)"


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


def test_a_stranger_and_a_second_node_1_are_sent_away(met, port):
    master, worker = met
    second, stranger = WorkerLink(1, port), WorkerLink(7, port)
    for link in (second, stranger):
        until(lambda link=link: link.peers and link.peers[0].lost, master, link)
        assert link.run_name() is None
    assert master.lost() is None and worker.lost() is None


def test_a_node_that_does_not_know_the_word_is_sent_away(port):
    master, stranger, own = MasterLink(2, port, "ours"), WorkerLink(1, port, "theirs"), WorkerLink(1, port, "ours")
    master.name_run("mine")
    until(lambda: stranger.peers and stranger.peers[0].lost, master, stranger)
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
        stranger.sendall(b"x" * 5000)
        until(lambda: not master.newcomers and master.missing() == [1], master)
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            master.poll()
            try:
                if not stranger.recv(4096):
                    break
            except ConnectionError:
                break
    master.close(well=True)
