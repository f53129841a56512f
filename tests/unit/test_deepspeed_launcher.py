"""DeepSpeed's launcher, run without torch, starts and ends ranks as it does by itself."""

import base64
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RANK = """
import json, os, pathlib, sys, time
folder, rank = pathlib.Path(sys.argv[-1]), os.environ["RANK"]
(folder / f"{rank}.json").write_text(json.dumps([sys.argv[1:-1], dict(os.environ)]))
if rank == "3":
    while not (folder / "2.json").exists():  # it would be ended with this one
        time.sleep(0.01)
    sys.exit(int(os.environ["END_WITH"]))
"""
# main() comes back only where all ranks have ended well.
RUN = "import sys; from {package} import {module} as launcher; launcher.main(); print('torch' in sys.modules)"
WORLD = base64.urlsafe_b64encode(json.dumps({"llm-master": [0, 1], "llm-worker": [0, 1]}).encode()).decode()


def started(folder, package, module, end_with):
    """Return how the launcher of the second node ended, and the arguments and environments of its ranks."""
    folder.mkdir()
    (folder / "rank_program.py").write_text(RANK)
    given = {"DS_ACCELERATOR": "cpu", "END_WITH": str(end_with), "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}
    words = [f"--world_info={WORLD}", "--node_rank=1", "--master_addr=127.0.0.1", "--master_port=29501"]
    done = subprocess.run(
        [sys.executable, "-c", RUN.format(package=package, module=module), *words, "--module", "rank_program", folder],
        env=os.environ | given, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    ranks = {path.name: json.loads(path.read_text()) for path in folder.glob("*.json")}
    for _, environment in ranks.values():
        environment.pop("PYTORCH_NVML_BASED_CUDA_CHECK", None)  # a rank's own import of DeepSpeed sets it too
        del environment["PYTHONPATH"]
    return done, ranks


@pytest.mark.parametrize("end_with", [0, 3])
def test_ranks_start_and_end_as_under_deepspeeds_own(tmp_path, end_with):
    ours, our_ranks = started(tmp_path / "ours", "sft.host", "deepspeed_launcher", end_with)
    theirs, their_ranks = started(tmp_path / "theirs", "deepspeed.launcher", "launch", end_with)
    assert sorted(our_ranks) == ["2.json", "3.json"] and our_ranks == their_ranks
    assert ours.returncode == theirs.returncode == end_with
    for done, has_torch in ((ours, False), (theirs, True)):
        if end_with:
            assert "exits with return code = 3" in done.stdout  # the node program reads it
        else:
            assert done.stdout.count("exits successfully") == 2
            assert done.stdout.splitlines()[-1] == str(has_torch)
