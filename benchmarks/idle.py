"""What takes the place of a node's ranks in benchmarks/scale.py: a process that waits, and says that they ended well.

It imports next to nothing, so that a machine holds hundreds of them.
"""

import base64
import json
import os
import sys
from pathlib import Path

END = "end"  # a named pipe in the run directory: opening it for writing ends all that wait
STARTED = "started"  # a folder in the run directory with a file for each node whose ranks have been started


def main() -> None:
    """Wait for the end, in place of DeepSpeed's launcher; or do nothing, in place of the program that prepares."""
    options = dict(word.lstrip("-").split("=", 1) for word in sys.argv[1:] if "=" in word)
    if "node_rank" not in options:
        return
    run, node = Path(sys.argv[-1]), int(options["node_rank"])
    world = json.loads(base64.urlsafe_b64decode(options["world_info"]))
    slots = len(next(iter(world.values())))
    (run / STARTED / str(node)).touch()
    with open(run / END, "rb"):
        pass
    for rank in range(node * slots, (node + 1) * slots):
        path = run / "ranks" / f"rank-{rank}.json"
        path.with_suffix(".tmp").write_text('{"version": 1, "status": "finished"}')
        os.replace(path.with_suffix(".tmp"), path)


if __name__ == "__main__":
    main()
