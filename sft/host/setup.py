"""`inv setup`."""


def make_env_file() -> None:
    """x."""
