"""On PYTHONPATH: programs of the trainer are handed over to a process that has imported torch (warm_stub.py)."""

import os
import sys

HERE = os.path.dirname(__file__)
others = [os.path.join(path, "sitecustomize.py") for path in os.environ["PYTHONPATH"].split(os.pathsep) if path != HERE]
others = [path for path in others if os.path.isfile(path)]  # Python itself imports only the first
if os.environ.get("SFT_TEST_WARM", "0") != "0" and "sft.trainer." in " ".join(sys.orig_argv[1:4]):
    import warm_stub

    warm_stub.hand_over(os.environ["SFT_TEST_WARM"], others)
if others:
    import runpy

    for path in others:
        runpy.run_path(path, run_name="sitecustomize")
