"""What lies where in a run directory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RunPaths:
    """The files and folders of one run."""

    path: Path

    @property
    def state_file(self) -> Path:
        """`state.json`: what the run is doing."""
        return self.path / "state.json"

    @property
    def metrics(self) -> Path:
        """`metrics.jsonl`: one JSON object per logged step."""
        return self.path / "metrics.jsonl"

    @property
    def logs(self) -> Path:
        """Folder of `node-R.log`."""
        return self.path / "logs"

    @property
    def checkpoints(self) -> Path:
        """Folder of `step-NNNNNN/` and `latest`."""
        return self.path / "checkpoints"

    @property
    def final(self) -> Path:
        """The tuned model in Hugging Face layout."""
        return self.path / "final"

    @property
    def adapter(self) -> Path:
        """The LoRA adapter in peft's layout; `final` holds it merged."""
        return self.path / "adapter"

    @property
    def settings_file(self) -> Path:
        """The resolved settings, without secrets."""
        return self.path / "settings.json"

    @property
    def identity_file(self) -> Path:
        """`.id`: drawn once, by which the run's own checkpoints are known from another's; absent in older runs."""
        return self.path / ".id"

    @property
    def ds_config(self) -> Path:
        """What DeepSpeed receives."""
        return self.path / "ds_config.json"

    @property
    def chat_template(self) -> Path:
        """A copy of the file that CHAT_TEMPLATE names; absent if it names none."""
        return self.path / "chat_template.jinja"

    @property
    def plan(self) -> Path:
        """`plan.json`: memory and time as estimated before the start; absent on a CPU."""
        return self.path / "plan.json"

    @property
    def capabilities(self) -> Path:
        """`capabilities.json`: which fast ways the model goes on its device, as tried before the first step."""
        return self.path / "capabilities.json"

    @property
    def hostfile(self) -> Path:
        """What the launcher reads."""
        return self.path / "hostfile"

    @property
    def job_script(self) -> Path:
        """`job.sbatch`: what was submitted to Slurm; absent without it."""
        return self.path / "job.sbatch"

    @property
    def job(self) -> Path:
        """`job.json`: the newest job in Slurm's queue; absent without it."""
        return self.path / "job.json"

    @property
    def host(self) -> Path:
        """`host.json`: what the first node's host is, for the others; only if hosts start their nodes themselves."""
        return self.path / "host.json"

    def node_file(self, rank: int) -> Path:
        """`node-R.json`: what a node is, written by itself."""
        return self.path / f"node-{rank}.json"

    @property
    def prepared(self) -> Path:
        """`prepared.json`: where the prepared data and the base model lie; written when both are whole."""
        return self.path / "prepared.json"

    @property
    def evaluation(self) -> Path:
        """`evaluation.json`: loss and exact match before and after training."""
        return self.path / "evaluation.json"

    @property
    def answers(self) -> Path:
        """`answers.jsonl`: every answer of the evaluations before and after training."""
        return self.path / "answers.jsonl"

    @property
    def budget(self) -> Path:
        """`budget.json`: how far the budget of a micro-step had to be cut; absent if everything fitted."""
        return self.path / "budget.json"

    @property
    def environment(self) -> Path:
        """`environment.json`: the project's commit, versions, machine and inputs of the run."""
        return self.path / "environment.json"

    @property
    def failure_file(self) -> Path:
        """`failure.json`: what broke the run, first."""
        return self.path / "failure.json"

    @property
    def ranks(self) -> Path:
        """Folder of `rank-N.json` and `exit-N.json`: how each rank of this attempt ended."""
        return self.path / "ranks"

    def rank_file(self, rank: int) -> Path:
        """`ranks/rank-N.json`: how a rank ended, written by itself."""
        return self.ranks / f"rank-{rank}.json"

    def exit_file(self, rank: int) -> Path:
        """`ranks/exit-N.json`: how a rank's process ended, written by DeepSpeed's launcher."""
        return self.ranks / f"exit-{rank}.json"
