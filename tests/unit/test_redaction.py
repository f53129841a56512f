"""Secrets are taken out of every form in which programs write them."""

import base64
import json
import math
import urllib.parse

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sft import redaction
from sft.host.launch.log import Log
from sft.run import lifecycle
from sft.run.records import Failure
from tests.settings import decided

SECRETS = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=8, max_size=60)
AROUND = st.text(st.characters(codec="ascii"), max_size=5)


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch):
    monkeypatch.setattr(redaction, "known", set())


@given(secret=SECRETS, before=AROUND, after=AROUND)
def test_a_secret_is_found_in_every_form(secret, before, after):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_API_KEY", secret)
        for form in (str, repr, json.dumps, urllib.parse.quote, urllib.parse.quote_plus):
            assert secret not in redaction.redact(f"{before}{form(secret)}{after}")
            assert form(secret).strip("\"'") not in redaction.redact(f"{before} {form(secret)} {after}")
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            text = redaction.redact("Basic " + encode(f"{before}{secret}{after}".encode()).decode())
            left = text.removeprefix("Basic ").replace(redaction.MASK, "").rstrip("=")
            # Six bits a digit: a digit that the secret shares with what is beside it stays, so less than a byte of it.
            around = math.ceil(len(before) * 8 / 6), math.floor(len(before + secret) * 8 / 6)
            assert len(left) <= around[0] + math.ceil(len(before + secret + after) * 8 / 6) - around[1]


def test_text_without_a_secret_stays(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_" + "s3cr3t" * 4)
    assert redaction.redact("step 1 of 2  loss 3.5") == "step 1 of 2  loss 3.5"


def test_the_run_directory_takes_no_secret(tmp_path, monkeypatch):
    secret = "p@ss/w0rd+" + "x" * 20
    monkeypatch.setenv("HUGGINGFACE_API_KEY", secret)
    run = lifecycle.create(decided(runs_path=tmp_path, run_name="a"), "")
    reason = f"401 for https://user:{urllib.parse.quote(secret, safe='')}@hub: {secret!r}"
    run.fail(Failure(kind="crash", reason=reason))
    run.request_stop(reason)
    run.update_state("failed", error=reason, earlier_errors=[reason])
    Log(run.logs / "node-0.log").write(reason)
    for path in run.path.rglob("*"):
        if path.is_file():
            text = path.read_bytes()
            assert secret.encode() not in text and urllib.parse.quote(secret, safe="").encode() not in text, path
    assert run.failure().reason == "401 for https://user:***@hub: '***'"
