"""How many files a process may open: many systems allow 1,024 unless a process asks for more."""

from __future__ import annotations

import resource

from sft.errors import SettingsError, wrong

OTHERS = 100  # that a program has open besides: logs, pipes, locks


def allow(number: int, name: str, value: object, who: str) -> None:
    """Let this process open so many files beside its usual ones. Raises SettingsError, which blames a setting."""
    needed = number + OTHERS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < needed:
        what = f"{who} may open {hard} files here, and needs {needed}"
        raise SettingsError([wrong(name, value, what, f"raise the limit: `ulimit -Hn {needed}` as root")])
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
