"""What a job script asks for, and what Slurm's words mean."""

import shutil

import pytest

from sft.host.launch.slurm import cluster, queue, script
from sft.host.launch.slurm.launcher import Slurm
from sft.host.launch.slurm.queue import JobState
from sft.host.launch.slurm.script import LOOKS_EVERY_S, UNPLANNED_LEAD_S, lead_s, seconds_of
from sft.run.directory import Run
from sft.settings.load import load


@pytest.mark.parametrize(
    ("limit", "seconds"),
    [("", 0), ("90", 5400), ("1:30", 90), ("2:00:00", 7200), ("1-0", 86_400), ("1-12:30", 131_400), ("0-0:0:05", 5)],
)
def test_a_time_limit_is_read_as_slurm_reads_it(limit, seconds):
    assert seconds_of(limit) == seconds


def test_a_job_is_warned_in_time_and_a_short_one_trains_at_all():
    assert lead_s(load(None), None) == UNPLANNED_LEAD_S
    assert lead_s(load(None, slurm_time="1-0"), None) == UNPLANNED_LEAD_S
    assert lead_s(load(None, slurm_time="1"), None) + LOOKS_EVERY_S < 60


@pytest.mark.parametrize(
    ("line", "gpus", "card", "cores"),
    [
        (("4", "128", "gpu:h100:8(S:0-1)", "1024000"), 8, "h100", 32),
        (("2", "64+", "gpu:4", "256000+"), 4, "", 32),
        (("10", "4", "(null)", "8000"), 0, "", 2),
        (("1", "96", "shard:8,gpu:nvidia_a100:4(S:0)", "512000"), 4, "nvidia_a100", 48),
    ],
)
def test_a_task_gets_the_cores_that_belong_to_its_gpus(line, gpus, card, cores):
    kind = cluster.kind_in(*line)
    assert (kind.gpus, kind.card, kind.cores_for(2)) == (gpus, card, cores)


def test_the_plan_knows_the_card_only_if_slurm_names_it():
    (named, *_), (unnamed, *_) = (
        cluster.gpus_of([cluster.kind_in("1", "8", gres, "8000")], 2) for gres in ("gpu:h100:8", "gpu:8")
    )
    assert "H100" in named.name and named.total_gib > 79
    assert (unnamed.name, unnamed.total_gib) == ("GPU", 0)
    assert cluster.gpus_of([cluster.kind_in("9", "8", "gpu:1", "8000")], 2) == []


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (JobState(7, "PENDING", "Resources"), "job 7 is pending (Resources)"),
        (JobState(7, "RUNNING", "None", 1), "job 7 is running, requeued once"),
        (JobState(7, "PENDING", "BeginTime", 3), "job 7 is pending (BeginTime), requeued 3 times"),
        (JobState(7, "NODE_FAIL"), "job 7 lost a node"),
        (JobState(7, "CANCELLED"), "job 7 was cancelled"),
        (JobState(7, "SOMETHING_NEW"), "job 7 is something_new"),
    ],
)
def test_what_became_of_a_job_is_said_in_words(state, words):
    assert state.words == words


def test_only_what_is_set_stands_in_the_script(tmp_path):
    kinds = [cluster.kind_in("2", "64", "gpu:a100:4", "256000")]
    settings = load(None, device="cuda", gpus_per_node=2, slurm_account="lab", slurm_extra="--mem=0 --comment='a b'")
    text = script.written(Run(tmp_path / "a run"), settings, kinds, None)
    options = [line for line in text.splitlines() if line.startswith("#SBATCH ")]
    for option in ("--gpus-per-node=2", "--account=lab", "--mem=0", "'--comment=a b'", "--cpus-per-task=32"):
        assert f"#SBATCH {option}" in options
    assert not any("--partition" in option or "--time" in option for option in options)
    assert f"--run '{tmp_path}/a run'" in text


def test_the_commands_and_the_partition_are_checked(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    (found,) = Slurm().checks(load(None))
    assert (found.level, found.found) == ("failure", "sbatch is not installed here")
    monkeypatch.setattr(shutil, "which", lambda name: name)
    lines = "4|128|gpu:h100:8|1024000|gpu*"
    monkeypatch.setattr(queue, "call", lambda *words, **more: lines)
    (found,) = Slurm().checks(load(None, nodes=2, gpus_per_node=4))
    assert (found.level, found.found) == ("ok", "4 nodes, 512 cores, 32 GPUs where a node has enough of them")
    (found,) = Slurm().checks(load(None, nodes=9))
    assert found.level == "failure" and found.found == "NODES=9: the partition has 4 nodes"
