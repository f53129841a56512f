"""The speed and memory of optimizer steps: `python -m benchmarks.steps --help`. One JSON line per variant of settings.

Imports take longest, so they are done once: every variant runs in processes that are forked from this one, one per
rank, with their own CUDA context and process group. Tokens are counted without padding.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import signal
import socket
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import deepspeed
import torch
import transformers

from benchmarks import link, work
from sft.errors import SettingsError
from sft.host import gpus
from sft.host.plan.conditions import conditions
from sft.host.plan.plan import Plan
from sft.settings.deepspeed import configuration
from sft.settings.kinds import OnDevice
from sft.settings.load import load
from sft.settings.stages import Effective, Resolved, resolve, without_plan
from sft.trainer import batching, distributed, fast_paths, loop, unpacked_layers
from sft.trainer import engine as engine_of
from sft.trainer.data import hashes
from sft.trainer.distributed import World
from sft.trainer.engine import grad_norm, start_engine
from sft.trainer.model.parts import count_weights

TIMEOUT_S = 300


def main() -> None:
    """Measure every variant that the command line names. Exit code 1 if one fails, 2 if its settings are wrong."""
    parser = options(__doc__)
    parser.add_argument("variants", nargs="+", help='"name: SETTING=value ...", settings as in .env')
    parser.add_argument("--cap-gib", type=float, default=0.0, help="GPU memory that the allocator and the plan may use")
    arguments = parser.parse_args()
    be_quiet()
    fixed = its_work(arguments)
    variants = {}
    for variant in arguments.variants:
        name, _, text = variant.partition(":")
        try:
            variants[name] = settings_of(arguments.device, fixed | given(text))
        except SettingsError as error:
            parser.error(f"{name}: {error}")
    failed = False
    for name, settings in variants.items():
        try:
            found = measured(settings, arguments.warmup, arguments.steps, arguments.cap_gib)
        except SystemExit as error:  # of this variant alone: the others are measured all the same
            found, failed = {"failed": str(error)}, True
        print(json.dumps({"variant": name} | found), flush=True)
    if failed:
        raise SystemExit(1)


def options(description: str | None) -> argparse.ArgumentParser:
    """Return a parser of the options that say what is measured, where, and for how many steps."""
    parser = work.options(description)
    parser.add_argument("--warmup", type=int, default=8)
    parser.add_argument("--steps", type=int, default=20)
    return parser


def its_work(arguments: argparse.Namespace) -> dict[str, object]:
    """Return the settings for the model and the data that the command line names; make what is missing."""
    if not (arguments.tokenizer and arguments.data):
        made = forked(1, lambda: work.rows_and_tokenizer(arguments.scratch))
        arguments.tokenizer, arguments.data = map(Path, made)
    hashed = [hashes.file_hash(path)[:8] for path in (arguments.shape, arguments.tokenizer)]
    model = arguments.scratch / "-".join([arguments.shape.stem, *hashed])
    if not (model / "tokenizer_config.json").exists():  # written last
        forked(1, lambda: work.make_model(arguments.shape, arguments.tokenizer, model, arguments.device))
    return {"model_name": model, "dataset": arguments.data, "data_path": arguments.scratch / "data"}


def given(text: str) -> dict[str, object]:
    """Return the settings in a text of NAME=value words."""
    return {key.lower(): value for key, value in (word.split("=", 1) for word in text.split())}


def be_quiet() -> None:
    """Silence the warnings of libraries: the output is one JSON line per variant."""
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")


def settings_of(device: OnDevice, chosen: dict[str, object]) -> Resolved:
    """Return the settings of a variant: one rank, unless it says otherwise."""
    precision = "bf16" if device == "cuda" else "fp32"
    fixed: dict[str, object] = {"device": device, "launcher": "local", "nodes": 1, "gpus_per_node": 1}
    given = fixed | {"precision": precision} | {name: str(value) for name, value in chosen.items()}
    return resolve(load(None, None, **given), device, "local")


def measured(settings: Resolved, warmup: int, steps: int, cap_gib: float = 0.0) -> dict[str, object]:
    """Return the measurements of a variant, and on GPUs what the plan had estimated."""
    forked(1, lambda: work.prepared(settings))
    if settings.device == "cpu":
        effective = Effective.of(without_plan(settings))
        forked(1, lambda: work.prepared(effective))  # no rank may try the model: only rank 0 could save it
        return forked(settings.world_size, lambda: measure(effective, warmup, steps), settings.gpus_per_node)
    plan = planned(settings, cap_gib)
    effective = Effective.of(plan.settings)
    forked(1, lambda: work.prepared(effective))
    found = forked(settings.world_size, lambda: measure(effective, warmup, steps, cap_gib), settings.gpus_per_node)
    return found | {
        "budget": plan.settings.max_tokens_per_micro_step,
        "recompute": plan.settings.gradient_checkpointing,
        "plan_fits": plan.fits,
        "plan_peak_gib": round(plan.memory.allocated / 2**30, 2),
        "plan_tokens_per_second": round(plan.timing.tokens_per_second),
        "plan_link_gb": round(plan.timing.link_bytes / 1e9, 3),
        "plan_link_ms": round(1000 * plan.timing.link_s, 1),
    }


def planned(settings: Resolved, cap_gib: float) -> Plan:
    """Return the plan of a variant for its prepared rows."""
    found = conditions(settings, gpus.visible())
    if cap_gib:
        found = replace(found, free_gib=cap_gib, card=replace(found.card, memory_gib=cap_gib))
    return Plan.of(settings, found)


def forked(ranks: int, function: Callable[[], Any], slots: int = 1) -> Any:
    """Run a function in `ranks` forked processes; return what it returns on rank 0. Raises SystemExit if one fails.

    Nodes of `slots` ranks get different cards, as with LAUNCHER=local. If one fails, the others, who may wait for it,
    are ended.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "found.json"
        children = set()
        for rank in range(ranks):
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    node, local = divmod(rank, slots)
                    place = {"RANK": rank, "LOCAL_RANK": local, "WORLD_SIZE": ranks, "MASTER_PORT": port}
                    os.environ |= {name: str(value) for name, value in place.items()} | {"MASTER_ADDR": "127.0.0.1"}
                    cards = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(ranks)))
                    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(cards.split(",")[node * slots : (node + 1) * slots])
                    found = json.dumps(function(), default=str)
                    if rank == 0:
                        result.write_text(found)
                    code = 0
                except BaseException:
                    traceback.print_exc()
                finally:
                    sys.stdout.flush()
                    os._exit(code)
            children.add(child)
        if not all_end_well(children):
            raise SystemExit("a variant failed; see its traceback above")
        return json.loads(result.read_text())


