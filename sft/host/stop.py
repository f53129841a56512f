"""`inv stop`: ask a run to save and end, and wait until it has."""

from __future__ import annotations

import time

from rich.console import Console

from sft.errors import UserError
from sft.host.progress import display
from sft.run import Run

POLL_S = 0.2


def stop(run: Run, console: Console) -> None:
    """Stop a run after the step it is in. Raises UserError where it is not running."""
    if not run.is_running():
        raise UserError(f"{run.path}: is not running ({run.state().get('status')}); there is nothing to stop")
    run.request_stop("inv stop")
    console.print(f"stopping {run.name}: it finishes its step and saves a checkpoint")
    with display(console) as shown:
        while run.is_running():
            shown.show(run.state())
            time.sleep(POLL_S)
    state = run.state()
    if state["status"] == "stopped":
        console.print(f"stopped after step {state['step']}; `make train` resumes it")
    else:
        console.print(f"it {state['status']} before it could stop" + (f": {state['error']}" if state["error"] else ""))
