"""Tests of the trainer in one process; they share what unit tests share."""

from ..unit.conftest import clean_environment, tiny, tokenizer  # noqa: F401
