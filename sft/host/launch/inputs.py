"""Check model, template and data before a run directory is made: local files only, without the network."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from sft import model_files, template_files
from sft.errors import SettingsError, UserError, wrong
from sft.host.plan import lookup
from sft.rows import look
from sft.run.directory import Run
from sft.settings import variables
from sft.settings.fields import DEMO, TINY, Settings
from sft.settings.mixture import parts_of


def check(settings: Settings) -> None:
    """Raise UserError with a line for everything that is wrong with the model, the chat template or the rows."""
    raise_all([partial(check_one, settings) for check_one in (model, template, data)])


def raise_all(checks: list[Callable[[], None]]) -> None:
    """Make all checks. Raises UserError with the lines of all that fail."""
    found: list[UserError] = []
    for check_one in checks:
        try:
            check_one()
        except UserError as error:
            found.append(error)
    if len(found) == 1:
        raise found[0]
    if found:
        raise SettingsError([str(error) for error in found])


def model(settings: Settings) -> None:
    """Check a local model, or the config.json of one that was downloaded. Raises SettingsError."""
    try:
        if model_files.local_model(settings) is None:
            model_files.check_config(known_config(settings), settings)
        else:
            model_files.check_local(settings)
    except OSError as error:
        raise unreadable("MODEL_NAME", settings.model_name, error) from None


def known_config(settings: Settings) -> model_files.Config:
    """Return the config.json of a hub model from MODEL_PATH, or the one built in; empty if there is none."""
    cached = lookup.in_cache(settings)
    found = model_files.read_json(cached) if cached else lookup.built_in(settings.model_name)
    return found if isinstance(found, dict) else {}


def template(settings: Settings) -> None:
    """Check CHAT_TEMPLATE: a file, one of the project's, or one of the model's. Raises SettingsError.

    A model that is still on the hub may have a template of any name; preparing the data finds out.
    """
    name = settings.chat_template
    if path := template_files.file_of(settings):
        template_files.read(path, name)
    if not name or path or is_kept(settings):
        return
    folder = model_files.local_model(settings)
    known = [*(template_files.in_folder(folder) if folder else []), *template_files.shipped()]
    is_path = "/" in name or name.endswith(".jinja")
    if name not in known and (folder or is_path or settings.model_name == TINY):
        raise template_files.unknown(settings, known)


def is_kept(settings: Settings) -> bool:
    """Whether a run has a copy of CHAT_TEMPLATE's file, which may be gone: that run can be resumed and evaluated."""
    runs = (Run(path) for path in settings.runs_path.glob("*"))
    kept = (model_files.read_json(run.settings_file) for run in runs if run.chat_template.is_file())
    return any(isinstance(one, dict) and one.get("chat_template") == settings.chat_template for one in kept)


def data(settings: Settings) -> None:
    """Check the first rows of all local data sets. Raises UserError with a line for everything that is wrong."""
    parts = parts_of(settings)
    raise_all([partial(data_set, part.settings, look.LOOK_S / len(parts)) for part in parts])


def data_set(settings: Settings, seconds: float) -> None:
    """Check the first rows of one data set if it is local. Raises SettingsError or DataError."""
    path = variables.expanded(settings.dataset)
    if settings.dataset == DEMO or not variables.is_there(path):
        return
    try:
        look.check_first_rows(path, settings, seconds)
    except ModuleNotFoundError:  # a host of containers needs no pyarrow: the run reads the Parquet file
        return
    except OSError as error:
        raise unreadable("DATASET", settings.dataset, error) from None


def unreadable(name: str, value: str, error: OSError) -> SettingsError:
    """Return the error for a file that exists but cannot be read."""
    return SettingsError([wrong(name, value, f"cannot be read ({error.strerror})", "make it readable for yourself")])
