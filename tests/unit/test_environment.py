"""What the first `make` shows while it installs."""

import io

from sft.host.install import shown as progress
from tests.e2e.screen import lines_shown

OUTPUT = """\
Obtaining file:///home/me/sft
  Installing build dependencies: started
Collecting torch<=2.13.0,>=2.11 (from sft==0.1.0)
  Downloading torch-2.13.0-cp311-cp311-manylinux_2_28_x86_64.whl.metadata (29 kB)
Collecting deepspeed
  Downloading deepspeed-0.19.8.tar.gz (1.5 MB)
Requirement already satisfied: rich in ./.venv/lib/python3.11/site-packages (14.0)
Downloading torch-2.13.0-cp311-cp311-manylinux_2_28_x86_64.whl (190.4 MB)
Using cached transformers-5.23.0-py3-none-any.whl (10.5 MB)
Downloading click-8.1-py3-none-any.whl (98 kB)
Building wheels for collected packages: deepspeed
  Building wheel for deepspeed (pyproject.toml): started
  Building wheel for deepspeed (pyproject.toml): finished with status 'done'
Installing collected packages: torch, transformers, click, deepspeed
Successfully installed click-8.1 deepspeed-0.19.8 torch-2.13.0 transformers-5.23.0
"""


class Terminal(io.StringIO):
    def isatty(self):
        return True


def shown(out):
    seen = progress.Shown(out)
    for line in OUTPUT.splitlines(keepends=True):
        seen.note(line)
    seen.end(True)
    return out.getvalue()


def test_a_log_has_a_line_for_what_takes_long_and_no_control_codes():
    assert shown(io.StringIO()).splitlines() == [
        "    downloading torch-2.13.0 (190.4 MB)",
        "    building deepspeed",
        "    installing 4 packages",
        "    4 packages, 202 MB, in 0:00",
    ]


def test_a_terminal_has_one_line_that_changes():
    text = shown(Terminal())
    assert "downloading click-8.1 (98 kB)" in text and "using cached transformers-5.23.0 (10.5 MB)" in text
    assert lines_shown(text, 80) == ["    4 packages, 202 MB, in 0:00", ""]
