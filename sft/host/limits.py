"""What `ulimit` allows the programs of this shell: some of its limits end a run in the middle, without saying so."""

from __future__ import annotations

import resource

UNITS = 1024
# The option of `ulimit` that shows it, and what it means. A job of Slurm has the limits of the shell that submits it.
MEANING = {
    resource.RLIMIT_CPU: ("-t", "are killed after {:,} s of CPU time each"),
    resource.RLIMIT_FSIZE: ("-f", "write files of at most {:,} KiB"),
    resource.RLIMIT_AS: ("-v", "have {:,} KiB of address space each"),
}
REMEDY = "use a shell or a node without that limit: many login nodes have it, and `ulimit -a` lists all"


def lines() -> list[str]:
    """Return a line for each limit that cannot be raised here, and that a run may well reach."""
    found = []
    for kind, (option, meaning) in MEANING.items():
        hard = resource.getrlimit(kind)[1]
        if hard != resource.RLIM_INFINITY:
            number = hard if kind == resource.RLIMIT_CPU else hard // UNITS
            found.append(f"programs here {meaning.format(number)} (`ulimit {option}`)")
    return found


def raise_all() -> None:
    """Raise these limits as far as this program may, for itself and for those that it starts."""
    for kind in MEANING:
        hard = resource.getrlimit(kind)[1]
        resource.setrlimit(kind, (hard, hard))


def cpu_time() -> str:
    """Return the line about the limit of CPU time; "" without one. The kernel kills with no other sign."""
    option = MEANING[resource.RLIMIT_CPU][0]
    return next((line for line in lines() if f"`ulimit {option}`" in line), "")
