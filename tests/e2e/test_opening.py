"""One run is opened by one program at a time, however many try at the same moment."""

import multiprocessing
import re
import threading

import pytest

from sft.errors import UserError
from sft.host.launch import inputs
from sft.host.launch.open import open_run
from sft.run import directory as runs
from sft.run import lifecycle
from tests.settings import decided, decision

from ..unit.conftest import clean_environment  # noqa: F401 (a fixture)

PROGRAMS, ROUNDS = 4, 25
TIMEOUT_S = 60


def settings_of(folder, kind, number):
    """Return the settings with which all programs of a round start."""
    name = "" if kind == "unnamed" else f"run-{number}"
    path = folder / f"runs-{number}" if kind == "unnamed" else folder
    return decided(runs_path=path, run_name=name, model_name="tiny", dataset="demo")


def program(folder, kind, barrier, results):
    """Try to open a run in every round, at the same moment as the others, and keep it until all have tried."""
    for number in range(ROUNDS):
        settings = settings_of(folder, kind, number)
        barrier.wait(TIMEOUT_S)
        try:
            with open_run(decision(settings), lambda line: None) as run:
                results.put((number, str(run.path)))
                barrier.wait(TIMEOUT_S)
        except UserError as error:
            results.put((number, error.problems[0] if hasattr(error, "problems") else str(error)))
            barrier.wait(TIMEOUT_S)


@pytest.mark.parametrize("kind", ["named", "unnamed", "resumed"])
def test_exactly_one_of_many_programs_opens_a_run(tmp_path, kind):
    if kind == "resumed":
        for number in range(ROUNDS):
            lifecycle.create(settings_of(tmp_path, kind, number), "").update_state("stopped")
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(PROGRAMS), context.Queue()
    programs = [context.Process(target=program, args=(tmp_path, kind, barrier, results)) for _ in range(PROGRAMS)]
    for process in programs:
        process.start()
    found = [results.get(timeout=TIMEOUT_S) for _ in range(PROGRAMS * ROUNDS)]
    for process in programs:
        process.join(TIMEOUT_S)
        assert process.exitcode == 0
    for number in range(ROUNDS):
        said = [text for of, text in found if of == number]
        refused = [
            text
            for text in said
            if re.search(r": is running; `make monitor NAME=.*` shows it, `make stop .*` ends it$", text)
        ]
        won = [text for text in said if text not in refused]
        assert len(refused) == PROGRAMS - 1 and len(won) == 1, said
        assert runs.Run(tmp_path / won[0]).state().status == "launching"
        assert not any("\n" in text for text in refused)


def test_a_run_is_free_again_when_its_program_has_ended(tmp_path):
    settings = decided(runs_path=tmp_path, run_name="a")
    with open_run(decision(settings), print) as run:
        with pytest.raises(UserError, match="is running"), open_run(decision(settings), print):
            pass
        run.update_state("stopped")
    said = []
    with open_run(decision(settings), said.append) as again:
        assert again.path == run.path
    assert said == [f"run {run.path}: starting again; it had not trained a step"]


def test_a_node_at_work_keeps_others_out(tmp_path):
    """The task that opened the run may be gone, its nodes not yet."""
    settings = decided(runs_path=tmp_path, run_name="a")
    run = lifecycle.create(settings, "")
    run.update_state("saving")
    with run.lock(), pytest.raises(UserError, match="is running"), open_run(decision(settings), print):
        pass
    assert run.state().status == "saving"


@pytest.mark.parametrize("held", ["lock", "claim"])
def test_an_attempt_that_has_ended_is_given_the_time_to_go_away(tmp_path, monkeypatch, held):
    """After `make stop`, the nodes or the program that started them may be there for a moment."""
    settings = decided(runs_path=tmp_path, run_name="a")
    run = lifecycle.create(settings, "")
    rest, looks = getattr(run, held)(), []
    run.update_state("stopped")

    def look(self):
        looks.append(rest.close() if len(looks) == 2 else None)
        return ended(self)

    ended = runs.Run.is_about_to_go
    monkeypatch.setattr(runs.Run, "is_about_to_go", look)
    with open_run(decision(settings), print) as again:
        assert again.state().attempt == 2 and len(looks) == 3
    run.update_state("stopped")
    monkeypatch.setattr(runs, "LAST_ATTEMPT_S", 0)
    with getattr(run, held)(), pytest.raises(UserError, match="is running"), open_run(decision(settings), print):
        pass
    assert run.state().status == "stopped"


def test_one_that_only_looks_keeps_no_run_from_starting(tmp_path):
    run = lifecycle.create(decided(runs_path=tmp_path, run_name="a"), "")
    run.lock().close()
    looking = threading.Event()

    def look():
        while not looking.is_set():
            run.is_running()

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        for _ in range(200):
            lock = run.lock()
            assert lock is not None
            lock.close()
    finally:
        looking.set()
        watcher.join()


def opened(settings):
    with open_run(decision(settings), lambda line: None) as run:
        return run


def test_a_run_keeps_the_chat_template_that_it_was_trained_with(tmp_path):
    file = tmp_path / "mine.jinja"
    file.write_text("\ufeff{{ messages }}")
    settings = decided(
        runs_path=tmp_path / "runs", run_name="a", model_name="tiny", dataset="demo", chat_template=str(file)
    )
    run = opened(settings)
    assert run.chat_template.read_text() == "{{ messages }}"
    file.write_text("{{ messages }}, changed")
    assert opened(settings).chat_template.read_text() == "{{ messages }}, changed"  # it has not trained a step
    run.final.mkdir()
    file.write_text("{{ messages }}, changed again")
    assert opened(settings).chat_template.read_text() == "{{ messages }}, changed"
    file.unlink()
    inputs.check(settings)
    assert opened(settings).chat_template.read_text() == "{{ messages }}, changed"
    with pytest.raises(UserError, match="CHAT_TEMPLATE=.*other.jinja: no such file"):
        inputs.check(type(settings).of(settings, chat_template=str(tmp_path / "other.jinja")))
