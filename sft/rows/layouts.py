"""What a data set's folder says of its files: README.md of a hub data set, and what `datasets` saves beside the rows.

- README.md begins with YAML; its `configs` name the files of each split by patterns.
- `Dataset.save_to_disk` writes state.json, which lists the folder's Arrow files: others are left from its cache.
- `DatasetDict.save_to_disk` writes dataset_dict.json, which lists the splits: a folder for each.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path

from sft.errors import SettingsError, shown, wrong
from sft.settings.fields import Settings

# What a configuration in a README.md may say without changing how its files are read here: columns have the types that
# are written, and the separator of a csv file is seen from its header.
HARMLESS = (
    "config_name", "data_files", "data_dir", "default", "description", "version", "features", "drop_labels",
    "drop_metadata", "sep", "delimiter",
)  # fmt: skip
INFO = ("config.json", "dataset_info.json", "dataset_infos.json", "dataset_dict.json")
OLD_DEFAULT = "main"  # what DATASET_CONFIG once was for every data set: runs and .env files of then may say so
CONVERTED = re.compile(r"(?P<config>[^/]+)/(partial-)?(?P<split>[^/]+)/\d{4}\.parquet")


class NotReadHere(SettingsError):
    """A data set that the library `datasets` can read, and this project cannot."""


def without_rows(root: Path, names: list[str], settings: Settings) -> dict[str, str]:
    """Return the files of a data set that hold no rows of it, each with why it is left out, if that has to be said.

    Raises SettingsError if a file is missing that state.json lists.
    """
    ignored = {name: "" for name in names if Path(name).name in INFO}
    for name in names:
        if Path(name).name != "state.json" or not (stored := arrow_files(root / name)):
            continue
        ignored[name] = ""
        folder = Path(name).parent
        if missing := [file for file in stored if (folder / file).as_posix() not in names]:
            what = f"{name} in it lists {missing[0]}, which is not there"
            raise SettingsError([wrong("DATASET", settings.dataset, what, "copy the whole folder")])
        ignored |= {
            other: f"not in {name}"
            for other in names
            if Path(other).parent == folder and other.endswith(".arrow") and Path(other).name not in stored
        }
    return ignored


def arrow_files(state: Path) -> list[str]:
    """Return the files that a state.json of `save_to_disk` lists, or none if it is another file of that name."""
    content = json_object(state)
    stored = content.get("_data_files")
    if not isinstance(stored, list):
        return []
    return [str(file["filename"]) for file in stored if isinstance(file, dict) and "filename" in file]


def json_object(path: Path) -> dict[str, object]:
    """Return the object in a JSON file, or an empty one."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


@dataclass(frozen=True)
class Declared:
    """What a data set says of its files: those of each split; or only a folder, in which the names decide."""

    by_split: dict[str, list[str]]
    folder: str = ""
    missing: dict[str, str] = field(default_factory=dict)  # by split, a pattern that no file matches


def declared(root: Path, data: list[str], settings: Settings) -> Declared:
    """Return what a data set says of its files. Raises SettingsError."""
    splits = json_object(root / "dataset_dict.json").get("splits")
    if isinstance(splits, list):
        return Declared({str(split): [name for name in data if name.startswith(f"{split}/")] for split in splits})
    configs = configurations(root, settings) or converted(data)
    if not configs and settings.dataset_config not in ("", "default", OLD_DEFAULT):
        remedy = "leave it empty, or give the files to train on"
        what = f"{settings.dataset} has no configurations"
        raise SettingsError([wrong("DATASET_CONFIG", settings.dataset_config, what, remedy)])
    if not configs:
        return Declared({})
    config = configuration(configs, settings)
    check_reading(config, settings)
    folder = str(config.get("data_dir") or "").strip("/")
    patterns = patterns_of(config.get("data_files"))
    by_split, missing = dict[str, list[str]](), dict[str, str]()
    for split, several in patterns.items():
        for pattern in several:
            found = matching(pattern, folder, data)
            by_split[split] = list(dict.fromkeys([*by_split.get(split, []), *found]))
            if not found:
                missing[split] = pattern
    return Declared(by_split, folder, missing)


