"""Switches behind `make`, such as YES=1 and OFFLINE=1: which words turn them on, and which off."""

from typing import Mapping

from sft.host.bootstrap.stop import stop

WORDS = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}


def is_on(name: str, environment: "Mapping[str, str]") -> bool:
    """Tell whether a switch is on: one that is empty or not there is off. Exits for any other word."""
    value = environment.get(name, "")
    if value and value.lower() not in WORDS:
        stop(f"{name}={value}: is not 1 or 0; use 1 or 0")
    return WORDS.get(value.lower(), False)
