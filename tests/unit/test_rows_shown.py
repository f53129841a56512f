"""`make rows` as text and as a page: what is a target can be seen, and nothing in a row steers terminal or browser."""

import io
import itertools
from dataclasses import replace

import pytest
from rich.console import Console

from sft.errors import DataError, RunFailed, UserError
from sft.host.commands import rows
from sft.host.commands.rows import Choice
from sft.host.rows.page import page
from sft.host.rows.shorten import LONG_PIECE, LONG_TOKENS, MOST_PIECES, LeftOut, shortened
from sft.host.rows.summary import summary
from sft.host.rows.text import FEW_SEQUENCES, Writer
from sft.host.rows.visible import visible
from sft.host.screen import terminal
from sft.run.records import Split, TemplateFacts
from sft.run.shown_rows import Bar, Piece, Sequence, ShownRow, ShownRows
from sft.settings.fields import Settings
from sft.settings.load import load

SETTINGS = Settings(max_length=128)
COLUMNS = 80


def piece(kind, text, is_control=False, tokens=1, **more):
    return Piece(kind=kind, text=text, is_control=is_control, ids=list(range(tokens)), **more)


def sequence(*pieces, cut=0):
    return Sequence(pieces=list(pieces), target_tokens=2, cut_tokens=cut)


USUAL = sequence(
    piece("context", "<user>", True),
    piece("context", "1 + 1?"),
    piece("target", "It is 2."),
    piece("end", "</s>", True),
)


def row(*sequences, index=7, where="data/train.jsonl:8"):
    return ShownRow(index=index, where=where, answers=3, target_answers=2, sequences=list(sequences))


def shown(*rows, **more):
    given = {"counts": None, "lengths": [], "template": None, "problems": []} | more
    return ShownRows(split="train", rows=list(rows), number=7473, **given)


def printed(found, whole=False, settings=SETTINGS, encoding="utf-8", **console):
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding, errors="replace", newline="")
    out = Console(file=file, highlight=False, markup=False, **({"width": COLUMNS} | console))
    writer = Writer(out, found, settings.max_length, whole)
    for line in itertools.chain([writer.legend()], *map(writer.row, found.rows)):
        out.print(line)
    file.flush()
    return raw.getvalue().decode(encoding)


IN_COLOUR = {"force_terminal": True, "color_system": "truecolor", "no_color": False}
COUNTS = Split(
    rows=9000, tokens=1_800_000, target_tokens=900_000, longest=128, cut_rows=2, conversations=7460, answers=9100,
    target_answers=9000, dropped_sequences=5, dropped={"longer than MAX_LENGTH": 13}, rows_with_marks=3,
    rows_with_template=1,
)  # fmt: skip
LENGTHS = [
    Bar(least=40, most=59, sequences=1),
    Bar(least=60, most=79, sequences=8000),
    Bar(least=120, most=139, sequences=999),
]
FACTS = TemplateFacts(
    source="the model's own template", templates={}, end_mark="<|im_end|>", end_is_appended=False, stops=[1, 2],
    added_stops=["<|im_end|>"], said=["earlier reasoning is dropped, so each answer is a sequence of its own"],
)  # fmt: skip


# Text


def test_without_colours_targets_and_end_marks_stand_between_marks():
    text = printed(shown(row(USUAL)))
    assert "<user>1 + 1?«It is 2.»⟦</s>⟧" in text and "«…» is a target, ⟦…⟧ a target that ends an answer" in text
    assert "row 7 of 7,473, data/train.jsonl:8" in text and "2 of 3 answers are targets" in text
    assert "4 tokens, 2 of them targets" in text


def test_in_colours_each_kind_has_its_own_and_there_are_no_marks():
    text = printed(shown(row(USUAL)), **IN_COLOUR)
    assert "\x1b[36m<user>\x1b[0m1 + 1?\x1b[1;32mIt is 2.\x1b[0m\x1b[1;37;41m</s>\x1b[0m" in text and "«" not in text


def test_no_color_gives_marks_in_a_terminal_too():
    assert "«It is 2.»" in printed(shown(row(USUAL)), force_terminal=True, color_system="truecolor", no_color=True)


def test_marks_are_those_that_the_rows_do_not_contain_and_that_the_encoding_has():
    french = sequence(piece("context", "Il dit « oui »."), piece("target", "x"))
    assert "⟦x⟧" in printed(shown(row(french)))
    ascii_only = printed(shown(row(USUAL)), encoding="ascii")
    assert ">>>It is 2.<<<{{{</s>}}}" in ascii_only


