"""Steps between two hosts against the plan: `python -m tests.hosts.speed 1 10` (Gbit/s), as root.

The model has 80 million random weights, so that the network counts. What a step takes without a network is measured by
a run of one host with two ranks. `make plan` is given this run (MEASURED) and the network. Everything is repeated in
turns; the medians are printed. Two hosts that are namespaces of one machine share its cores, as the ranks of one do.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from sft.run.directory import Run
from tests.e2e.project import Project, small

from .conftest import on
from .network import Network, why_not

LARGE = {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 12}
LARGE |= {"num_key_value_heads": 12, "head_dim": 64}
STEPS, SKIPPED = 8, 2  # steps of a run, and those that are not counted
ROWS = 1  # of a step, on each host: the fewer, the more the network counts
WAIT_S = 600


def large_model(tiny: Path, folder: Path, layers: int = 12) -> None:
    """Write a model with random weights beside the tokenizer of a tiny one."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig.from_pretrained(tiny)
    config.update(LARGE | {"num_hidden_layers": layers})
    LlamaForCausalLM(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny).save_pretrained(folder)


class Bench:
    """Two hosts, and the runs on them."""

    def __init__(self, network: Network, project: Project, layers: int = 12) -> None:
        self.network, self.project = network, project
        tiny = project.train("tiny", LAUNCHER="local", NODES=1, MAX_STEPS=1)
        self.model = project.path / "models" / "large"
        large_model(tiny.final, self.model, layers)

    def settings(self, name: str, ds_config: str, **more: object) -> dict[str, object]:
        kept = {"MODEL_NAME": self.model, "MAX_STEPS": STEPS, "DS_CONFIG": ds_config, "PRECISION": "fp32"}
        return small(RUN_NAME=name, GRADIENT_CHECKPOINTING=0, **kept, **more)

    def alone(self, name: str, ds_config: str) -> float:
        """Return the seconds of a step of as many ranks on one host.

        They are two nodes there too: the kernel shares the cores among sessions, of which each node has one.
        """
        given = {"NODES": 2, "LAUNCHER": "local", "GLOBAL_BATCH_SIZE": 2 * ROWS}
        process = self.project.start("train", **self.settings(name, ds_config, **given))
        said, _ = process.communicate(timeout=WAIT_S)
        assert process.returncode == 0, said
        return self.step_s(name)

    def together(self, name: str, ds_config: str, gbit: float) -> tuple[float, float]:
        """Return the seconds of a step of both hosts, and the bytes that the first one sends in one."""
        sent: dict[int, int] = {}  # by the number of steps that are done
        run = Run(self.project.path / "runs" / name)
        with self.network.limited(gbit):
            given = {"HOSTS": "hostA,hostB", "GLOBAL_BATCH_SIZE": 2 * ROWS}
            process = self.project.start("train", **self.settings(name, ds_config, **given))
            while process.poll() is None:
                sent.setdefault(run.state().step, self.network.sent_bytes())
                time.sleep(0.05)
            said, _ = process.communicate(timeout=WAIT_S)
            assert process.returncode == 0, said
        first, last = min(step for step in sent if step >= SKIPPED), STEPS - 1
        return self.step_s(name), (sent[last] - sent[first]) / (last - first)

    def step_s(self, name: str) -> float:
        """Return the median seconds of a run's steps."""
        times = [line.time or 0.0 for line in Run(self.project.path / "runs" / name).read_metrics() if line.step]
        return statistics.median(b - a for a, b in zip(times[SKIPPED:-1], times[SKIPPED + 1 :], strict=True))

    def planned(self, measured: str, ds_config: str, gbit: float) -> tuple[float, float]:
        """Return the seconds and the bytes of a step that `make plan` says."""
        given = self.settings("planned", ds_config, GLOBAL_BATCH_SIZE=2 * ROWS) | {"LAUNCHER": "hosts"}
        words = ["plan", "--json", "--hosts", "2", "--gpus", "2", "--link", str(gbit), "--measured", measured]
        done = self.project.inv(*words, "--rows", "4000", "--tokens-per-row", "35", **given)
        found = json.loads(done.stdout[done.stdout.index("{") :])["timing"]
        return found["step_s"], found["wire_bytes"]


def middle(values: list[float]) -> int:
    """Return the index of the median."""
    return sorted(range(len(values)), key=lambda number: values[number])[(len(values) - 1) // 2]


@contextlib.contextmanager
def bench(layers: int) -> Iterator[Bench]:
    """Yield the hosts, and remove them at the end."""
    with tempfile.TemporaryDirectory() as folder:
        for name in ("hosts", "project"):
            Path(folder, name).mkdir()
        network = Network(Path(folder, "hosts"))
        try:
            network.start()
            project = Project(Path(folder, "project"))
            project.launcher = "hosts"
            yield Bench(network, on(network.hosts[0], project), layers)
        finally:
            network.close()


def main() -> None:
    """Print a row of the table for each network and DS_CONFIG."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gbit", type=float, nargs="+")
    parser.add_argument("--ds-config", nargs="+", default=["zero2", "zero3"])
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--times", type=int, default=2)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the hosts are removed
    if reason := why_not():
        parser.error(reason)
    with bench(options.layers) as hosts:
        for ds_config in options.ds_config:
            alone: list[float] = []
            both: dict[float, list[tuple[float, float]]] = {gbit: [] for gbit in options.gbit}
            for number in range(options.times):
                alone.append(hosts.alone(f"alone-{ds_config}-{number}", ds_config))
                for gbit, found in both.items():
                    found.append(hosts.together(f"both-{ds_config}-{gbit:g}-{number}", ds_config, gbit))
                    step_s, sent = (statistics.median(values) for values in zip(*found, strict=True))
                    planned_s, planned_bytes = hosts.planned(f"alone-{ds_config}-{middle(alone)}", ds_config, gbit)
                    print(
                        f"| {ds_config} | {gbit:g} | {alone[middle(alone)]:.2f} s | {planned_bytes / 1e6:.0f} MB | "
                        f"{sent / 1e6:.0f} MB | {planned_s:.2f} s | {step_s:.2f} s | {step_s / planned_s:.2f} | "
                        f"{number + 1} times, load {os.getloadavg()[0]:.0f} |",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
