"""Prepare a run's data and model, once on node 0: `python -m sft.trainer.data.prepare --run runs/NAME`.

Data is read, validated, tokenised and cached; the base model is made, found or downloaded. When both are whole,
`prepared.json` in the run directory says where they lie, which is what the ranks of all nodes wait for. With warm
caches nothing heavy is imported.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import itertools
import json
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sft import model_files
from sft.errors import DataError, SettingsError, SftError, UserError, wrong
from sft.rows import forms
from sft.rows.bad_rows import BadRows
from sft.rows.files import Placed, local_files
from sft.run import files
from sft.run.directory import Run
from sft.settings.fields import DEMO, DS_CONFIGS, TINY, Settings
from sft.trainer import process
from sft.trainer.data import demo, identity
from sft.trainer.data.hashes import file_hash, kept_hash
from sft.trainer.model.hub import WANTED, check_code, download, is_cached

FORMAT = 3  # of the prepared data: part of the cache's key
MANIFEST = "manifest.json"  # of the prepared data
MANIFEST_NAMES = {"train", "validation", "hash", "commit", "settings"}
HELD_OUT_SHARE = 0.05  # of the rows of a data set without a held-out split
HELD_OUT_MOST = 500


def main() -> None:
    """Prepare a run, or the settings of `.env` before there is a run. Exit code 2 if the user can fix it."""
    process.begin()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, help="the run directory; without it the settings of .env are prepared")
    path = parser.parse_args().run
    run = Run(path) if path else None
    try:
        prepared = prepare_as_owner(run.settings() if run else Settings.load(), run)
        if run:
            files.write_json(run.prepared, prepared)
    except SftError as error:
        if run:
            run.fail(str(error))
        # The last line of a program without a run is for the task that started it: libraries write to this output too.
        print(error if run else json.dumps({"error": str(error)}), flush=True)
        sys.exit(error.exit_code)
    except OSError as error:
        if run:
            where = f": {error.filename}" if error.filename else ""
            run.fail(f"preparing: {error.strerror or error}{where}")
        raise


def prepare_as_owner(settings: Settings, run: Run | None) -> dict[str, Any]:
    """Return what `prepare` does. Raises UserError for a file of another user, with whose it is."""
    try:
        return prepare(settings, run)
    except PermissionError as error:
        path = Path(error.filename or settings.data_path)
        raise UserError(files.not_yours(path)) from None


def prepare(settings: Settings, run: Run | None = None) -> dict[str, Any]:
    """Return where the base model and the data lie, with the data's counts, after making them ready.

    Raises SettingsError if they are not those with which `run` began, and it would train on with them.
    """
    settings.data_path.mkdir(parents=True, exist_ok=True)
    settings.model_path.mkdir(parents=True, exist_ok=True)
    for folder in (settings.data_path, prepared_path(settings), settings.model_path):
        files.sweep(folder)  # what starts that were killed have left
    started = time.monotonic()
    # The run's own copy of a DS_CONFIG: a container does not see the file itself, which may be another one by now too.
    check_deepspeed(settings, files.read_json(run.ds_config) if run else settings.deepspeed())
    model_files.check_bitsandbytes(settings)
    settings, commit = identity.pinned(run, settings) if run else (settings, None)
    model = base_model(settings)
    check_lora_targets(settings, model)
    model_there = time.monotonic()
    data, counts = prepared_data(settings, model, commit)
    seconds = {"base model": model_there - started, "data": time.monotonic() - model_there}
    inputs = {"format": FORMAT, "data_hash": counts.pop("hash"), "data_files": counts.pop("files", None)}
    inputs |= {"dataset_commit": counts.pop("commit"), **identity.of_model(model)}
    said = identity.check(run, settings, inputs) if run else []
    return {"model": str(model), "data": str(data), "seconds": seconds, "inputs": inputs, "said": said, **counts}


def check_lora_targets(settings: Settings, folder: Path) -> None:
    """Look for the layers of LORA_TARGETS before any rank loads the model, and evaluates it. Raises SettingsError."""
    if not settings.lora_rank or settings.lora_targets == "all-linear":
        return
    import torch
    import transformers

    from sft.trainer.model import adapter

    config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=settings.trust_remote_code)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config, trust_remote_code=settings.trust_remote_code)
    adapter.check_targets(model, settings)


def check_deepspeed(settings: Settings, config: dict[str, Any]) -> None:
    """Have DeepSpeed itself read the content of a user's own DS_CONFIG. Raises SettingsError for what it refuses."""
    if settings.ds_config in DS_CONFIGS:
        return
    from deepspeed.runtime.config import DeepSpeedConfig

    try:
        DeepSpeedConfig(config)
    except Exception as error:  # of any kind: what it does not look at itself fails where it is used
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        what = f"DeepSpeed refuses it ({type(error).__name__}: {' '.join(lines[:3]) or 'no message'})"
        raise SettingsError([wrong("DS_CONFIG", settings.ds_config, what, "fix the file")]) from None


