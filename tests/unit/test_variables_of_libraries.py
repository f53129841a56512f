"""Variables that libraries read: what would end every rank with a traceback is said before anything starts."""

import psutil
import pytest

from sft.errors import SettingsError
from sft.host.launch import interface
from sft.settings import libraries
from sft.settings.load import load

LOOPBACK = next(name for name, all_ in psutil.net_if_addrs().items() if any(one.address == "127.0.0.1" for one in all_))


def said(on_gpus=True, **variables):
    return interface.problems(variables, on_gpus)


@pytest.mark.parametrize("value", ["", "0", LOOPBACK, f"{LOOPBACK},", f"{LOOPBACK},{LOOPBACK}"])
def test_interfaces_that_are_here_are_taken(value):
    assert said(GLOO_SOCKET_IFNAME=value) == []


@pytest.mark.parametrize("value", ["nosuch9", f"{LOOPBACK},nosuch9", f"nosuch9,{LOOPBACK}"])
def test_an_interface_that_is_not_here_is_named_with_those_that_are(value):
    (line,) = said(GLOO_SOCKET_IFNAME=value)
    assert line.startswith(f"GLOO_SOCKET_IFNAME={value}: no interface 'nosuch9' with an address on ")
    assert LOOPBACK in line.rpartition("; ")[2] and "leave it out" in line


@pytest.mark.parametrize(
    ("value", "takes"),
    [
        ("eth", True), ("eth0", True), ("=eth0", True), ("=eth", False), ("ib0,eth", True), ("ib0", False),
        ("^docker", True), ("^eth", False), ("^=eth0", False), ("^=eth", True), ("=eth0:1", True),
    ],
)  # fmt: skip
def test_the_way_of_nccl_to_name_interfaces(value, takes):
    assert interface.nccl_takes(value, "eth0") is takes


def test_nccl_must_be_left_an_interface_where_it_is_used():
    (line,) = said(NCCL_SOCKET_IFNAME="nosuch9")
    assert line.startswith("NCCL_SOCKET_IFNAME=nosuch9: it leaves NCCL no interface on ")
    assert said(on_gpus=False, NCCL_SOCKET_IFNAME="nosuch9") == []
    assert said(NCCL_SOCKET_IFNAME="^nosuch9") == []


def test_values_with_which_a_library_cannot_be_imported_are_said_with_the_wrong_settings(monkeypatch):
    for name, value in {"HF_HUB_ETAG_TIMEOUT": "10s", "DEEPSPEED_TIMEOUT": "", "TORCH_DISTRIBUTED_DEBUG": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as caught:
        load(None, max_length=0)
    lines = caught.value.problems
    assert [line.partition(":")[0] for line in lines] == [
        "MAX_LENGTH=0", "DEEPSPEED_TIMEOUT=", "HF_HUB_ETAG_TIMEOUT=10s", "TORCH_DISTRIBUTED_DEBUG=1",
    ]  # fmt: skip
    fine = {"HF_HUB_ETAG_TIMEOUT": "", "DEEPSPEED_TIMEOUT": "30", "TORCH_DISTRIBUTED_DEBUG": "detail"}
    assert libraries.problems(fine) == []
