"""What a run's data and model are, and whether they are still the same when it is resumed.

`environment.json` has the inputs of the attempt in which the run's weights began. They are not overwritten as long as
there is a checkpoint.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from sft import stored_weights
from sft.errors import SettingsError, shown, wrong
from sft.run.directory import Run
from sft.run.records import Environment, Inputs, PreparedData
from sft.settings.fields import TINY, Settings
from sft.settings.mixture import parts_of, title
from sft.trainer.data.prepared_data import FORMAT, is_of_tokenizer

MODEL_SUFFIXES = (".json", ".safetensors", ".model", ".txt", ".jinja", ".py", *stored_weights.PICKLED)
# Of a large file, only its ends are hashed, and a piece at every stride: enough to notice any changed matrix.
END_BYTES = 2**20
STRIDE_BYTES = 2**25
PIECE_BYTES = 2**16
FEW = 3  # files that an error names


def inputs_of(folder: Path, data: PreparedData) -> Inputs:
    """Return what identifies prepared data, and the base model in a folder."""
    commit = folder.name if folder.parent.name == "snapshots" else None
    paths = sorted(path for path in folder.iterdir() if path.is_file() and path.suffix in MODEL_SUFFIXES)
    if any(path.suffix == ".safetensors" for path in paths):  # pickled weights are not loaded then
        paths = [path for path in paths if path.suffix not in stored_weights.PICKLED]
    files = {path.name: sampled_hash(path) for path in paths}
    whole = hashlib.sha256(json.dumps(files).encode()).hexdigest()[:16]
    return Inputs(
        format=FORMAT,
        data_hash=data.hash,
        data_files=data.files,
        dataset_commit=data.commit,
        dataset_commits={part.name: part.commit for part in data.parts if part.commit},
        model_commit=commit,
        model_hash=whole,
        model_files=files,
    )


def sampled_hash(path: Path) -> str:
    """Return a hash of a file's size and content, or, for a large file, of samples of its content."""
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        if size <= STRIDE_BYTES:
            digest.update(file.read())
        else:
            places = {0: END_BYTES, size - END_BYTES: END_BYTES}
            places |= dict.fromkeys(range(STRIDE_BYTES, size - END_BYTES, STRIDE_BYTES), PIECE_BYTES)
            for place, length in sorted(places.items()):
                file.seek(place)
                digest.update(file.read(length))
    return digest.hexdigest()[:16]


# Of a run


def began_with(run: Run) -> Inputs | None:
    """Return the inputs that a run began with, or None if it has not begun, or they are not known."""
    found = run.record(run.environment, Environment)
    return found.began.inputs if found else None


def pinned(run: Run, settings: Settings) -> tuple[Settings, dict[str, str]]:
    """Return the settings with the commit of the model that a saved run began with, and its data sets' by their names.

    A branch on the hub, such as `main`, may have moved since then.
    """
    first = began_with(run) if run.is_saved else None
    if first is None:
        return settings, {}
    if first.model_commit:
        settings = Settings.of(settings, model_revision=first.model_commit)
    only = {parts_of(settings)[0].name: first.dataset_commit} if first.dataset_commit else {}
    return settings, first.dataset_commits or only


def check(run: Run, settings: Settings, inputs: Inputs) -> list[str]:
    """Compare a run's inputs with those that it began with. Return a line for each difference that does no harm.

    Differences do no harm to a run without a checkpoint, which starts over, nor to one that only evaluates its final
    model, if the tokenizer is the same. Raises SettingsError if the run would continue training with other inputs, or
    ask its model in other tokens.
    """
    first = began_with(run)
    if first is None:
        unknown = f"{run.environment} does not say what the run began with, so nothing can be compared"
        return [unknown] if run.is_saved else []
    problems = [*data_problems(settings, first, inputs), *model_problems(settings, first, inputs)]
    if not problems:
        return []
    if run.final.is_dir():
        if problem := tokenizer_problem(run, settings, first, inputs):
            raise SettingsError([problem])
        return [f"{problem}: so the evaluation is of other rows or another model" for problem, _ in problems]
    if run.is_saved:
        raise SettingsError([f"{problem}; {remedy}" for problem, remedy in problems])
    run.evaluation.unlink(missing_ok=True)  # the base model's, on the rows of then
    return [f"{problem}: without a checkpoint, the run starts over with what is there now" for problem, _ in problems]


def data_problems(settings: Settings, first: Inputs, now: Inputs) -> list[tuple[str, str]]:
    """Return problems and remedies, if the rows are not those of the `first` attempt."""
    same_form = first.format == now.format
    then_files, files = first.data_files, now.data_files
    if first.data_hash == now.data_hash if same_form else then_files in (None, files):
        return []
    remedy = "restore them, or start over with FRESH=1"
    if then_files is not None and then_files != files:
        what = changes(then_files, files or {})
    elif first.dataset_commits != now.dataset_commits:
        what = f"commits on the hub: {changes(first.dataset_commits, now.dataset_commits)}"
    elif first.dataset_commit != now.dataset_commit:
        what = f"commit {now.dataset_commit} of the data set, it was {first.dataset_commit}"
    else:
        what = "the same text gives other tokens: by another version of the project, or another tokenizer"
        remedy = "go back to that version, or start over with FRESH=1"
    line = wrong("DATASET", title(settings), f"its rows are not those that the run began with ({what})", remedy)
    return [split_remedy(line, remedy)]


def model_problems(settings: Settings, first: Inputs, now: Inputs) -> list[tuple[str, str]]:
    """Return problems and remedies, if the base model is not that of the `first` attempt."""
    then_files, files = first.model_files, now.model_files or {}
    if then_files is None or then_files == files:
        return []
    remedy = "restore it, or start over with FRESH=1"
    what = f"it is not the model that the run began with ({changes(then_files, files)})"
    return [split_remedy(wrong("MODEL_NAME", settings.model_name, what, remedy), remedy)]


def tokenizer_problem(run: Run, settings: Settings, first: Inputs, now: Inputs) -> str:
    """Return the line for a base model whose tokenizer or chat template is no longer that of the final model, or ""."""
    then, there = (
        {name: digest for name, digest in (inputs.model_files or {}).items() if is_of_tokenizer(Path(name), alone=True)}
        for inputs in (first, now)
    )
    if first.model_files is None or then == there:
        return ""
    what = f"its tokenizer is not the one that the run's model was trained with ({changes(then, there)})"
    source = "the rows, from which it is made" if settings.model_name == TINY else "it"
    final = (run.evaluated or run).final
    remedy = (
        f"restore {source}; `make train MODEL_NAME={final}` evaluates that model, with its own, before its first step"
    )
    return wrong("MODEL_NAME", settings.model_name, what, remedy)


def split_remedy(line: str, remedy: str) -> tuple[str, str]:
    """Split an error's line into the problem and the remedy."""
    return line.removesuffix(f"; {remedy}"), remedy


def changes(then: dict[str, str], now: dict[str, str]) -> str:
    """Say which files have changed between two sets of hashes, by file name."""
    lines = [f"{name} has changed" for name in then if name in now and now[name] != then[name]]
    lines += [f"{name} is gone" for name in then if name not in now]
    lines += [f"{name} is new" for name in now if name not in then]
    more = f" and {len(lines) - FEW} more" if len(lines) > FEW else ""
    return shown(", ".join(lines[:FEW]) + more, 200)
