"""Every test of the plan is on a machine without GPUs, models and data."""

from pathlib import Path

import pytest

from sft import resources
from sft.host import gpus
from sft.host.plan.job import GIB


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder without models and data, a machine without GPUs and with 64 GiB to spare."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(gpus, "visible", lambda: [])
    monkeypatch.setattr(resources, "available_bytes", lambda: 64 * GIB)
