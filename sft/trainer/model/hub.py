"""Models from the hub: which files of them are downloaded, whether they are there, and their own code checked."""

from __future__ import annotations

from pathlib import Path

from sft.errors import SettingsError, wrong
from sft.hub.repository import Repository
from sft.settings.fields import Settings
from sft.trainer.hub.own_cache import adopt
from sft.trainer.model import licence

# Of a model, these files are downloaded.
WITHOUT_WEIGHTS = ["*.json", "*.model", "*.tiktoken", "*.txt", "*.jinja", "*.py", *licence.FILES]
FILES = [*WITHOUT_WEIGHTS, "*.safetensors"]


def check_code(folder: Path, settings: Settings) -> None:
    """Raise SettingsError if a model needs its own code and TRUST_REMOTE_CODE=0, or if that code does not work."""
    import transformers

    from sft.trainer.model import published

    trusted = settings.trust_remote_code
    try:
        config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=trusted)
        transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=trusted)
        if not trusted and set(published.AUTOMATIC) & set(getattr(config, "auto_map", {})):
            try:
                published.class_of(config)
            except LookupError:
                raise ValueError("trust_remote_code") from None
    except Exception as error:  # code of the model's author, and so its errors
        if not trusted and "trust_remote_code" in str(error):
            what = f"{settings.model_name} needs Python code of its own"
            remedy = "set TRUST_REMOTE_CODE=1 if you have read that code, or take another model"
            raise SettingsError([wrong("TRUST_REMOTE_CODE", 0, what, remedy)]) from None
        reason = f"{type(error).__name__}: {(str(error).strip().splitlines() or ['no message'])[0]}"
        what = f"its code or configuration cannot be loaded ({reason})"
        raise SettingsError([wrong("MODEL_NAME", settings.model_name, what, "check the folder")]) from None


def cached(settings: Settings) -> Path | None:
    """Return the folder of MODEL_NAME's model from the hub in MODEL_PATH, or None if it is not there yet."""
    from huggingface_hub import try_to_load_from_cache

    adopt(Repository.of_model(settings))
    name, revision = settings.model_name, settings.model_revision
    found = try_to_load_from_cache(name, "config.json", cache_dir=settings.model_path, revision=revision)
    return Path(found).parent if isinstance(found, str) else None
