"""Run the zoo: a process for each family, forked from one that has the libraries loaded, with a time limit each."""

from __future__ import annotations

import contextlib
import faulthandler
import json
import multiprocessing
import os
import shutil
import socket
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch
import transformers
from transformers.models.auto import modeling_auto

from sft.host import gpus
from sft.trainer import distributed
from sft.trainer.model import published
from tests.zoo import tiny, trial
from tests.zoo.trial import Found, Result

POLL_S = 0.05
FIRST_PORT, PORTS = 12_000, 16  # all below those of other tests


def families() -> list[str]:
    """Return the names of all families that transformers makes a model of that writes text."""
    mappings = (modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, modeling_auto.MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES)
    return list(dict.fromkeys(name for names in mappings for name in names))


def results(
    names: Sequence[str],
    ways: list[str],
    device: str,
    jobs: int,
    limit_s: float,
    logs: Path | None = None,
    precision: str = "fp32",
) -> Iterator[Result]:
    """Yield the result of each family as it ends. Without names: of all of them. Every visible GPU gets its share."""
    # Read when their libraries are loaded in the child, or already now: one thread for each family.
    os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    waiting, running = list(names or families()), dict[str, tuple[BaseProcess, float, str]]()
    cards = [gpu.uuid for gpu in gpus.visible()] if device == "cuda" else [""]
    with tempfile.TemporaryDirectory() as temporary:
        scratch = Path(temporary)
        data = trial.data_of(scratch / "rows")
        # Not in this process: once torch has threads, its forked children cannot have any.
        texts = (data / "train.jsonl").read_text().splitlines()
        maker = multiprocessing.get_context("fork").Process(
            target=trial.tokenizer_of, args=(scratch / "tokenizer", texts)
        )
        maker.start()
        maker.join()
        while waiting or running:
            while waiting and len(running) < jobs:
                family = waiting.pop(0)
                taken = [card for _, _, card in running.values()]
                card = min(cards, key=taken.count)
                arguments = (family, ways, scratch, device, card, precision, limit_s)
                process: BaseProcess = multiprocessing.get_context("fork").Process(target=one, args=arguments)
                process.start()
                running[family] = (process, time.monotonic(), card)
            time.sleep(POLL_S)
            for family, (process, since, _) in list(running.items()):
                late = time.monotonic() - since > limit_s
                if process.is_alive() and late:
                    process.kill()
                elif process.is_alive():
                    continue
                process.join()
                del running[family]
                yield result_of(family, scratch, late)
                if logs:
                    logs.mkdir(parents=True, exist_ok=True)
                    shutil.copy(scratch / "logs" / family, logs / f"{family}.txt")
                shutil.rmtree(scratch / "families" / family, ignore_errors=True)


def all_results(names: list[str], ways: list[str]) -> list[Result]:
    """Return the results of families, one after another on a CPU, for tests."""
    return list(results(names, ways, "cpu", jobs=1, limit_s=300))


def one(family: str, ways: list[str], scratch: Path, device: str, card: str, precision: str, limit_s: float) -> None:
    """Try one family in this process, and write its line of JSON. `card`: the UUID of its GPU."""
    os.environ["CUDA_VISIBLE_DEVICES"] = card
    folder, out = scratch / "families" / family, scratch / "found" / family
    for path in (folder, out.parent, scratch / "logs"):
        path.mkdir(parents=True, exist_ok=True)
    log = os.open(scratch / "logs" / family, os.O_CREAT | os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(log, stream)
    warnings.simplefilter("ignore")
    faulthandler.dump_traceback_later(0.9 * limit_s)  # into the log: where it is slow
    torch.set_num_threads(1)
    port = free_port(FIRST_PORT + PORTS * (os.getpid() % 500))  # no two families look for theirs in the same place
    os.environ |= {"MASTER_PORT": str(port), "MASTER_ADDR": "127.0.0.1"}
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    result, config = Result(family), None
    try:
        config = tiny.config_of(family)
        model = trial.folder_of(config, shutil.copytree(scratch / "tokenizer", folder / "model"))
        made = published.from_config(config)
        result.model = type(made).__name__
        result.plan = trial.plan_of(model, sum(parameter.numel() for parameter in made.parameters()))
    except Exception as error:
        result.ways["built"] = trial.unbuilt(error, config, folder, scratch, device, precision)
    else:
        world = distributed.start(device, 60)
        for way in ways:
            result.ways[way] = trial.trial(folder, model, scratch / "rows", way, precision, world)
            out.write_text(result.line() + "\n")
    out.write_text(result.line() + "\n")
    os._exit(0)  # without the ends of libraries, which may wait for other processes


def free_port(first: int) -> int:
    """Return the first port that nobody uses, from `first` on."""
    for port in range(first, first + PORTS):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise RuntimeError(f"no free port from {first} on")


def read(path: Path) -> list[Result]:
    """Return the results in a file of JSON lines."""
    contents = [json.loads(line) for line in path.read_text().splitlines()]
    return [
        Result(**{**content, "ways": {way: Found(**found) for way, found in content["ways"].items()}})
        for content in contents
    ]


def result_of(family: str, scratch: Path, late: bool) -> Result:
    """Return what a family's process has found, with a word about its end if it did not end well."""
    path, result = scratch / "found" / family, Result(family)
    if path.is_file():
        (result,) = read(path)
    if late:
        log = (scratch / "logs" / family).read_text(errors="replace").partition("Timeout (")[2].splitlines()
        frames = [line.strip() for line in log if line.strip().startswith("File")]
        result.ways["process"] = Found("traceback", f"takes too long: {' '.join(frames[:1])}", said=frames)
    elif not result.ways:
        log = (scratch / "logs" / family).read_text(errors="replace").splitlines()
        result.ways["process"] = Found("traceback", f"its process ended: {' '.join(log[-1:])}")
    return result
