"""The directory of a run that is at work goes away: the run says so and leaves nothing at work."""

import shutil

import pytest

from sft.run.directory import Run

from .project import TIMEOUT_S, small, unending, wait_until


@pytest.mark.parametrize("is_renamed", [True, False])
def test_a_run_whose_directory_goes_away_ends_in_one_line(project, is_renamed):
    """It trained on, saved nothing and ended with a traceback."""
    run = Run(project.path / "runs" / f"going-{is_renamed}")
    process = project.start("train", **small(RUN_NAME=run.name, **unending(SAVE_STEPS=3)))
    wait_until(lambda: run.saved_step() is not None, process, run)
    renamed = Run(run.path.with_name("gone"))
    if is_renamed:
        run.path.rename(renamed.path)
    else:
        shutil.rmtree(run.path)
    output, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 2 and "Traceback" not in output, output
    said = "is gone: it was removed or renamed while the run was at work; if it was renamed, `make resume NAME=…` with"
    assert output.count(f"runs/{run.name}: {said}") == 1
    project.wait_for_no_process()
    assert not run.path.exists()
    if is_renamed:
        step = renamed.saved_step()
        done = project.inv("make", "resume", f"NAME={renamed.name}", "MAX_HOURS=0.002")
        assert done.returncode == 0 and f"resuming runs/{renamed.name} after step {step}" in done.stdout