def test_a_target_with_control_tokens_in_it_stays_between_one_pair_of_marks():
    thinking = sequence(
        piece("target", "<think>", True), piece("target", "hm"), piece("end", "<end>", True), piece("context", "\n")
    )
    assert "«<think>hm»⟦<end>⟧\n" in printed(shown(row(thinking)))


@pytest.mark.parametrize("text", ["[bold]x[/bold]", ":smile:", "[link=file:///etc]x[/link]", "[/]", "\\[x]"])
@pytest.mark.parametrize("console", [{}, IN_COLOUR])
def test_markup_in_a_row_is_text(text, console):
    assert text in printed(shown(row(sequence(piece("context", text)), where=f"{text}:1")), **console)


@pytest.mark.parametrize(
    "code", ["\x1b[2J", "\x9b2J", "\x07", "\r", "\x08", "\x00", "\u202e", "\u2066", "\ufeff", "\u2028"]
)
def test_what_steers_a_terminal_is_written_as_an_escape(code):
    tokens = piece("target", f"a{code}b", token_texts=[f"a{code}b"])
    found = shown(row(sequence(tokens), where=f"a{code}b:1"), problems=[f"a{code}b"], template=FACTS)
    text = printed(found) + "\n".join(summary(found, SETTINGS)) + page(found, SETTINGS)
    assert code not in text and visible(code[0]) in text


def test_words_of_every_language_are_shown_as_they_are():
    for text in ("数学の問題　です", "👩‍🚀 é", "می‌خواهم", "naïve\n\n  two"):
        assert visible(text) == text


def test_nothing_of_the_project_itself_is_wider_than_80_columns():
    found = shown(row(sequence(*USUAL.pieces, cut=40), USUAL), counts=COUNTS, lengths=LENGTHS, template=FACTS)
    lines = [*printed(found, width=500).splitlines(), *summary(found, SETTINGS)]
    assert max(map(len, lines)) <= COLUMNS


def test_a_cut_row_says_how_much_is_cut_and_several_sequences_which_one_it_is():
    text = printed(shown(row(sequence(*USUAL.pieces, cut=40), USUAL)))
    assert "sequence 1 of 2: 4 tokens" in text and "sequence 2 of 2: 4 tokens" in text
    assert "cut at MAX_LENGTH=128: its last 40 tokens are not trained\n" in text


def test_a_dropped_row_says_why_and_by_how_much_it_is_too_long():
    dropped = replace(row(sequence(piece("context", "Long"), cut=40)), dropped="longer than MAX_LENGTH")
    text = printed(shown(dropped))
    assert "dropped, so none of it is trained: longer than MAX_LENGTH\n" in text
    assert "40 more tokens beyond MAX_LENGTH=128\n" in text and "no target is left" not in text
    assert "40 more tokens beyond MAX_LENGTH=128" in page(shown(dropped), SETTINGS)


def test_a_row_without_a_target_within_max_length_says_so():
    nothing = Sequence(pieces=[piece("context", "long")], target_tokens=0, cut_tokens=1)
    text = printed(shown(row(nothing)), width=200)
    assert "its last token is not trained; no target is left, so none of it is trained" in text


def test_a_row_whose_text_holds_marks_or_a_template_says_so():
    lost = "it holds characters that the tokenizer has no token for, or makes others of: é,"
    for more, said in (
        ({"has_marks": True}, "holds control marks"),
        ({"has_template": True}, "holds a whole turn"),
        ({"lost": ["é", "\n"]}, lost),
    ):
        found = shown(replace(row(USUAL), **more))
        assert said in printed(found) and said in page(found, SETTINGS)


def test_tokens_are_listed_with_place_id_kind_and_text():
    asked = sequence(
        piece("context", "a\n", tokens=2, token_texts=["a", "\n"]), piece("end", "</s>", True, token_texts=["</s>"])
    )
    lines = printed(shown(row(asked))).splitlines()
    assert lines[-3:] == [
        "      0        0         'a'", "      1        1         '\\n'", "      2        0  end    '</s>'"
    ]  # fmt: skip


# Long rows


