"""The table of results in the report at the end of a run."""

from sft.host.commands.report import evaluation_lines
from sft.run.records import Evaluation, Results


def line(results: Evaluation, name: str) -> list[str]:
    """Return the numbers behind a name in the table."""
    return next(line.removeprefix(name).split() for line in evaluation_lines(results) if line.startswith(name))


def test_answers_that_did_not_end_have_a_line_if_there_are_any():
    before, after = Results(rows=200, answers=200, cut_answers=200), Results(rows=200, answers=200, cut_answers=3)
    assert line(Evaluation(before=before, after=after), "cut at MAX_NEW_TOKENS") == ["100.0%", "1.5%"]
    ended = Evaluation(before=Results(rows=200, answers=200), after=Results(rows=200, answers=200))
    assert "cut at MAX_NEW_TOKENS" not in "".join(evaluation_lines(ended))


def test_without_held_out_rows_a_line_says_so_in_place_of_a_table_of_dashes():
    (line,) = filter(None, evaluation_lines(Evaluation(before=Results(), after=Results())))
    assert line.startswith("No row is held out, so nothing was evaluated")
