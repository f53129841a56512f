"""The records of a run directory: what is written is read again, and what is not a record is named."""

import dataclasses
import json
import math
import types
import typing
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from sft.run import records, typed_json
from sft.run.files import Unreadable
from sft.run.light import dataclass
from sft.run.metrics import Line
from sft.run.typed_json import Part, Record

NUMBERS = some.integers(-(2**63) + 1, 2**63 - 1), some.floats(allow_nan=False, allow_infinity=False)
TEXT = some.sampled_from(["", "a", "step", "größer", "数", "two words", "a\nb", "\0", '"', "\\", "\u2028", "x" * 300])
JSON = some.sampled_from(
    [None, True, 0, -(2**62), 1.5, 5e-324, "", "größer", [], {}, [1, [None, "a"]], {"a": {"b": [0.1]}, "": False}]
)
PLAIN = {
    int: NUMBERS[0],
    float: NUMBERS[1],
    str: TEXT,
    bool: some.booleans(),
    types.NoneType: some.none(),
    object: JSON,
}


def values(kind):
    """Return a strategy for the values of a field's type."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return some.sampled_from(arguments)
    if origin in (typing.Union, types.UnionType):
        return some.one_of(*map(values, arguments))
    if origin is list:
        return some.lists(values(arguments[0]), max_size=2)
    if origin is dict:
        return some.dictionaries(TEXT, values(arguments[1]), max_size=2)
    if kind in PLAIN:
        return PLAIN[kind]
    return of(kind)


def of(kind: type[Part]):
    """Return a strategy for records of a class, with unknown keys too."""
    hints = typed_json.field_types(kind)
    unknown = some.sampled_from([{}, {"new": 1}, {"": None, "größer": {"a": [0.5, {"b": []}]}}])
    if kind is records.Environment:
        unknown = some.just({})  # what is unknown in the file belongs to its first start
    return some.builds(kind, **{name: values(hint) for name, hint in hints.items()}, extra=unknown)


KINDS = [kind for kind in Record.__subclasses__() if kind.__module__.startswith(records.__name__)]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_is_read_again(kind, tmp_path):
    path = tmp_path / "record.json"

    @settings(max_examples=settings.default.max_examples // 4)  # many classes, and the same code for all
    @given(of(kind))
    def check(record):
        typed_json.write(path, record, flushed=False)
        assert typed_json.read(path, kind) == record
        assert json.loads(path.read_text())["version"] == kind.version

    check()


@dataclass(frozen=True, kw_only=True)
class Inner(Part):
    size: float
    names: dict[str, list[int]] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Outer(Record):
    version = 2

    count: int
    colour: Literal["red", "blue"] = "red"
    share: float | None = None
    inner: Inner | None = None
    many: list[Inner] = dataclasses.field(default_factory=list)
    either: int | str = 0

    @classmethod
    def upgraded(cls, content, version):
        return {"count": content} if isinstance(content, int) else content


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"count": "x"}, 'count is "x", not a whole number'),
        ({"count": 1.0}, "count is 1.0, not a whole number"),
        ({"count": True}, "count is True, not a whole number"),
        ({"count": None}, "count is null, not a whole number"),
        ({"count": 10**30}, "count is 1" + "0" * 30 + ", not a whole number"),
        ({}, "has no count"),
        ({"count": 1, "colour": "green"}, 'colour is "green", not one of red, blue'),
        ({"count": 1, "colour": ["red"]}, "colour is a list, not one of red, blue"),
        ({"count": 1, "share": "half"}, 'share is "half", not a number'),
        ({"count": 1, "share": 10**400}, f"share is 1{'0' * 38}…, not a number"),
        ({"count": 1, "inner": 7}, "inner is 7, not an object"),
        ({"count": 1, "inner": {}}, "inner has no size"),
        ({"count": 1, "many": {"size": 1}}, "many is an object, not a list"),
        ({"count": 1, "many": [{"size": 1}, {"size": None}]}, "many[1].size is null, not a number"),
        ({"count": 1, "many": [{"size": 1, "names": {"a": ["b"]}}]}, 'many[0].names.a[0] is "b", not a whole number'),
        ({"count": 1, "either": []}, "either is a list, not a text"),
        ({"count": 1, "version": "new"}, "version is new, not a whole number"),
        ({"count": 1, "version": 3}, "was written by a newer version of the project (version 3, not 2)"),
        ([], "does not hold a JSON object"),
    ],
)  # fmt: skip
def test_a_file_with_a_wrong_type_is_named_with_its_field(tmp_path, content, said):
    path = tmp_path / "record.json"
    path.write_text(json.dumps(content))
    with pytest.raises(Unreadable) as raised:
        typed_json.read(path, Outer, "it is left out")
    assert str(raised.value) == f"{path}: {said}; it is left out"


def test_an_older_form_is_brought_up_to_date_and_a_number_that_is_not_finite_is_refused(tmp_path):
    path = tmp_path / "record.json"
    path.write_text("7")
    assert typed_json.read(path, Outer) == Outer(count=7)
    path.write_text('{"count": 7, "share": 2, "inner": {"size": 1e3}}')
    found = typed_json.read(path, Outer)
    assert found == Outer(count=7, share=2.0, inner=Inner(size=1000.0)) and type(found.share) is float
    path.write_text('{"count": 7, "share": 1e999}')
    with pytest.raises(Unreadable, match="share is inf, not a number"):
        typed_json.read(path, Outer)


def test_unknown_keys_survive_an_update_at_every_depth(tmp_path):
    path = tmp_path / "record.json"
    path.write_text('{"version": 2, "count": 1, "new": [1], "inner": {"size": 1, "newer": null}}')
    found = typed_json.read(path, Outer)
    typed_json.write(path, replace(found, count=2))
    content = json.loads(path.read_text())
    assert content["new"] == [1] and content["inner"]["newer"] is None and content["count"] == 2


def test_a_number_that_is_not_finite_is_written_as_none(tmp_path):
    path = tmp_path / "record.json"
    typed_json.write(path, Outer(count=1, share=math.nan))
    assert typed_json.read(path, Outer) == Outer(count=1, share=None)


@given(NUMBERS[0], some.dictionaries(TEXT.filter(lambda name: name not in ("step", "time")), some.one_of(*NUMBERS)))
def test_a_line_of_the_metrics_is_read_as_it_was_written(step, values):
    for time in (None, 1795676287.604):
        line = Line(step, values, time)
        assert Line.parse(line.as_text().encode()) == line


@pytest.mark.parametrize("number", ["1e999", "1" + "0" * 400, '"x"', "true", "[]"])
def test_a_line_of_the_metrics_with_something_else_than_a_number_is_none(number):
    assert Line.parse(f'{{"step": 1, "train/loss": {number}}}'.encode()) is None
    assert Line.parse(f'{{"step": {number}}}'.encode()) is None


# As the project wrote them before its records had versions.
NEW = {  # had no older form
    records.Capabilities, records.Failure, records.Job, records.Looks, records.RankEnd, records.RankExit, records.Share,
    records.Tried,
}  # fmt: skip
OLDER = Path(__file__).parent / "older_run"
FILES = {
    "state": records.State,
    "settings": records.FrozenSettings,
    "prepared": records.Prepared,
    "environment": records.Environment,
    "node-0": records.NodeInfo,
    "plan": records.PlanSummary,
    "budget": records.Budget,
    "evaluation": records.Evaluation,
    "checkpoint/manifest": records.Manifest,
    "data/manifest": records.PreparedData,
}


def covers(newer, older):
    """Tell whether JSON data has everything that older data has, and at most more keys."""
    if isinstance(older, dict):
        return all(key in newer and covers(newer[key], inner) for key, inner in older.items())
    if isinstance(older, list):
        return len(newer) == len(older) and all(map(covers, newer, older))
    return newer == older


def test_every_file_has_an_older_form_here():
    assert {*KINDS} - {*FILES.values()} == NEW


@pytest.mark.parametrize("name", FILES)
def test_a_file_from_before_versions_is_read_and_rewritten_with_all_that_it_said(name, tmp_path):
    path = OLDER / f"{name}.json"
    found = typed_json.read(path, FILES[name])
    typed_json.write(tmp_path / "new.json", found)
    older, newer = json.loads(path.read_text()), json.loads((tmp_path / "new.json").read_text())
    if name == "budget":  # a bare list, whose cuts had other names
        cut = {"failed_size": 8190, "limit": 6144, "step": "step 17", "phase": "backward", "rank": 2}
        assert newer["cuts"][0] == {"setting": "max_tokens_per_micro_step", "configured": 8192} | cut
        older = {"cuts": [{}, {}]}
    assert newer["version"] == FILES[name].version and covers(newer, older)
    assert typed_json.read(tmp_path / "new.json", FILES[name]) == found and (not found.extra or name == "settings")


def test_a_budget_of_version_1_is_read_with_the_names_of_now_and_keeps_what_nobody_knows(tmp_path):
    bare = json.loads((OLDER / "budget.json").read_text())
    path = tmp_path / "budget.json"
    path.write_text(json.dumps({"version": 1, "cuts": [bare[0] | {"later": 1}], "note": "x"}))
    found = typed_json.read(path, records.Budget)
    assert [(cut.limit, cut.extra) for cut in found.cuts] == [(6144, {"later": 1})] and found.extra == {"note": "x"}


def test_what_a_writer_may_change_of_the_state_are_its_fields():
    changes, fields = typing.get_type_hints(records.StateChanges), typed_json.field_types(records.State)
    assert changes.keys() == fields.keys() - {"status", "updated_at"}
    for name, kind in changes.items():
        assert fields[name] in (kind, kind | None), name


def test_a_record_is_made_of_named_values_and_stays_as_it_is():
    made = Inner(size=1.0)
    assert made == Inner(size=1.0, names={}, extra={}) and made != Inner(size=2.0)
    assert made.names is not Inner(size=1.0).names and repr(made).startswith("Inner(size=1.0, ")
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.size = 2.0
    with pytest.raises(TypeError, match="Inner needs size"):
        Inner()
    with pytest.raises(TypeError, match="Inner has no colour"):
        Inner(size=1.0, colour="red")
