"""Keep what the checks have measured for the plan: the links between ranks, and the disk."""

from __future__ import annotations

from collections.abc import Iterable

from sft.host import gpus
from sft.host.check import Check
from sft.host.plan import measured
from sft.run.records import LinkSpeeds
from sft.settings.fields import Settings


def keep(settings: Settings, launcher: str, checks: Iterable[Check]) -> Check | None:
    """Write the speeds that checks have in their values; return a check that says where, or None without any.

    Ranks of the launcher's own nodes, in containers or on other hosts, count more than those of this machine.
    """
    links: dict[str, LinkSpeeds] = {}
    speed = 0.0
    for check in checks:
        if check.level == "ok" and check.name == "all-reduce" and check.values:
            links[launcher] = LinkSpeeds.from_json(dict(check.values))
        if check.name == "disk speed":
            speed = float(check.values.get("write_gb_s", 0.0))
    try:
        path = measured.keep(settings, gpus.visible(), links, speed)
    except OSError as error:
        return Check("kept speeds", "warning", f"not kept ({error.strerror})", "make DATA_PATH writable for yourself")
    return Check("kept speeds", "ok", f"{path}: `make plan` uses them") if path else None
