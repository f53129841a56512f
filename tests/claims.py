"""The port that a run gets now."""

from __future__ import annotations

import io

from rich.console import Console

from sft.host.launch import ports
from sft.settings.fields import Settings


def claimed(settings: Settings) -> tuple[int, str]:
    """Claim the ports of a run and release them; return MASTER_PORT, and what was said about it."""
    said = io.StringIO()
    claim = ports.claim(settings, Console(file=said, width=200))
    claim.close()
    return claim.port, said.getvalue().strip()
