"""Numbers with their nouns, as people read them."""


def counted(number: int, what: str) -> str:
    """Return a number with its noun: `1 row`, `7,473 rows`."""
    return f"{number:,} {what}{'s' * (number != 1)}"
