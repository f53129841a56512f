"""Programs that look for ports at the same time."""

import io
import multiprocessing
import time

import pytest
from rich.console import Console

from sft.host.launch import ports
from tests.claims import claimed
from tests.settings import decided

from .project import free_port

pytestmark = pytest.mark.real

MEANWHILE_S = 60


@pytest.fixture
def base():
    return free_port()


def test_of_many_that_start_at_once_each_has_ports_of_its_own(base):
    context = multiprocessing.get_context("fork")
    results = context.Queue()

    def program(first):
        claim = ports.claim(decided(defaults={"master_port": first}), Console(file=io.StringIO()))
        results.put(claim.port)
        time.sleep(MEANWHILE_S)

    processes = [context.Process(target=program, args=(base + i % 2,)) for i in range(6)]
    for process in processes:
        process.start()
    taken = [results.get(timeout=MEANWHILE_S) for _ in processes]
    both = [port for first in taken for port in ports.pair(first)]
    assert len(set(both)) == 2 * len(processes), taken
    for process in processes:
        process.kill()  # the kernel gives its ports back
        process.join()
    settings = decided(defaults={"master_port": base})
    assert claimed(settings) == (base, "")
