"""Is `.venv` whole and made for this folder? `.venv/bin/python -IS sft/host/bootstrap/sound.py`, at every `make`.

It runs in the environment's own Python, so that a Python that the distribution has removed shows at once. It prints one
of the two words below, or what is wrong: then `.venv` must be made anew.
"""

import os
import shlex
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
SOUND, UNFINISHED = "sound", "unfinished"
MARK = ".unfinished"  # in .venv, from the beginning of an installation to its end


def state(venv: str) -> str:
    """Return SOUND, UNFINISHED or what is wrong with a virtual environment whose Python runs this."""
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    packages = os.path.join(venv, "lib", "python" + version, "site-packages")
    if not os.path.isdir(packages):
        return "was made for another Python, and its python is " + version + " now"
    pip = os.path.join(venv, "bin", "pip")
    if not os.path.isfile(pip) or not os.path.isdir(os.path.join(packages, "pip")):
        return "has no pip"
    folder, made_for = os.path.join(venv, "bin"), os.path.dirname(interpreter(pip))
    if not os.path.isdir(made_for) or not os.path.samefile(made_for, folder):
        return "was made in another folder"
    return UNFINISHED if os.path.exists(os.path.join(venv, MARK)) else SOUND


def interpreter(script: str) -> str:
    """Return the program that runs a script of an environment, "" if it does not say."""
    with open(script, "rb") as file:
        first, second = (os.fsdecode(file.readline()) for _ in range(2))
    if first != "#!/bin/sh\n":
        return first[2:].strip()
    try:  # sh is in between if the path is long or has spaces; it is quoted in the second line
        words = shlex.split(second)
    except ValueError:
        return ""
    return words[1] if len(words) > 1 else ""


if __name__ == "__main__":
    print(state(os.path.join(ROOT, ".venv")))