def test_of_a_long_row_the_middle_of_each_piece_is_left_out_and_the_borders_stay():
    long = sequence(
        piece("context", "a" * 9000 + "QUESTION", tokens=LONG_TOKENS), piece("target", "ANSWER" + "b" * 9000, tokens=9)
    )
    text = printed(shown(row(long)), width=10_000)
    assert "[… 8,208 characters left out …]" in text and "QUESTION«ANSWER" in text
    assert "INDEX=7 shows it whole" in text
    assert "left out" not in printed(shown(row(long)), whole=True, width=100_000)
    assert len(text) < 3 * LONG_PIECE


def test_of_many_turns_the_middle_ones_are_left_out():
    many = [piece("context", f"({number})", tokens=100) for number in range(100)]
    kept = shortened(many)
    gaps = [part for part in kept if isinstance(part, LeftOut)]
    assert len(kept) == MOST_PIECES + 1 and [gap.tokens for gap in gaps] == [100 * (100 - MOST_PIECES)]
    assert "6,000 tokens left out" in str(gaps[0])
    assert shortened(many[:20]) == many[:20]


def test_of_many_sequences_the_first_are_shown():
    text = printed(shown(row(*[USUAL] * 9)))
    assert text.count("«It is 2.»") == FEW_SEQUENCES and "5 more sequences of this row left out; INDEX=7" in text
    assert printed(shown(row(*[USUAL] * 9)), whole=True).count("«It is 2.»") == 9


# The split


def test_the_summary_has_counts_lengths_warnings_and_the_template():
    text = "\n".join(summary(shown(counts=COUNTS, lengths=LENGTHS, template=FACTS), SETTINGS))
    flat = " ".join(text.split())
    assert "7,473 rows, 9,000 sequences, 1,800,000 tokens, 900,000 targets (50%)" in flat
    assert "left out 5 more sequences: no target is left within MAX_LENGTH" in flat
    assert "9,000 of 9,100 answers are targets" in flat and "cut 2 rows at MAX_LENGTH=128 (0.0%)" in flat
    assert "dropped 13 rows (0.2%): longer than MAX_LENGTH" in flat
    assert "3 rows hold control marks" in flat and "1 row holds a whole turn of the chat template" in flat
    assert "generation ends at '<|im_end|>' too" in flat and "each answer is a sequence of its own" in flat


def test_the_histogram_draws_even_one_sequence_and_marks_max_length():
    lines = list(summary(shown(counts=COUNTS, lengths=LENGTHS), SETTINGS))
    assert any(line.split() == ["40-59", "1", "█"] for line in lines)
    assert any(line.startswith("   120-139   999 █████") and line.endswith(" MAX_LENGTH=128") for line in lines)
    assert any(
        "longest 128; MAX_LENGTH=1024 cuts none" in line
        for line in summary(shown(counts=replace(COUNTS, cut_rows=0, dropped={}), lengths=LENGTHS), Settings())
    )


def test_a_split_without_rows_and_one_with_unusable_rows_have_a_summary():
    nothing = Split(rows=0, tokens=0, target_tokens=0, longest=0, cut_rows=0)
    assert "0 rows, 0 sequences, 0 tokens, 0 targets" in "\n".join(summary(shown(counts=nothing), SETTINGS))
    assert "7,473 rows" in "\n".join(summary(shown(problems=["a.jsonl:1: is not a JSON object"]), SETTINGS))


def test_of_a_data_set_without_rows_only_the_error_is_shown(monkeypatch, capsys):
    found = replace(shown(problems=["DATASET=empty.jsonl: has no training rows; add some"]), number=0)
    monkeypatch.setattr(rows, "prepared", lambda *_: found)
    with pytest.raises(DataError, match="has no training rows"):
        rows.rows(SETTINGS, Choice(), "", terminal())
    assert capsys.readouterr().out == ""


# The page


def test_everything_of_a_row_is_escaped_in_the_page_and_it_loads_nothing():
    evil = "<script>alert(1)</script>&amp;\"'<img src=x onerror=y>"
    bad = row(sequence(piece("target", evil, token_texts=[evil])), where=f"{evil}:1")
    text = page(shown(bad, problems=[evil]), Settings(dataset=evil, model_name=evil))
    assert "<script" not in text and "<img" not in text and text.count("&lt;script&gt;") >= 5
    assert "http:" not in text and "https:" not in text and "default-src 'none'" in text