# Where things come from


def dataset_folder(settings: Settings) -> Path | None:
    """Return the local file or folder of DATASET (the demo's is written first), or None for one of the hub."""
    if settings.dataset == DEMO:
        folder = settings.data_path / f"demo-{file_hash(Path(demo.__file__))[:12]}"
        if not folder.is_dir():
            with files.whole_folder(folder, Path.is_dir) as temporary:
                demo.write(temporary)
        return folder
    path = Path(settings.dataset).expanduser()
    return path if path.exists() else None


def readers(settings: Settings) -> dict[str, Iterator[Placed]]:
    """Return readers of the training and the held-out rows."""
    from sft.trainer.data import sources

    local = dataset_folder(settings)
    return sources.read_local(local) if local else sources.read_hub(settings)


# Model


def base_model(settings: Settings) -> Path:
    """Return the folder of the base model; the tiny one is made, one of the hub downloaded once."""
    if settings.model_name == TINY:
        folder = settings.model_path / f"tiny-{tiny_key(settings)}"
        if not folder.is_dir():
            from sft.trainer.model import tiny

            with files.whole_folder(folder, Path.is_dir) as temporary:
                tiny.make(temporary, tiny_texts(settings), settings.seed)
        return folder
    local = model_files.local_model(settings)
    if local is None and dataset_folder(settings) is None and not is_cached(settings):
        from sft.trainer.data import sources

        sources.check_hub(settings)  # before gigabytes are downloaded
    folder = local or download(settings, WANTED)
    if local is None and settings.allow_pickle and not any(folder.glob("*.safetensors")):
        folder = download(settings, [*WANTED, *(f"*{suffix}" for suffix in model_files.PICKLED)])
    model_files.check_folder(folder, settings)
    if model_files.brings_code(folder):
        check_code(folder, settings)
    return folder


def tiny_key(settings: Settings) -> str:
    """Return what tells one tiny model from another: its code, its data and its seed."""
    return short_hash(file_hash(Path(__file__).parents[1] / "model" / "tiny.py"), data_key(settings), settings.seed)


def tiny_texts(settings: Settings) -> Iterator[str]:
    """Yield texts of training rows for the tiny model's tokenizer."""
    for where, row in itertools.islice(readers(settings)["train"], 10_000):
        with contextlib.suppress(DataError):  # all of them are named when the rows are tokenised
            yield "\n".join(message.content for message in forms.convert(row, where, settings).messages)


# Data


def prepared_path(settings: Settings) -> Path:
    """Return the folder of all prepared data, a folder for each data set, tokenizer and form of rows."""
    return settings.data_path / "prepared"


def prepared_data(settings: Settings, model: Path, commit: str | None = None) -> tuple[Path, dict[str, Any]]:
    """Return the folder of the tokenised data and its counts, from the cache where it is there.

    With the `commit` of a data set of the hub it is of that one, wherever its branch is by now.
    """
    folder = prepared_path(settings) / cache_key(settings, model)
    found = counts_of(folder)
    if commit and (found is None or found["commit"] != commit):
        settings = settings.model_copy(update={"dataset_revision": commit})
        folder = prepared_path(settings) / cache_key(settings, model)
        found = counts_of(folder)
    if found is None:
        with files.whole_folder(folder, lambda found: counts_of(found) is not None) as temporary:
            tokenise(settings, model, temporary)
        found = files.read_json(folder / MANIFEST)
    del found["settings"]  # for those who look for prepared data
    return folder, found


def counts_of(folder: Path) -> dict[str, Any] | None:
    """Return the counts and settings of prepared data, or None if it is not whole: its manifest is written last."""
    try:
        found: dict[str, Any] = files.read_json(folder / MANIFEST)
    except (FileNotFoundError, files.Unreadable):
        return None
    return found if found.keys() >= MANIFEST_NAMES else None


