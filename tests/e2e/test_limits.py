"""Limits of the shell that would end a run in the middle."""

import json
import subprocess
import sys

ASK = """
import json, sys
from pathlib import Path
from sft.host import limits
from sft.host.doctor import hardware
from sft.host.launch.ranks import Ranks
from sft.run.directory import Run
check = hardware.process_limits(None)
limits.raise_all()
killed = Ranks(Run(Path("none")), range(1)).killed("rank 0", -9, 0)
print(json.dumps([limits.lines(), check.level, check.text, killed.reason]))
"""


def found(ulimit):
    """Return what a program says in a shell that has called ulimit."""
    command = ["sh", "-c", f"{ulimit}; exec {sys.executable} -c '{ASK}'"]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def test_limits_that_cannot_be_raised_are_named_and_the_kernels_kill_is_explained_by_that_of_cpu_time():
    lines, level, text, reason = found("ulimit -t 5000; ulimit -f 2000000")
    cpu, files = lines
    assert cpu == "programs here are killed after 5,000 s of CPU time each (`ulimit -t`)"
    assert "files of at most" in files and "`ulimit -f`" in files
    assert level == "warning" and cpu in text and files in text and "login nodes" in text
    assert reason == f"rank 0 was killed by signal 9 ({cpu})"


def test_limits_that_can_be_raised_are_none():
    lines, level, *_ = found("ulimit -St 5000; ulimit -Sf 2000000")
    assert lines == [] and level == "ok"
