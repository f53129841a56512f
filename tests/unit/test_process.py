"""What a rank does by itself."""

import os
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RANK = "import time; from sft.trainer import process; process.begin(); time.sleep(600)"


def test_a_rank_without_its_node_ends_even_if_nobody_reads_what_it_says():
    node = subprocess.Popen([sys.executable, "-c", ""])
    node.wait()
    read, write = os.pipe()
    os.close(read)
    environment = {**os.environ, "SFT_NODE_PID": str(node.pid)}
    rank = subprocess.Popen([sys.executable, "-c", RANK], stdout=write, stderr=write, env=environment, cwd=ROOT)
    os.close(write)
    try:
        assert rank.wait(timeout=60) == -signal.SIGKILL
    finally:
        rank.kill()