def all_end_well(children: set[int]) -> bool:
    """Wait for child processes; whether all ended with 0. If one does not, kill the others, and wait for them too."""
    well = True
    while children:
        for child in list(children):
            ended, status = os.waitpid(child, os.WNOHANG)
            if not ended:
                continue
            children.remove(child)
            if status and well:
                well = False
                for other in children:
                    os.kill(other, signal.SIGKILL)
        time.sleep(0.02)
    return well


def speed_of(found: dict[str, object]) -> float:
    """Return the tokens per second among measurements; NaN if there are none."""
    speed = found.get("tokens_per_second")
    return speed if isinstance(speed, int | float) else math.nan


def measure(settings: Effective, warmup: int, steps: int, cap_gib: float = 0.0) -> dict[str, object]:
    """Train some steps and return their time and memory (all ranks)."""
    cuda = settings.device == "cuda"
    world = distributed.start(settings.device, TIMEOUT_S)
    if cap_gib:
        torch.cuda.set_per_process_memory_fraction(cap_gib * 2**30 / engine_of.card_bytes(world.device))
        engine_of.card_bytes = lambda device: int(cap_gib * 2**30)  # by which it decides what stays gathered
    path, rows = work.prepared(settings)
    flops = matrix_rate() if cuda else 0.0
    engine, received = start_engine(path, settings, configuration(settings), world)
    longest, most_tokens = int(rows.lengths.max()), settings.max_tokens_per_micro_step
    packing = fast_paths.take_fast_paths(engine, settings.packing, world, longest, most_tokens)
    states_gib = torch.cuda.memory_allocated() / 2**30 if cuda else 0.0
    loading_gib = torch.cuda.max_memory_allocated() / 2**30 if cuda else 0.0
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    losses: list[float] = []
    norms: list[float] = []
    tokens, started, chosen = 0, 0.0, batching.rows_of_step(0, len(rows), settings.sequences_per_step, settings.seed)

    def one(step: int) -> None:
        nonlocal tokens, chosen
        chosen = batching.rows_of_step(step, len(rows), settings.sequences_per_step, settings.seed)
        targets = rows.target_tokens(chosen)
        micro_steps = batching.micro_steps(chosen, rows.lengths, settings, packing)
        loss_sum, _ = loop.optimizer_step(engine, rows, micro_steps, targets, packing, False, world)
        losses.append(loss_sum / targets)
        norms.append(grad_norm(engine).read()[0])
        tokens += int(rows.lengths[chosen].sum())

    for step in range(warmup + steps):
        if step == warmup:
            wait(world)
            tokens, started = 0, time.perf_counter()
        one(step)
    wait(world)
    seconds = time.perf_counter() - started
    weights = count_weights(engine.module)
    found: dict[str, object] = {
        "ranks": world.world_size,
        "mean_tokens": round(float(rows.lengths.mean())),
        "longest": int(rows.lengths.max()),
        "sequences_per_step": settings.sequences_per_step,
        "micro_steps": len(batching.micro_steps(chosen, rows.lengths, settings, packing)),
        "tokens_per_second": round(tokens / seconds),
        "step_ms": round(1000 * seconds / steps, 1),
        "mfu": round(6 * weights * tokens / seconds / flops / world.world_size, 3) if cuda else None,
        "loading_peak_gib": round(loading_gib, 2),
        "states_gib": round(states_gib, 2),
        "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2) if cuda else None,
        "packed": packing,
        "unpacked_layers": len(unpacked_layers.of(engine.module)),
        "first_loss": round(losses[0], 5),
        "first_norm": round(norms[0], 5),
        "last_loss": round(losses[-1], 5),
        "zero": {key: value for key, value in received.zero.items() if "threshold" in key},
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "matrix_tflops": round(flops / 1e12),
        "versions": f"torch {torch.__version__}, transformers {transformers.__version__}, "
        f"deepspeed {deepspeed.__version__}",
    }
    if cuda and world.world_size > 1:
        trace = link.profiled(lambda: one(warmup + steps))
        sent, busy_s = link.moved(trace.link)
        found |= {"link_gb": round(sent / 1e9, 3), "link_ms": round(1000 * busy_s, 1)}
        found |= {"exposed_ms": round(1000 * link.least_exposed_s(trace), 1)}
        found |= {"busy_ms": round(1000 * link.covered(trace.work), 1)}
    distributed.end()
    return found


def wait(world: World) -> None:
    """Wait until the devices of all ranks are idle (all ranks)."""
    if world.device.type == "cuda":
        torch.cuda.synchronize()
    distributed.barrier()


def matrix_rate() -> float:
    """Return the FLOP/s that this GPU reaches in bf16 matrix products: 8192 x 8192 x 8192 on random data."""
    size, repeats = 8192, 20
    left, right = (torch.randn(size, size, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    for _ in range(3):
        left @ right
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(repeats):
        left @ right
    torch.cuda.synchronize()
    return repeats * 2 * size**3 / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
