"""What the image of the nodes is made from, and when a layer of it is made again."""

import ast
import re
import runpy
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = (ROOT / "docker" / "Dockerfile").read_text()
PINS = runpy.run_path(str(ROOT / "docker" / "pins.py"))


@pytest.fixture
def source(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, source)
    for folder in ("sft/host/bootstrap", "sft/host/install"):
        shutil.copytree(ROOT / folder, source / folder)
    for name in ("sft/__init__.py", "sft/host/__init__.py"):
        shutil.copy(ROOT / name, source / name)
    return source


def written(source):
    """The inputs of the layers that install packages."""
    target = source.parent / "pins"
    PINS["main"](source, target)
    return {str(path.relative_to(target)): path.read_text() for path in target.rglob("*") if path.is_file()}


def changed(source, name, before, after):
    """Which inputs are others after a change of a file, whose text has the part that changes."""
    old, text = written(source), (source / name).read_text()
    assert re.search(before, text)
    (source / name).write_text(re.sub(before, after, text, count=1))
    new = written(source)
    return {name for name in old | new if old.get(name) != new.get(name)}


@pytest.mark.parametrize(
    ("name", "before", "after", "inputs"),
    [
        ("pyproject.toml", "line-length = 120", "line-length = 100", set()),
        ("pyproject.toml", '"wandb==.+"', '"wandb==9"', {"requirements.txt"}),
        ("pyproject.toml", r"<=2\.13\.0", "<=2.13.1", {"requirements.txt", "install/pyproject.toml"}),
        ("pyproject.toml", "liger-kernel==.+?\"", 'liger-kernel==9"', {"gpu.txt"}),
        ("pyproject.toml", '"ruff==.+"', '"ruff==9"', set()),
        ("constraints.txt", "ruff==.+", "ruff==9", set()),
        ("constraints.txt", "# Left out", "# Not in here", set()),
        ("constraints.txt", "pyarrow==.+", "pyarrow==99", {"install/constraints.txt"}),
        ("constraints.txt", "uv==.+", "uv==9", {"install/constraints.txt"}),
        ("sft/host/bootstrap/environment.py", "MANAGED", "Managed", set()),
        ("sft/host/install/backends.toml", "525.60.13", "525.60.14", {"install/sft/host/install/backends.toml"}),
    ],
)  # fmt: skip
def test_packages_are_installed_again_only_if_what_they_are_installed_from_has_changed(
    source, name, before, after, inputs
):
    assert changed(source, name, before, after) == inputs


def test_no_layer_with_packages_copies_more_than_what_the_pins_say():
    packages = DOCKERFILE.partition("AS packages")[2].partition("\nFROM ")[0]
    assert re.findall(r"^COPY (?!--from=pins)(\S+)", packages, re.MULTILINE) == []


def test_what_installs_torch_gets_every_module_that_it_imports_and_no_other():
    needed, wanted = set(), ["sft/host/install/torch_build.py"]
    while wanted:
        path = wanted.pop()
        needed.add(path)
        for node in ast.walk(ast.parse((ROOT / path).read_text())):
            names = [f"{node.module}.{name.name}" for name in node.names] if isinstance(node, ast.ImportFrom) else []
            files = {f"{name.replace('.', '/')}.py" for found in names for name in (found, found.rpartition(".")[0])}
            wanted += [
                file for file in files if file.startswith("sft/") and (ROOT / file).is_file() and file not in needed
            ]
    packages = {str(parent / "__init__.py") for path in needed for parent in Path(path).parents if parent.name}
    assert set(PINS["INSTALLER"]) == needed | packages | {"sft/host/install/backends.toml"}


def test_nvidias_compiler_is_only_in_stages_that_a_build_without_flash_attn_skips():
    stages = re.findall(r"^FROM (\S+)(?: AS (\S+))?", DOCKERFILE, re.MULTILINE)
    bases = {name: base for base, name in stages}
    with_nvcc = {name for name in bases if name.startswith("nvcc")} | {"flash-1"}
    needed, wanted = set(), ["", "flash-0"]  # "": the last stage, which is the image
    while wanted:
        stage = wanted.pop()
        text = DOCKERFILE.partition(f"FROM {bases[stage]}" + (f" AS {stage}" if stage else "\n"))[2]
        copied = re.findall(r"^COPY --from=(\S+)", text.partition("\nFROM ")[0], re.MULTILINE)
        wanted += [one for one in [bases[stage].replace("${FLASH_ATTN}", "0"), *copied] if one in bases]
        needed.add(stage)
    assert needed == {"", "packages", "pins", "system", "flash", "flash-0"} and not needed & with_nvcc


def test_the_image_says_which_parts_of_the_driver_it_needs_and_sees_no_card_by_itself():
    assert "NVIDIA_DRIVER_CAPABILITIES=compute,utility NVIDIA_VISIBLE_DEVICES=void" in DOCKERFILE