def configurations(root: Path, settings: Settings) -> dict[str, dict[str, object]]:
    """Return the configurations in a README.md, by name. Raises SettingsError for YAML that cannot be read."""
    try:
        readme = (root / "README.md").read_text(encoding="utf-8-sig", errors="replace")
    except FileNotFoundError:
        return {}
    begins = re.match(r"---\s*\n(.*?)\n---\s*(\n|$)", readme, re.DOTALL)
    if begins is None or not re.search("^configs:", begins[1], re.MULTILINE):
        return {}
    import yaml  # a host of containers may have none

    try:
        content = yaml.safe_load(begins[1])
    except yaml.YAMLError as error:
        what = f"the YAML at the beginning of its README.md cannot be read ({' '.join(str(error).split())})"
        raise SettingsError([wrong("DATASET", settings.dataset, what, "fix it, or remove the file")]) from None
    found = content.get("configs") if isinstance(content, dict) else None
    configs = [config for config in found if isinstance(config, dict)] if isinstance(found, list) else []
    return {str(config.get("config_name", "default")): config for config in configs}


def converted(data: list[str]) -> dict[str, dict[str, object]]:
    """Return the configurations in the hub's own copy of a data set (its branch refs/convert/parquet), by name.

    Its files are called CONFIGURATION/SPLIT/0000.parquet; of a large split there is only a part.
    """
    found = [CONVERTED.fullmatch(name) for name in data]
    files: dict[str, list[object]] = {}
    for file in found:
        if file is None:
            return {}
        files.setdefault(file["config"], []).append({"split": file["split"], "path": file[0]})
    return {config: {"data_files": entries} for config, entries in files.items()}


def configuration(configs: dict[str, dict[str, object]], settings: Settings) -> dict[str, object]:
    """Return the configuration that DATASET_CONFIG names, or the only or default one. Raises SettingsError."""
    name = settings.dataset_config
    if name in configs:
        return configs[name]
    usual = [key for key, config in configs.items() if config.get("default") is True]
    usual = usual or [key for key in configs if key == "default" or len(configs) == 1]
    if name in ("", OLD_DEFAULT) and len(usual) == 1:
        return configs[usual[0]]
    remedy = "name one of them" + (f", or leave it empty for {usual[0]}" if len(usual) == 1 else "")
    what = f"{settings.dataset} has the configurations {', '.join(configs)}"
    raise SettingsError([wrong("DATASET_CONFIG", name, what, remedy)])


def check_reading(config: dict[str, object], settings: Settings) -> None:
    """Raise NotReadHere for options with which `datasets` would read other rows out of the files."""
    options = {name: value for name, value in config.items() if name not in HARMLESS}
    if options:
        said = shown(", ".join(f"{name}: {json.dumps(value, default=str)}" for name, value in options.items()))
        what = f"its README.md has options for reading its files that are not followed here ({said})"
        remedy = "write the rows as JSON lines, and give that file"
        raise NotReadHere([wrong("DATASET", settings.dataset, what, remedy)])


def patterns_of(data_files: object) -> dict[str, list[str]]:
    """Return the patterns of each split: `data_files` is a pattern, a list of them, or a list of splits with them."""
    entries = data_files if isinstance(data_files, list) else [data_files] if data_files else []
    found: dict[str, list[str]] = {}
    for entry in entries:
        if isinstance(entry, dict):
            path = entry.get("path")
            found.setdefault(str(entry.get("split")), []).extend(map(str, path if isinstance(path, list) else [path]))
        else:
            found.setdefault("train", []).append(str(entry))
    return found


def matching(pattern: str, folder: str, data: list[str]) -> list[str]:
    """Return the files that a pattern means."""
    whole = f"{folder}/{pattern}" if folder else pattern
    means = expression(whole.removeprefix("./"))
    return [name for name in data if means.fullmatch(name)]


def expression(pattern: str) -> re.Pattern[str]:
    """Return a pattern of files as a regular expression: `*` stays within a folder, `**` does not."""
    parts = {"**/": "(.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    tokens = re.findall(r"\*\*/|\*\*|\*|\?|\[[^\]]+\]|.", pattern)
    return re.compile("".join(parts.get(token) or (token if len(token) > 1 else re.escape(token)) for token in tokens))
