"""Models from the hub: found in the cache or downloaded, and their own code checked."""

from __future__ import annotations

from pathlib import Path

from sft.errors import SettingsError, wrong
from sft.settings.fields import Settings

# Of a model, these files are downloaded.
WITHOUT_WEIGHTS = ["*.json", "*.model", "*.txt", "*.jinja", "*.py"]
FILES = [*WITHOUT_WEIGHTS, "*.safetensors"]


def check_code(folder: Path, settings: Settings) -> None:
    """Raise SettingsError if a model needs its own code and TRUST_REMOTE_CODE=0, or if that code does not work."""
    import transformers

    trusted = settings.trust_remote_code
    try:
        config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=trusted)
        transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=trusted)
        own = "AutoModelForCausalLM" in getattr(config, "auto_map", {})
        if own and not trusted and type(config) not in transformers.MODEL_FOR_CAUSAL_LM_MAPPING:
            raise ValueError("trust_remote_code")
    except Exception as error:  # code of the model's author, and so its errors
        if not trusted and "trust_remote_code" in str(error):
            what = f"{settings.model_name} needs Python code of its own"
            remedy = "set TRUST_REMOTE_CODE=1 if you have read that code, or take another model"
            raise SettingsError([wrong("TRUST_REMOTE_CODE", 0, what, remedy)]) from None
        reason = f"{type(error).__name__}: {(str(error).strip().splitlines() or ['no message'])[0]}"
        what = f"its code or configuration cannot be loaded ({reason})"
        raise SettingsError([wrong("MODEL_NAME", settings.model_name, what, "check the folder")]) from None


def is_cached(settings: Settings) -> bool:
    """Tell whether MODEL_NAME's model from the hub is in MODEL_PATH already."""
    from huggingface_hub import try_to_load_from_cache

    name, revision = settings.model_name, settings.model_revision
    found = try_to_load_from_cache(name, "config.json", cache_dir=settings.model_path, revision=revision)
    return isinstance(found, str)


def download(settings: Settings, patterns: list[str]) -> Path:
    """Download the files of a model on the hub that match `patterns`. Return their folder.

    Raises SettingsError, in one line, if that fails.
    """
    from huggingface_hub import errors, snapshot_download

    name, token = settings.model_name, settings.huggingface_api_key.get_secret_value()
    try:
        return Path(
            snapshot_download(
                name,
                revision=settings.model_revision,
                cache_dir=settings.model_path,
                token=token or None,
                allow_patterns=patterns,
            )
        )
    except errors.GatedRepoError:
        what = "is gated"
        remedy = f"ask for access on its page, and set HUGGINGFACE_API_KEY{' of that account' * bool(token)}"
    except errors.RepositoryNotFoundError:
        what = "no such folder here and no such model on the hub"
        remedy = "check the name (for a private model, set HUGGINGFACE_API_KEY)"
    except errors.RevisionNotFoundError:
        what, remedy = f"has no revision MODEL_REVISION={settings.model_revision}", "check it on the model's page"
    except errors.HFValidationError:
        what, remedy = "no such folder, and not a name that the hub could have", "check the path"
    except PermissionError:
        raise
    except Exception as error:  # errors of its HTTP library, whichever that is
        what = f"is not in {settings.model_path} and the hub cannot be reached ({type(error).__name__})"
        remedy = "check the network, or give a local folder"
    raise SettingsError([wrong("MODEL_NAME", name, what, remedy)])
