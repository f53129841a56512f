"""A value of a wrong type anywhere in a run's files is a line for the user, never a traceback."""

import copy
import io
import json
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from sft import hostfile
from sft.host import provenance
from sft.host.commands import ending, metrics_reader, monitor, report, snapshot
from sft.run import lifecycle
from tests.settings import decided

OLDER = Path(__file__).parent / "older_run"
VALUES = ("x", -1, None, [], {"a": 1}, 10**400, 1e308, True)


@pytest.fixture
def run(tmp_path):
    run = lifecycle.create(decided(runs_path=tmp_path, run_name="a"), hostfile.hostfile(2, 1))
    shutil.copytree(OLDER, run.path, dirs_exist_ok=True)
    return run


class Screen(Console):
    """A console that takes lines as they are: to wrap them takes longer than all that is looked at here."""

    def print(self, *objects, **options):
        if not all(isinstance(found, str) for found in objects):
            super().print(*objects, **options)


def places(value, path=()):
    """Yield the path of every value inside of JSON data, and of the data itself."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))


def changed(value, path, new):
    if not path:
        return new
    value = copy.deepcopy(value)
    inner = value
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = new
    return value


# The monitor does not read settings.json.
@pytest.mark.parametrize("name", sorted({path.name for path in OLDER.glob("*.json")} - {"settings.json"}))
def test_no_wrong_value_in_a_file_ends_the_monitor_or_the_report_with_a_traceback(run, name):
    content = json.loads((OLDER / name).read_text())
    named = 0
    for number, path in enumerate(places(content)):
        (run.path / name).write_text(json.dumps(changed(content, path, VALUES[number % len(VALUES)])))
        reader = metrics_reader.MetricsReader(run)
        seen = snapshot.Snapshot.of(run, reader.read(), reader.problems())
        json.dumps(seen.to_json(), allow_nan=False)
        screen = Screen(file=io.StringIO(), width=80, highlight=False, markup=False, emoji=False)
        screen.print(monitor.render(seen))
        report.report(run, screen)
        ending.stopped(run, "make resume")
        provenance.since_it_began(run)
        named += len(seen.problems)
        assert all(line.startswith(f"{run.path / name}: ") for line in seen.problems)
    assert named > number / 3  # many places may have any value, or one of these
