"""What the first `make` shows of pip itself, in a terminal and elsewhere."""

import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from sft.host.install import pip
from tests.processes import wait_for_end

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


def test_what_pip_does_elsewhere_by_the_users_own_settings_it_does_not_do_here(package, tmp_path, monkeypatch):
    """`user = true` is usual on clusters, where pip refuses it in an environment."""
    conf = tmp_path / "pip.conf"
    conf.write_text("[install]\nuser = true\n")
    place = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", "--system-site-packages", place], check=True)
    (place / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages" / "ours.pth").write_text(
        next(path for path in sys.path if path.endswith("site-packages"))
    )
    variables = {"PIP_CONFIG_FILE": conf, "PIP_USER": "1", "PIP_TARGET": tmp_path / "other", "PIP_DRY_RUN": "1"}
    for name, value in variables.items():
        monkeypatch.setenv(name, str(value))
    assert pip.pip_install(place / "bin" / "python", "--no-build-isolation", "--no-deps", str(package))
    assert not (tmp_path / "other").exists() and list(place.glob("lib/*/site-packages/small-1.0.dist-info"))


INTERRUPTED = """
import sys
from pathlib import Path
from sft.host.bootstrap.stop import run
from sft.host.install import pip
run(lambda: pip.pip_install(Path(sys.argv[1])), after="start again")
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_installation_with_one_line_and_leaves_no_pip(tmp_path, number):
    slow_python = tmp_path / "python"
    slow_python.write_text("#!/bin/sh\necho 'Building wheel for small (pyproject.toml): started'\nsleep 600\n")
    slow_python.chmod(0o755)
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, str(slow_python)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "    building small\n"
    pips = psutil.Process(process.pid).children(recursive=True)
    assert pips
    process.send_signal(number)
    process.send_signal(number)  # a second one does not interrupt the end of pip
    said, errors = process.communicate()
    assert (said, errors) == ("", f"ended by {number.name}: start again\n")
    assert process.returncode == 128 + number
    wait_for_end(pips)
