"""The program that makes data and model ready, as nodes and `make setup` start it."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def preparing(folder):
    """Start to prepare the demo's data and the tiny model in a folder."""
    settings = {"MODEL_NAME": "tiny", "DATASET": "demo", "DEVICE": "cpu", "MAX_LENGTH": "128", "OMP_NUM_THREADS": "1"}
    paths = {"DATA_PATH": str(folder / "data"), "MODEL_PATH": str(folder / "models")}
    return subprocess.Popen(
        [sys.executable, "-m", "sft.trainer.prepare"], cwd=ROOT, env=os.environ | settings | paths,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def test_two_starts_at_once_end_well_and_spoilt_data_is_made_anew(tmp_path):
    """Two containers with one process id removed each other's half-made data, and what one left stayed for ever."""
    left = tmp_path / "data" / "prepared" / ".0123456789abcdef.89abcdef.tmp"
    left.mkdir(parents=True)
    (left / "tokens.raw").write_bytes(b"\0" * 1000)
    both = [preparing(tmp_path) for _ in range(2)]
    said = [process.communicate(timeout=600)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    (prepared,) = (tmp_path / "data" / "prepared").iterdir()
    assert not list(tmp_path.rglob(".*"))

    manifest = prepared / "manifest.json"
    counts = json.loads(manifest.read_text())
    manifest.write_text(manifest.read_text()[:100])
    again = preparing(tmp_path)
    output, _ = again.communicate(timeout=600)
    assert again.returncode == 0, output
    assert json.loads(manifest.read_text()) == counts
    assert list((tmp_path / "data" / "prepared").iterdir()) == [prepared]