def test_the_page_has_whole_rows_with_a_class_for_each_kind():
    long = sequence(piece("context", "a" * 9000, tokens=LONG_TOKENS + 1), *USUAL.pieces, cut=1)
    text = page(shown(row(long), counts=COUNTS), SETTINGS)
    assert "a" * 9000 in text and "left out …" not in text and "its last token is not trained" in text
    for kind, words in (("control", "&lt;user&gt;"), ("target", "It is 2."), ("end", "&lt;/s&gt;")):
        assert f'<span class="{kind}">{words}</span>' in text


# Options


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"index": "-1"}, "INDEX=-1: is not the number of a row"),
        ({"index": "abc"}, "INDEX=abc: is not the number of a row"),
        ({"index": "²"}, "INDEX=²: is not the number of a row"),
        ({"number": "0"}, "NUMBER=0: is not a number of rows"),
        ({"number": "9" * 30}, "is not a number of rows"),
        ({"split": "test"}, "SPLIT=test: is not a split; use train or validation"),
        ({"index": "1", "longest": True}, "INDEX, LONGEST: each chooses rows by itself"),
        ({"longest": True, "cut": True}, "LONGEST, CUT: each chooses rows by itself"),
        ({"index": "1", "number": "2"}, "NUMBER=2: INDEX chooses one row"),
    ],
)
def test_wrong_options_are_refused(given, said):
    with pytest.raises(UserError) as raised:
        Choice.of(**given)
    assert said in str(raised.value) and raised.value.exit_code == 2


def test_options_become_those_of_the_program():
    assert Choice.of().words() == ["--split=train", "--number=3"]
    assert Choice.of(index="5", ids=True).words() == ["--split=train", "--number=3", "--index=5", "--ids"]
    assert Choice.of(longest=True, split="validation").words() == ["--split=validation", "--number=1", "--longest"]


# The program


def test_without_training_packages_the_program_runs_in_a_container_of_its_own(monkeypatch):
    monkeypatch.setattr(rows.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(rows.image, "is_built", lambda: True)
    monkeypatch.setenv("MAX_LENGTH", "64")
    monkeypatch.setenv("HUGGINGFACE_API_KEY", "hf_" + "x" * 30)
    settings = load(None, launcher="compose")
    command, environment = rows.program(settings, Choice.of(index="5").words(), in_containers=True)
    assert command[:2] == ["docker", "compose"] and command[-3:] == ["--split=train", "--number=3", "--index=5"]
    assert "--rm" in command and "MAX_LENGTH=64" in command and "python3" in command
    assert "hf_" not in " ".join(command) and environment["HUGGINGFACE_API_KEY"].startswith("hf_")
    monkeypatch.setattr(rows.image, "is_built", lambda: False)
    with pytest.raises(UserError, match="`make setup` builds it"):
        rows.program(settings, Choice.of().words(), in_containers=True)


def test_the_container_is_told_what_the_file_of_datasets_says(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(rows.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(rows.image, "is_built", lambda: True)
    (tmp_path / "mix.toml").write_text('[[datasets]]\ndataset = "demo"\nshare = 0.5\n')
    monkeypatch.setenv("DATASETS", "mix.toml")
    settings = load(None, launcher="compose")
    command, _ = rows.program(settings, Choice.of().words(), in_containers=True)
    (given,) = (word for word in command if word.startswith("DATASETS="))
    assert load(None, datasets=given.removeprefix("DATASETS=")).datasets == settings.datasets


@pytest.mark.parametrize(
    ("written", "inside"),
    [("mine.jinja", "/app/mine.jinja"), ("~/mine.jinja", "/tmp/mine.jinja"), ("{}/mine.jinja", "{}/mine.jinja")],
)
def test_the_container_sees_the_file_of_the_chat_template(monkeypatch, tmp_path, written, inside):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.jinja").write_text("{{ messages }}")
    found = rows.template_mount(load(None, chat_template=written.format(tmp_path)))
    assert found == ["--volume", f"{tmp_path}/mine.jinja:{inside.format(tmp_path)}:ro"]
    assert rows.template_mount(load(None, chat_template="plain")) == rows.template_mount(load(None)) == []


def test_what_is_not_rows_is_a_failure_and_an_error_is_the_users(monkeypatch):
    for said, code, kind in (
        ('{"error": "INDEX=9: no"}', 2, UserError), ("Killed", -9, RunFailed), ("{}", 0, RunFailed), ("", 0, RunFailed),
    ):  # fmt: skip
        monkeypatch.setattr(rows, "output", lambda command, environment, ended=(code, said): ended)
        with pytest.raises(kind):
            rows.read(SETTINGS, Choice().words(), False, ShownRows)
