"""What NCCL must not try between two containers of one machine: neither sees the other's cards nor its Unix sockets."""

from __future__ import annotations

from collections.abc import Mapping

# As in docker/gpu.yml. benchmarks/README.md says what fails without each of them, on cards with NVLink.
BETWEEN_CONTAINERS = {"NCCL_CUMEM_ENABLE": "0", "NCCL_P2P_DISABLE": "1", "NCCL_NVLS_ENABLE": "0"}


def missing(environment: Mapping[str, str | None]) -> str:
    """Return the variables that a container lacks, as `NCCL_P2P_DISABLE=1 …`; "" if it has all of them."""
    return " ".join(f"{name}={value}" for name, value in BETWEEN_CONTAINERS.items() if environment.get(name) != value)


def remedy(environment: Mapping[str, str | None]) -> str:
    """Return what to do if NCCL fails between containers, one of which has this environment; "" if it has all."""
    lacks = missing(environment)
    return f"set {lacks} in both services, as docker/gpu.yml does" if lacks else ""
