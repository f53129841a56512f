"""A run whose nodes are processes of this machine gets ports that nobody else has or is about to have."""

import socket

import pytest

from sft import hostfile
from sft.errors import SettingsError
from sft.host.doctor import machine
from sft.run import lifecycle
from sft.settings.load import resume
from tests.claims import claimed
from tests.e2e.project import free_port
from tests.settings import decided


@pytest.fixture
def base():
    return free_port()


def listening(port):
    server = socket.create_server(("127.0.0.1", port))
    server.listen()
    return server


@pytest.mark.parametrize("offset", [0, 1], ids=["ranks", "nodes"])
def test_a_busy_port_that_nobody_asked_for_is_passed_over(tmp_path, base, offset):
    settings = decided(defaults={"master_port": base}, runs_path=tmp_path)
    assert claimed(settings) == (base, "")
    with listening(base + offset):
        port, said = claimed(settings)
        assert port > base + 1 and said == f"port {base} is in use: this run takes MASTER_PORT={port}"
        found = machine.port(settings)
        assert found.level == "ok" and found.found == f"{base} is in use; a run without containers takes {port}"


def test_a_port_that_was_asked_for_is_taken_or_refused(tmp_path, base, monkeypatch):
    monkeypatch.setenv("MASTER_PORT", str(base))
    settings = decided(runs_path=tmp_path)
    assert claimed(settings) == (base, "")
    remedy = "choose another port, or leave it out: a free one is taken"
    with listening(base + 1), pytest.raises(SettingsError) as caught:
        claimed(settings)
    assert str(caught.value) == f"MASTER_PORT={base}: is in use (the nodes meet on {base + 1}); {remedy}"
    run = lifecycle.create(settings, hostfile.hostfile(2, 1))
    lock = run.lock()
    with listening(base), pytest.raises(SettingsError) as caught:
        claimed(settings)
    assert str(caught.value) == f"MASTER_PORT={base}: is in use by {run.path}; {remedy}"
    lock.close()


def test_a_run_that_goes_on_takes_another_port_than_its_own_if_that_is_busy(tmp_path, base, monkeypatch):
    run = lifecycle.create(decided(runs_path=tmp_path, master_port=base), hostfile.hostfile(2, 1))
    with listening(base):
        with run.claim():  # as `make evaluate` has it
            port, said = claimed(run.settings())
        assert port > base and said == f"port {base} is in use: this run takes MASTER_PORT={port}"
        assert claimed(resume(run.settings(), env_file=None))[0] > base
        monkeypatch.setenv("MASTER_PORT", str(base))
        with pytest.raises(SettingsError, match=f"MASTER_PORT={base}: is in use"):
            claimed(resume(run.settings(), env_file=None))