def cache_key(settings: Settings, model: Path) -> str:
    """Return the hash of everything that the prepared data is made from."""
    tokenizer = [
        file_hash(path)
        for path in sorted(model.iterdir())
        if path.name.startswith(("tokenizer", "special_tokens", "vocab", "merges", "added_tokens", "chat_template"))
    ]
    here = [Path(__file__).with_name(name) for name in ("tokenise.py", "sources.py", "rows.py")]
    code = [file_hash(path) for path in (*here, *sorted(Path(forms.__file__).parents[1].rglob("*.py")))]
    chosen = settings.model_dump(include={"prompt_column", "response_column", "system_prompt", "max_length"})
    return short_hash(FORMAT, code, data_key(settings), tokenizer, chosen, settings.seed)


def data_key(settings: Settings) -> str:
    """Return what tells one source of rows from another: the content of local files, or the hub's revision."""
    local = dataset_folder(settings)
    if local is None:
        return short_hash(settings.dataset, settings.dataset_config, settings.dataset_revision)
    splits = local_files(local)
    parts = [
        (split, path.name, kept_hash(path, settings.data_path)) for split, paths in splits.items() for path in paths
    ]
    return short_hash(*parts)


def short_hash(*parts: Any) -> str:
    """Return a hash of anything that JSON can write."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def tokenise(settings: Settings, model: Path, folder: Path) -> None:
    """Read, validate and tokenise all rows into `folder`, and write its manifest."""
    import transformers

    from sft.trainer.data import rows as data
    from sft.trainer.data import sources
    from sft.trainer.data.tokenise import tokenised

    print(f"preparing {settings.dataset} for {settings.model_name}", file=sys.stderr, flush=True)
    config = transformers.AutoConfig.from_pretrained(model, trust_remote_code=settings.trust_remote_code)
    model_files.check_length(getattr(config.get_text_config(), "max_position_embeddings", None), settings)
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(model, trust_remote_code=settings.trust_remote_code)
    except (OSError, ValueError) as error:
        reason = (str(error).strip().splitlines() or ["no message"])[0]
        raise SettingsError(
            [wrong("MODEL_NAME", settings.model_name, f"its tokenizer cannot be loaded ({reason})", "check the folder")]
        ) from None
    if tokenizer.eos_token_id is None:
        raise SettingsError(
            [wrong("MODEL_NAME", settings.model_name, "its tokenizer has no EOS token, so no answer would ever end",
                   "set eos_token in its tokenizer_config.json")]
        )  # fmt: skip
    if dataset_folder(settings) is None:
        sources.check_hub(settings)
    training, held_out = splits(settings)
    bad = BadRows()
    counts: dict[str, Any] = {
        "train": data.write(folder / "train", tokenised(training, model, settings, bad)),
        "validation": data.write(folder / "validation", tokenised(held_out, model, settings, bad)),
    }
    bad.check()
    if not counts["train"]["rows"]:
        raise DataError(f"DATASET={settings.dataset}: has no training rows; add some")
    counts["hash"] = short_hash(*(file_hash(path) for path in sorted(folder.glob("*/*"))))
    counts["files"] = counts["commit"] = None
    if (local := dataset_folder(settings)) is not None:
        read = local_files(local).values()
        counts["files"] = {path.name: kept_hash(path, settings.data_path) for paths in read for path in paths}
    else:
        counts["commit"] = sources.hub_commit(settings)
    files.write_json(folder / MANIFEST, counts | {"settings": settings.of_data()})


def splits(settings: Settings) -> tuple[Iterator[Any], Iterator[Any]]:
    """Return the training and the held-out rows.

    Of a data set that holds none out itself, one row in twenty is held out, HELD_OUT_MOST at most, drawn by SEED. The
    rows are read once for their number, so that no more of them than needed is ever in memory.
    """
    source = readers(settings)
    first = next(source["validation"], None)
    if first is not None:
        return source["train"], itertools.chain([first], source["validation"])
    rows = sum(1 for _ in source["train"])
    number = min(HELD_OUT_MOST, max(int(rows > 1), int(rows * HELD_OUT_SHARE)))
    chosen = set(random.Random(settings.seed).sample(range(rows), number))
    training = (row for i, row in enumerate(readers(settings)["train"]) if i not in chosen)
    held_out = (row for i, row in enumerate(readers(settings)["train"]) if i in chosen)
    return training, held_out


if __name__ == "__main__":
    main()
