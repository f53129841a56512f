"""What a node program makes of how its ranks end: which of several reasons is the run's."""

import pytest

from sft import resources
from sft.failures import kind_of_library_error
from sft.host.launch.ranks import REASON_WAIT_S, Ranks
from sft.run import typed_json
from sft.run.directory import Run
from sft.run.records import Failure, RankEnd, RankExit

GLOO = "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:555] Connection closed by peer [127.0.0.1]:4713"
NCCL = "NCCL error in: NCCLUtils.cpp:94, unhandled system error (run with NCCL_DEBUG=INFO for details), NCCL version "
REMOTE = NCCL + "2.27.3 ncclRemoteError: A call failed possibly due to a network error or a remote process exiting"
SYSTEM = NCCL + "2.27.3 ncclSystemError: System call or external library call failed or device error."
WATCHDOG = (
    "[rank2]:[E1126 03:27:01.1 ProcessGroupNCCL.cpp:2057] [PG ID 0 PG GUID 0(default_pg) Rank 2] Process group "
    "watchdog thread terminated with exception: "
)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (GLOO, "lost_rank"),
        ("Timed out waiting 15000ms for recv operation to complete", "lost_rank"),
        (REMOTE, "lost_rank"),
        (SYSTEM, "between_ranks"),
        (NCCL + "ncclUnhandledCudaError: Call to CUDA function failed. Last error: out of range", "crash"),
        (
            "NCCL error: invalid usage, ncclInvalidUsage: Duplicate GPU detected : rank 1 and rank 0 both on 17000",
            "crash",
        ),
        ("Bootstrap : no socket interface found. NCCL error: internal error", "crash"),
        ("NCCL: Bind to 10.0.0.1<37171> failed: Address already in use. Connection refused", "crash"),
        (
            "NCCL: Error while creating shared memory segment /dev/shm/nccl-x, error: No space left on device (28)",
            "disk_full",
        ),
        ("NCCL error: unhandled cuda error\nLast error:\nCuda failure 2 'out of memory'", "out_of_memory"),
        ("mat1 and mat2 shapes cannot be multiplied", "crash"),
    ],
)
def test_an_error_that_can_only_be_a_ranks_own_is_told_from_one_that_may_follow_from_anothers(text, kind):
    assert kind_of_library_error(text) == kind


class World:
    """The records of four ranks of a node."""

    def __init__(self, folder):
        self.run = Run(folder)
        self.run.ranks.mkdir()
        self.ranks = Ranks(self.run, range(4))

    def end(self, rank, status="finished"):
        self.run.note_end(rank, RankEnd(status=status))

    def broken(self, rank, kind, reason):
        self.run.note_end(rank, RankEnd(status="failed", failure=Failure(kind=kind, reason=reason, rank=rank)))

    def exit(self, rank, code):
        typed_json.write(self.run.exit_file(rank), RankExit(pid=100 + rank, code=code))

    def found(self):
        self.ranks.look()
        return self.ranks.failure()


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


def test_ranks_are_done_when_all_have_said_so_whatever_their_processes_do_later(world):
    for rank, status in enumerate(("finished", "finished", "stopped")):
        world.end(rank, status)
        world.exit(rank, 0)
        world.ranks.look()
        assert not world.ranks.are_done and world.ranks.broke_at is None
    world.end(3)
    world.exit(3, -11)
    world.ranks.look()
    assert world.ranks.are_done and world.ranks.broke_at is None


def test_a_rank_that_ends_without_a_word_is_not_done(world):
    for rank in range(4):
        world.exit(rank, 0)
    world.ranks.look()
    assert not world.ranks.are_done


def test_records_of_another_node_or_that_cannot_be_read_say_nothing(world):
    world.broken(7, "crash", "rank 7: its own node's")
    world.run.rank_file(0).write_text("{")
    world.run.exit_file(0).write_text('{"version": 1, "pid": 4, "code": "x"}')
    world.ranks.look()
    assert world.ranks.broke_at is None and not world.ranks.ends and not world.ranks.exits


def test_a_killed_rank_is_the_reason_though_its_peers_have_said_theirs_before(world):
    world.broken(1, "lost_rank", f"rank 1: RuntimeError: {GLOO}")
    world.exit(1, 1)
    world.exit(0, -9)
    failure, wait_s = world.found()
    assert (failure.kind, failure.rank, wait_s) == ("killed", 0, 0)
    assert failure.reason == "rank 0 was killed by signal 9 (often because memory ran out: `dmesg` tells)"


def test_an_error_of_its_own_comes_before_the_loss_of_another_rank(world):
    world.broken(1, "lost_rank", f"rank 1: DistBackendError: {REMOTE}")
    world.exit(1, 1)
    failure, wait_s = world.found()  # nobody knows better after twice that time: still better than a code
    assert failure.reason == f"rank 1: DistBackendError: {REMOTE}" and wait_s == 2 * REASON_WAIT_S
    world.broken(0, "between_ranks", f"rank 0: DistBackendError: {SYSTEM}")
    world.exit(0, 1)
    failure, wait_s = world.found()
    assert failure.reason == f"rank 0: DistBackendError: {SYSTEM}" and wait_s == REASON_WAIT_S


@pytest.mark.parametrize(("code", "kind"), [(1, "crash"), (2, "user")])
def test_an_exit_code_is_the_reason_where_a_rank_has_said_nothing_else(world, code, kind):
    world.broken(1, "lost_rank", f"rank 1: RuntimeError: {GLOO}")
    world.exit(0, code)
    failure, wait_s = world.found()
    assert (failure.kind, failure.reason) == (kind, f"rank 0 ended with exit code {code}") and wait_s == REASON_WAIT_S


def test_what_nccls_watchdog_says_before_it_aborts_a_rank_is_the_reason(world):
    world.exit(2, -6)
    failure, wait_s = world.found()  # NCCL aborts a rank that has lost another one, too
    assert failure.reason == "rank 2 was killed by signal 6" and wait_s > 0
    world.ranks.read_line(WATCHDOG + "CUDA error: an illegal memory access was encountered\n")
    failure, wait_s = world.found()
    assert (failure.kind, failure.rank, wait_s) == ("crash", 2, REASON_WAIT_S)
    assert failure.reason == "rank 2: CUDA error: an illegal memory access was encountered"


def test_a_watchdog_that_has_only_lost_another_rank_is_waited_for(world):
    world.ranks.read_line(WATCHDOG + f"{REMOTE}\n")
    world.exit(2, -6)
    failure, wait_s = world.found()
    assert failure.kind == "lost_rank" and wait_s == 2 * REASON_WAIT_S


def test_a_rank_that_the_kernel_killed_for_memory_is_told_from_one_that_somebody_killed(tmp_path, monkeypatch):
    kills = 3  # of an earlier run in the same group
    monkeypatch.setattr(resources, "memory_kills", lambda: kills)
    world = World(tmp_path)
    assert world.ranks.killed("preparing", -9).kind == "killed"
    kills = 4
    found = world.ranks.killed("rank 1", -9, 1)
    assert (found.kind, found.rank) == ("out_of_memory", 1) and "main memory ran out; use fewer" in found.reason
    assert world.ranks.killed("rank 1", -15, 1).kind == "killed"
