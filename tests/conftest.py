"""Tests run two at a time (`make test`): most of the time they wait for programs to start, end or miss one another."""

import pytest


@pytest.hookimpl(tryfirst=True)  # before xdist looks for the groups
def pytest_collection_modifyitems(items):
    """Keep together what shares something dear: containers, finished runs to compare with, the fixtures of a file."""
    comparing = {item.path for item in items if "on_ranks" in item.fixturenames}
    for item in items:
        if "compose" in item.path.parts:
            shared = "compose"
        elif item.path in comparing:
            shared = "on_ranks"
        else:
            shared = item.path.name
        item.add_marker(pytest.mark.xdist_group(shared))
