"""Tests run two at a time (`make test`): most of the time they wait for programs to start, end or miss one another."""

import pytest


def pytest_collection_modifyitems(items):
    """Keep together what shares something dear: containers, finished runs to compare with, the fixtures of a file."""
    for item in items:
        if "compose" in item.path.parts:
            shared = "compose"
        elif "on_ranks" in item.fixturenames:
            shared = "on_ranks"
        else:
            shared = item.path.name
        item.add_marker(pytest.mark.xdist_group(shared))
