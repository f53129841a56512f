"""The table of cards has the form that its readers expect, and goes wherever the package goes."""

import tomllib
from pathlib import Path

import pytest

from sft.host.plan import cards

ROOT = Path(__file__).resolve().parents[2]
TABLE = tomllib.loads(cards.TABLE.read_text(encoding="utf-8"))
FIGURES = {"memory_gib", "matrix_tflops", "fp32_tflops", "bandwidth_gb_s"}
ENTRIES = [(name, figures) for group in TABLE["groups"] for name, figures in group["cards"].items()]


def test_every_group_of_cards_has_a_source():
    assert set(TABLE) == {"links", "groups"}
    for group in TABLE["groups"]:
        assert group["source"] and group["cards"]
        assert set(group) <= {"source", "cards", "has_bf16", "note"}


@pytest.mark.parametrize(("name", "figures"), ENTRIES, ids=[name for name, _ in ENTRIES])
def test_every_card_has_all_figures(name, figures):
    assert set(figures) == {*FIGURES, "link"}
    assert all(figures[key] > 0 for key in FIGURES)
    assert figures["fp32_tflops"] < figures["matrix_tflops"] < 40 * figures["fp32_tflops"]
    assert figures["link"] in TABLE["links"]


def test_every_link_has_a_speed_and_a_user():
    assert {figures["link"] for _, figures in ENTRIES} == set(TABLE["links"])
    for link in TABLE["links"].values():
        assert set(link) == {"gb_s", "name"} and link["gb_s"] > 0 and link["name"]


def test_the_table_is_read_whole_and_in_order():
    assert [card.name for card in cards.CARDS] == [name for name, _ in ENTRIES]
    assert len({card.name for card in cards.CARDS}) == len(cards.CARDS) > 60
    card = cards.need("RTX 2080")
    assert (card.memory_gib, card.link_gb_s, card.link) == (7.7, 6, "PCIe 3.0 through host memory (assumed)")
    assert not card.has_bf16 and not card.note and cards.need("V100 32GB").note


def test_files_beside_the_code_are_part_of_the_package():
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    packaged = {path for package, names in data.items() for name in names for path in named(package, name)}
    files = {path for path in (ROOT / "sft").rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert {path for path in files if path.suffix != ".py"} == packaged


def named(package, name):
    return (ROOT / package.replace(".", "/")).glob(name)
