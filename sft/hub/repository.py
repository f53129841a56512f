"""A model or a data set on the hub, and where its files are kept here."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from sft.errors import SettingsError, wrong
from sft.settings.fields import Settings


@dataclass(frozen=True)
class Repository:
    """A model or a data set on the hub, and the folder that keeps its files."""

    kind: Literal["model", "dataset"]
    name: str
    revision: str
    cache: Path
    token: str = field(repr=False)

    @classmethod
    def of_model(cls, settings: Settings) -> Repository:
        token = settings.huggingface_api_key.get_secret_value()
        return cls("model", settings.model_name, settings.model_revision, settings.model_path, token)

    @classmethod
    def of_dataset(cls, settings: Settings) -> Repository:
        token = settings.huggingface_api_key.get_secret_value()
        return cls("dataset", settings.dataset, settings.dataset_revision, settings.data_path / "hub", token)

    @property
    def setting(self) -> str:
        return {"model": "MODEL_NAME", "dataset": "DATASET"}[self.kind]

    @property
    def noun(self) -> str:
        return {"model": "model", "dataset": "data set"}[self.kind]

    @property
    def folder(self) -> Path:
        """Where the cache has its files: blobs, snapshots and refs, as everywhere in Hugging Face's libraries."""
        return self.cache / f"{self.kind}s--{self.name.replace('/', '--')}"

    @property
    def snapshot(self) -> Path:
        """Where the files are, if the revision is a commit."""
        return self.folder / "snapshots" / self.revision

    @property
    def missing(self) -> str:
        """The words for a repository of which nothing is here, or not all that is needed."""
        return f"is not {'whole ' * self.folder.is_dir()}in {self.cache}"

    def wrong(self, what: str, remedy: str) -> SettingsError:
        return SettingsError([wrong(self.setting, self.name, what, remedy)])
