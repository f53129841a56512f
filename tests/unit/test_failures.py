"""What broke a run has a kind, and only the kind decides what is done about it."""

import errno
import json
import os
import threading
from pathlib import Path
from typing import get_args

import pytest

from sft.errors import DataError, RunFailed, SettingsError, UserError, kind_of
from sft.failures import POLICIES, Kind, kind_of_exit
from sft.host.commands.watch import Watched
from sft.run import lifecycle
from sft.run.directory import RESERVE_BYTES, Run
from sft.run.records import Failure
from tests.settings import decided


@pytest.fixture
def run(tmp_path):
    return lifecycle.create(decided(runs_path=tmp_path, run_name="a"), "")


def test_every_kind_has_a_policy_and_only_what_the_user_can_fix_ends_with_2():
    assert set(POLICIES) == set(get_args(Kind))
    assert [kind for kind, policy in POLICIES.items() if policy.exit_code == 2] == ["user"]
    hopeless = {kind for kind, policy in POLICIES.items() if not policy.restart_may_help}
    assert hopeless == {"user", "out_of_memory", "not_finite", "disk_full"}


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (UserError("x"), "user"),
        (SettingsError(["x"]), "user"),
        (DataError("x"), "user"),
        (RunFailed("no space left on device, out of memory, is not finite"), "crash"),
        (RunFailed("x", "disk_full"), "disk_full"),
        (RunFailed("x", "user"), "user"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "disk_full"),
        (OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)), "disk_full"),  # what most clusters say
        (ValueError("I/O error: Disk quota exceeded (os error 122)"), "disk_full"),
        (ValueError("I/O error: No space left on device (os error 28)"), "disk_full"),  # as safetensors has it
        (OSError(errno.EIO, os.strerror(errno.EIO)), "crash"),
        (ValueError("x"), "crash"),
    ],
)
def test_an_exception_has_a_kind_and_its_exit_code(error, kind):
    assert kind_of(error) == kind
    if isinstance(error, UserError | RunFailed):
        assert error.exit_code == POLICIES[kind].exit_code


@pytest.mark.parametrize(("code", "kind"), [(-9, "killed"), (-6, "killed"), (1, "crash"), (2, "user"), (247, "crash")])
def test_so_has_an_exit_code(code, kind):
    assert kind_of_exit(code) == kind


@pytest.mark.parametrize("kind", get_args(Kind))
def test_a_restart_follows_from_the_kind_and_not_from_the_words_of_the_reason(run, kind):
    run.end_as_failed(Failure(kind=kind, reason="the loss is not finite: out of memory, No space left on device"))
    watched = Watched(run, interrupted=False, failure=run.failure())
    assert watched.broke and watched.restart_may_help == POLICIES[kind].restart_may_help
    assert watched.found_wrong == (kind == "user")
    assert not Watched(run, interrupted=True, failure=run.failure()).restart_may_help
    run.request_stop("inv stop")
    assert not watched.restart_may_help


def test_the_first_of_many_failures_stays_whole(run):
    barrier = threading.Barrier(20)

    def fail(number):
        barrier.wait()
        run.fail(Failure(kind="killed", reason=f"{number} " * 2000, rank=number))

    threads = [threading.Thread(target=fail, args=(i,)) for i in range(20)]
    for thread in threads:
        thread.start()
    found = None
    while found is None:
        found = run.failure()
    for thread in threads:
        thread.join()
    assert found.reason == f"{found.rank} " * 2000 and run.failure() == found
    run.end_as_failed(Failure(kind="user", reason="later"))
    assert run.failure() == found and run.state().error == found.reason
    assert not list(run.path.glob(".failure.json.*"))


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP, errno.EACCES])
def test_the_first_stays_on_a_file_system_without_hard_links_too(run, monkeypatch, number):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refuse)
    run.fail(Failure(kind="killed", reason="first"))
    run.fail(Failure(kind="killed", reason="second"))
    assert run.failure().reason == "first" and not list(run.path.glob(".failure.json.*"))


def test_a_full_disk_gives_up_the_reserve_for_the_reason(run, monkeypatch):
    write_text = Path.write_text

    def full(path, *arguments, **options):
        if (run.path / ".reserve").exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write_text(path, *arguments, **options)

    assert (run.path / ".reserve").stat().st_size == RESERVE_BYTES
    monkeypatch.setattr(Path, "write_text", full)
    run.fail(Failure(kind="disk_full", reason="full"))
    assert run.failure() == Failure(kind="disk_full", reason="full")


def test_what_an_earlier_version_has_noted_is_read(tmp_path):
    (tmp_path / "failed").write_text("rank 1: RuntimeError: boom\n")
    assert Run(tmp_path).failure() == Failure(kind="crash", reason="rank 1: RuntimeError: boom")


def test_a_record_that_cannot_be_read_is_a_failure_all_the_same(run):
    run.failure_file.write_text(json.dumps({"version": 1, "kind": "weather", "reason": "x"}))
    found = run.failure()
    assert found.kind == "crash" and 'failure.json: kind is "weather"' in found.reason


@pytest.mark.parametrize("name", ["failure.json", "failed", "ranks/rank-0.json", "ranks/exit-0.json"])
def test_a_new_attempt_begins_without_the_last_ones(run, name):
    run.update_state("failed", error="x")
    (run.path / name).write_text("x")
    lifecycle.reopen(run, run.settings())
    assert run.failure() is None and run.rank_end(0) is None and run.rank_exit(0) is None
    assert run.ranks.is_dir() and not list(run.ranks.iterdir()) and run.state().earlier_errors == ["x"]
