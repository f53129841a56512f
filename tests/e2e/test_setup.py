"""What `inv setup` passes on."""

import os
import subprocess
import sys

from sft.host.commands import setup


def test_setup_tells_what_the_program_that_prepares_found(tmp_path, monkeypatch):
    """Its libraries write to the same output."""
    monkeypatch.chdir(tmp_path)
    command = [sys.executable, "-m", "sft.trainer.prepare"]
    environment = os.environ | {"BATCH_SIZE": "0", "DATASET": "data/none.csv", "PYTHONPATH": str(setup.EXAMPLE.parent)}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    assert [line.split(":")[0] for line in setup.error_in("a library's line\n" + done.stdout).splitlines()] == [
        "BATCH_SIZE=0", "DATASET=data/none.csv",
    ]  # fmt: skip
    assert setup.error_in("Killed") == setup.error_in("") == ""
