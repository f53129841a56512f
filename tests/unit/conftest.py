"""What unit tests share: settings without the environment, a tiny tokenizer, prepared rows."""

import pytest

from sft.settings.fields import Settings


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    for name in [*Settings.model_fields, "make_settings"]:
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """The tiny model's folder, its tokenizer learnt from the demo's rows."""
    from sft.trainer.data import demo
    from sft.trainer.model import tiny as maker

    folder = tmp_path_factory.mktemp("tiny")
    demo.write(folder / "data")
    maker.make(folder / "model", (folder / "data" / "train.jsonl").read_text().splitlines()[:500], seed=0)
    return folder / "model"


@pytest.fixture(scope="session")
def tokenizer(tiny):
    import transformers

    return transformers.AutoTokenizer.from_pretrained(tiny)
