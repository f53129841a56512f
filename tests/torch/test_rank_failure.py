"""What an exception that ends a rank means for the run, and where the rank writes it."""

import errno
import os

import pytest
import torch

from sft import hostfile, nccl
from sft.errors import DataError, RunFailed, SettingsError
from sft.run import lifecycle
from sft.settings.stages import Decided
from sft.trainer.failure import failure_of
from sft.trainer.main import note_failure

from ..settings import decided

GLOO = "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:555] Connection closed by peer [127.0.0.1]:4713"
NCCL = "NCCL error in: NCCLUtils.cpp:94, unhandled system error, NCCL version 2.27.3 ncclSystemError: a call failed"


@pytest.fixture
def run(tmp_path):
    return lifecycle.create(decided(runs_path=tmp_path, run_name="a"), hostfile.hostfile(1, 2))


@pytest.mark.parametrize(
    ("error", "kind", "reason"),
    [
        (
            SettingsError(["A=1: is wrong; use 2", "B=1: is wrong; use 2"]),
            "user",
            "A=1: is wrong; use 2\nB=1: is wrong",
        ),
        (DataError("rows:2: is empty"), "user", "rows:2: is empty"),
        (RunFailed("step 3: the loss is not finite", "not_finite"), "not_finite", "step 3: the loss"),
        (torch.OutOfMemoryError("CUDA out of memory"), "out_of_memory", "rank 1: out of memory of a GPU; use "),
        (MemoryError(), "out_of_memory", "rank 1: out of memory of the machine; end "),
        (RuntimeError("XPU out of memory"), "out_of_memory", "rank 1: RuntimeError: XPU out of memory"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "disk_full", "rank 1: OSError: [Errno 28] No space left"),
        (ValueError("I/O error: No space left on device (os error 28)"), "disk_full", "rank 1: ValueError: I/O error"),
        (RuntimeError(GLOO), "lost_rank", f"rank 1: RuntimeError: {GLOO}"),
        (torch.distributed.DistBackendError(NCCL), "between_ranks", f"rank 1: DistBackendError: {NCCL}"),
        (ValueError("Triton: out of memory"), "out_of_memory", "rank 1: ValueError: Triton: out of memory"),
        (TimeoutError("the hub timed out"), "crash", "rank 1: TimeoutError: the hub timed out"),
        (ArithmeticError("own"), "crash", "rank 1: ArithmeticError: own"),
        (KeyboardInterrupt(), "crash", "rank 1: KeyboardInterrupt: no message"),
    ],
)
def test_an_exception_gets_its_kind_and_reason(run, error, kind, reason):
    found = failure_of(error, run, rank=1)
    assert ("`df -h` shows which is full" in found.reason) == (found.kind == "disk_full")
    assert (found.kind, found.rank) == (kind, 1)
    assert found.reason.startswith(reason)


def test_what_nccl_lacks_in_a_container_is_named(run, monkeypatch):
    for name, value in nccl.BETWEEN_CONTAINERS.items():
        monkeypatch.setenv(name, value)
    error = torch.distributed.DistBackendError(NCCL)
    line = "; set NCCL_P2P_DISABLE=1 NCCL_NVLS_ENABLE=0 in both services, as docker/gpu.yml does"
    for launcher, removed, named in (("compose", 0, False), ("compose", 1, True), ("local", 1, False)):
        run.freeze(Decided.of(run.settings(), launcher=launcher))
        for name in ("NCCL_P2P_DISABLE", "NCCL_NVLS_ENABLE")[: 2 * removed]:
            monkeypatch.delenv(name, raising=False)
        assert failure_of(error, run, rank=1).reason.endswith(line) is named
    assert "NCCL" not in failure_of(ValueError("own"), run, rank=1).reason


def test_what_may_follow_from_another_ranks_failure_is_not_the_runs_yet(run):
    for number, error in enumerate((RuntimeError(GLOO), torch.distributed.DistBackendError(NCCL), ValueError("own"))):
        note_failure(run, number, failure_of(error, run, number))
        assert run.rank_end(number).failure.rank == number
    assert [run.rank_end(number).failure.kind for number in range(3)] == ["lost_rank", "between_ranks", "crash"]
    assert run.failure() == run.rank_end(2).failure


def test_a_rank_that_cannot_write_its_end_still_ends(run, monkeypatch):
    monkeypatch.setattr(type(run), "note_end", lambda *_: (_ for _ in ()).throw(OSError(errno.EIO, "I/O error")))
    note_failure(run, 0, failure_of(ValueError("own"), run, 0))
    assert run.failure().reason == "rank 0: ValueError: own"
