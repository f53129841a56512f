"""Make `.venv` and fill it: `sft/host/bootstrap/__main__.py [--dev] [--as-is]`. Even Python 2.7 can read this file."""

import os
import signal
import sys

if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while the modules below are imported is no traceback either

if sys.version_info < (3, 8):  # noqa: UP036
    version = ".".join(map(str, sys.version_info[:3]))
    sys.stderr.write("PYTHON=%s: is Python %s; use 3.8 or newer\n" % (sys.executable, version))  # noqa: UP031
    sys.exit(2)
for _ in range(3):
    sys.path[0] = os.path.dirname(os.path.abspath(sys.path[0]))  # from this folder to the project's

from sft.host.bootstrap.environment import main  # noqa: E402
from sft.host.bootstrap.stop import run  # noqa: E402

run(main, after="the same command starts again")
