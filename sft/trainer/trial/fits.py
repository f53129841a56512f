"""Whether a model's files fit it, noted in MODEL_PATH/trials: they are not looked at again.

Without torch and transformers, whose imports take longer than everything else before a run.
"""

from __future__ import annotations

from pathlib import Path

from sft import stored_weights
from sft.run import files
from sft.settings.fields import TINY, Settings
from sft.trainer.data.hashes import file_hash, short_hash
from sft.trainer.trial.cache import version

TRAINER = Path(__file__).parents[1]
CODE = (TRAINER / "trial" / "fit.py", TRAINER / "model" / "loaded.py")  # which decide whether files fit


def check(settings: Settings, folder: Path) -> list[str]:
    """Return what is to be said of a model's files. Raises SettingsError if they do not hold its weights."""
    if settings.model_name == TINY:
        return []
    names = stored_weights.weight_files(folder) or stored_weights.pickled_files(folder)
    noted = settings.model_path / "trials" / f"{key(folder, names)}.fits"
    if noted.is_file():
        return noted.read_text(encoding="utf-8").splitlines()
    from sft.trainer.trial import fit

    said = fit.check(settings, folder)
    noted.parent.mkdir(parents=True, exist_ok=True)
    files.write_whole(noted, "\n".join(said))
    return said


def key(folder: Path, names: list[str]) -> str:
    """Return a hash of everything that decides whether a model's files fit it."""
    stats = [(folder / name).stat() for name in names]
    configured = [file_hash(path) for path in sorted(folder.glob("*config.json"))]
    return short_hash(
        str(folder.resolve()), *configured, *((one.st_size, one.st_mtime_ns) for one in stats),
        version("transformers"), *map(file_hash, CODE),
    )  # fmt: skip
