"""`inv plan` as a program."""

import json
import subprocess
import sys

import pytest

from .project import ROOT


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_the_task_starts_at_once_and_imports_no_torch(options):
    code = (
        "import sys, runpy; sys.argv = ['inv', 'plan', '--gpu', '4090', '--gpus', '4', *sys.argv[1:]]\n"
        "from invoke import main\n"
        "try: main.program.run()\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "assert not {'torch', 'transformers', 'deepspeed', 'numpy'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, *options], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    if options:
        found = json.loads(done.stdout)
        assert found["fits"] and found["gpus"] == 4 and len(found["variants"]) == 16
