"""What DeepSpeed itself refuses in a file of the user's own is found before the ranks start."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sft.errors import UserError
from sft.settings import deepspeed
from sft.settings.load import load
from sft.trainer import prepare

from ..unit.strategies import KEYS, NAMED, VALUES


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@given(content=st.dictionaries(KEYS, VALUES, max_size=4))
def run_deepspeed_itself(folder, content):
    (folder / "mine.json").write_text(json.dumps({"zero_optimization": {"stage": 2}} | content))
    try:
        chosen = load(None, ds_config="mine.json", precision="fp32")
        prepare.check_deepspeed(chosen, deepspeed.configuration(chosen))
    except UserError as error:
        assert all(NAMED.match(line) and line.isprintable() for line in str(error).split("\n"))


def test_what_deepspeed_refuses_is_found_before_the_ranks_start(folder):
    run_deepspeed_itself(folder)
    (folder / "mine.json").write_text('{"zero_optimization": {"stage": 2, "reduce_bucket_size": "many"}}')
    with pytest.raises(UserError, match=r"DS_CONFIG=mine.json: DeepSpeed refuses it \(ValidationError: "):
        chosen = load(None, ds_config="mine.json")
        prepare.check_deepspeed(chosen, deepspeed.configuration(chosen))
