"""The table of cards: its form, and which of its cards a name means."""

import tomllib
from pathlib import Path

import pytest

from sft.errors import UserError
from sft.host.plan import cards

ROOT = Path(__file__).resolve().parents[3]
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
        assert set(link) - {"through_host"} == {"gb_s", "name"} and link["gb_s"] > 0 and link["name"]
        slower = TABLE["links"][link["through_host"]] if "through_host" in link else {"gb_s": 0}
        assert slower["gb_s"] < link["gb_s"] and "through_host" not in slower


def test_cards_of_different_containers_copy_through_host_memory():
    apart = cards.need("H100 SXM").between_containers()
    assert (apart.link_gb_s, apart.link) == (20, "PCIe 5.0 through host memory (assumed)")
    assert apart.between_containers() is apart
    assert cards.need("4090").between_containers() is cards.need("4090")


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


@pytest.mark.parametrize(
    ("name", "card"),
    [
        ("4090", "RTX 4090"), ("rtx4090", "RTX 4090"), ("NVIDIA GeForce RTX 4090", "RTX 4090"), ("h100", "H100"),
        ("NVIDIA H100 80GB HBM3", "H100"), ("NVIDIA H100 PCIe", "H100 PCIe"), ("a100-40", "A100 40GB"),
        ("NVIDIA A100-SXM4-80GB", "A100 80GB"), ("NVIDIA RTX 6000 Ada Generation", "RTX 6000 Ada"),
        ("Quadro RTX 6000", "Quadro RTX 6000"), ("Tesla T4", "T4"), ("Tesla V100-PCIE-32GB", "V100 32GB"),
        ("NVIDIA A100 80GB PCIe", "A100 80GB"), ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", "A100 40GB"),
        ("3060", "RTX 3060"), ("rtx4070tisuper", "RTX 4070 Ti SUPER"), ("4060 Ti 16", "RTX 4060 Ti 16GB"),
        ("2080", "RTX 2080"), ("NVIDIA GeForce RTX 4090 D", "RTX 4090 D"), ("A10", "A10"), ("A10G", "A10G"),
        ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", "RTX PRO 6000 Blackwell"),
    ],
)  # fmt: skip
def test_cards_are_found_by_the_names_that_people_and_drivers_use(name, card):
    assert cards.need(name).name == card


def test_every_card_is_found_by_its_own_name():
    for card in cards.CARDS:
        assert cards.need(card.name) == cards.need(f"NVIDIA {card.name}") == card


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("RTX 6000", "3 cards have this name; use Quadro RTX 6000 or RTX 6000 Ada or RTX PRO 6000 Blackwell"),
        ("A100", "2 cards have this name; use A100 40GB or A100 80GB"),
        ("V100", "2 cards have this name; use V100 16GB or V100 32GB"),
        ("4060 Ti", "2 cards have this name; use RTX 4060 Ti 8GB or RTX 4060 Ti 16GB"),
        ("4900", "is not a card that the plan knows; did you mean RTX 4090 or RTX 4090 D or Quadro RTX 4000? "),
        ("RTX 3050", "is not a card that the plan knows; did you mean RTX 3060 or RTX 3060 Ti or RTX 3070? "),
        ("RTX 4090 Laptop GPU", "is not a card that the plan knows; did you mean RTX 4090 or RTX 4090 D? "),
        ("P4", "is not a card that the plan knows; GPU_GIB=N plans for any card with that much memory"),  # never L4
        ("P100", "is not a card that the plan knows; GPU_GIB=N plans for any card with that much memory"),
        ("", "is not a card that the plan knows; GPU_GIB=N plans for any card with that much memory"),
    ],
)
def test_a_name_that_may_mean_several_cards_or_none_is_asked_back(name, said):
    with pytest.raises(UserError) as caught:
        cards.need(name)
    assert str(caught.value).startswith(f"GPU={name}: {said}")


def test_a_card_that_is_here_is_known_by_its_memory_where_its_name_is_not_enough():
    assert cards.find("NVIDIA GeForce RTX 4060 Ti", 15.99).name == "RTX 4060 Ti 16GB"
    assert cards.find("NVIDIA GeForce RTX 4060 Ti", 8.0).name == "RTX 4060 Ti 8GB"
    assert cards.find("NVIDIA GeForce RTX 4090 Laptop GPU", 16.0) is None
