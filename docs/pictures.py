"""Make the README's pictures from a real run: `.venv/bin/python docs/pictures.py`, some three minutes.

`make demo` and, while it trains, `make monitor` run in a copy of the project, each in a pseudo-terminal of 80 columns.
rich draws what the terminals show at the end as docs/demo.svg and docs/monitor.svg.
"""

from __future__ import annotations

import fcntl
import io
import json
import os
import pty
import re
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).resolve().parents[1]
COLUMNS, ROWS = 80, 24
SHARE = 0.6  # of the steps that are done when the monitor is looked at
TIMEOUT_S = 600
# What rich writes to a terminal to draw a bar again: up a line, erase a line. Apart from colours, other codes have no
# effect on the picture.
CODES = re.compile(r"\r|\n|\x1b\[1?A|\x1b\[2K|\x1b\[\?\d+[hl]")
# rich's pictures load a font from elsewhere. They give every text its length, so any monospaced font will do.
FONTS = re.compile(r"@font-face \{.*?\}\s*|<!--.*?-->\s*", re.DOTALL)


def left_out(folder: str, names: list[str]) -> list[str]:
    """Return what is not copied of a folder: what runs have made, and what is hidden."""
    made = {"__pycache__"} | ({"runs", "data", "models"} if Path(folder) == ROOT else set())
    return [name for name in names if name in made or name.startswith(".")]


def in_terminal(folder: Path, *task: str) -> str:
    """Run a task to its end in a terminal of its own, and return what it writes there."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    environment = {"PATH": os.environ["PATH"], "TERM": "xterm-256color", "LANG": "C.UTF-8", "HOME": str(folder)}
    process = subprocess.Popen(
        [f"{sys.prefix}/bin/inv", *task], cwd=folder, env=environment, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    written = b""
    try:
        while block := os.read(ours, 65536):
            written += block
    except OSError:  # Linux's way to say that the program has ended
        pass
    os.close(ours)
    if process.wait():
        raise RuntimeError(f"make {task[0]} failed:\n{written.decode()}")
    return written.decode()


def at_the_end(written: str) -> list[str]:
    """Return the lines, with their colours, that a terminal shows after this text."""
    lines, row, position = [""], 0, 0
    for code in CODES.finditer(written + "\r"):
        lines[row] += written[position : code.start()]
        position = code.end()
        if code[0] == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif code[0].endswith("A"):
            row = max(0, row - 1)
        elif code[0].endswith("K"):
            lines[row] = ""
    return lines


def draw(name: str, written: str) -> None:
    """Write docs/NAME.svg."""
    text = written.replace(socket.gethostname(), "workstation")
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), color_system="truecolor", force_terminal=True)
    console.print(Text("$ ", "bold green") + Text(f"make {name}", "bold"))
    console.print(Text.from_ansi("\n".join(at_the_end(text)).rstrip()))
    picture = FONTS.sub("", console.export_svg(title=f"make {name}", unique_id=name))
    picture = picture.replace("<svg ", '<svg xml:space="preserve" ', 1)  # keeps the spaces at the beginning of a line
    (ROOT / "docs" / f"{name}.svg").write_text(re.sub(r"[ \t]+$", "", picture, flags=re.MULTILINE), encoding="utf-8")


def wait_for_training(run: Path, demo: Future[str]) -> None:
    """Return once the run has done its share of steps."""
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline and not demo.done():
        try:
            state = json.loads((run / "state.json").read_text())
        except FileNotFoundError:
            state = {}
        if state.get("total_steps") and state["step"] >= SHARE * state["total_steps"]:
            return
        time.sleep(0.2)
    raise SystemExit("the demo has not come to its steps in time" if not demo.done() else demo.exception())


def main() -> None:
    """Run the demo and draw both pictures."""
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor() as pool:
        project = Path(folder) / "sft"
        shutil.copytree(ROOT, project, ignore=left_out)
        demo = pool.submit(in_terminal, project, "demo")
        wait_for_training(project / "runs" / "latest", demo)
        written = {"monitor": in_terminal(project, "monitor", "--once"), "demo": demo.result()}
    for name, text in written.items():
        draw(name, text)


if __name__ == "__main__":
    main()
