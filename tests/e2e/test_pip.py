"""What the first `make` shows of pip itself, in a terminal and elsewhere."""

import sys
from pathlib import Path

import pytest

from sft.host.install import pip

from .screen import run_in_terminal


@pytest.fixture
def package(tmp_path):
    folder = tmp_path / "package"
    folder.mkdir()
    (folder / "pyproject.toml").write_text(
        '[project]\nname = "small"\nversion = "1.0"\n[tool.setuptools]\npackages = []\n'
    )
    return folder


INSTALL = """
import sys
from pathlib import Path
from sft.host.install import pip
words = ["--no-build-isolation", "--no-deps", "--target", sys.argv[1], sys.argv[2]]
print(pip.pip_install(Path(sys.executable), *words))
"""


def test_pip_itself_is_shown_in_a_terminal_and_elsewhere(package, tmp_path, capfd):
    lines = run_in_terminal(80, "-c", INSTALL, str(tmp_path / "a"), str(package))
    assert [line.split(",")[0] for line in lines] == ["    1 package", "True", ""]
    words = ("--no-build-isolation", "--no-deps", "--target", str(tmp_path / "b"), str(package))
    assert pip.pip_install(Path(sys.executable), *words)
    said, errors = capfd.readouterr()
    assert [line.split(",")[0] for line in said.splitlines()] == [
        "    building small", "    installing 1 package", "    1 package",
    ]  # fmt: skip
    assert not pip.pip_install(Path(sys.executable), "--no-index", "no-such-package")
    said, errors = capfd.readouterr()
    assert said == "" and "no-such-package" in errors
