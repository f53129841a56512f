"""What unit tests share: settings without the environment, and the rule that nothing imports a training package."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from sft.settings.fields import Settings

TRAINING_PACKAGES = {"torch", "deepspeed", "transformers", "datasets", "accelerate", "peft"}


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take every setting out of the environment."""
    for name in [*Settings.model_fields, "make_settings"]:
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture(scope="session")
def is_alone(request: pytest.FixtureRequest) -> bool:
    """Whether this process has unit tests only: beside others, the collection of theirs has imported everything."""
    return all(item.get_closest_marker("unit") for item in request.session.items)


@pytest.fixture(autouse=True)
def no_training_package(is_alone: bool) -> Iterator[None]:
    """Fail if a test or its module has imported one: that takes ten seconds, and may hide that host code needs it."""
    yield
    assert not is_alone or not TRAINING_PACKAGES & set(sys.modules), "this test belongs in tests/torch"
