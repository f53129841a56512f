"""The tasks: `inv --list`. They pass on to `sft/` and import it only when they run, so that the list comes at once."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from invoke import Collection, Context, Exit, task

from sft.errors import SftError


def one_line_errors(function: Callable[..., Any]) -> Callable[..., Any]:
    """End a task with the error's line and exit code instead of a traceback."""

    @functools.wraps(function)
    def wrapped(*arguments: Any, **options: Any) -> Any:
        try:
            return function(*arguments, **options)
        except SftError as error:
            raise Exit(str(error), code=error.exit_code) from None

    return wrapped


@task
@one_line_errors
def train(c: Context) -> None:
    """Fine-tune with the settings in .env, or resume what was stopped."""
    from rich.console import Console

    from sft.host import pipeline, setup
    from sft.settings import Settings

    setup.make_env_file()
    pipeline.train(Settings.load(), Console())


@task
@one_line_errors
def demo(c: Context) -> None:
    """Train a tiny model on generated data over two nodes on the CPU."""
    from rich.console import Console

    from sft.host import pipeline
    from sft.settings import DEMO_SETTINGS, Settings

    pipeline.train(Settings.load(env_file=None, defaults=DEMO_SETTINGS), Console())


namespace = Collection(train, demo)
