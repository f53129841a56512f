"""The licence of the base model, which goes with every model that is made of it."""

from __future__ import annotations

import shutil
from pathlib import Path

FILES = ["LICENSE*", "LICENCE*", "License*", "license*", "NOTICE*", "USE_POLICY*"]
MOST_BYTES = 2**20  # of a text


def copy(base: Path, folder: Path) -> None:
    """Copy the licence, the notice and the terms of use in `base` to `folder`."""
    for path in {path for pattern in FILES for path in base.glob(pattern)}:
        try:
            if path.is_file() and path.stat().st_size <= MOST_BYTES:
                shutil.copyfile(path, folder / path.name)
        except OSError as error:  # not worth a trained model
            print(f"{path}: could not be copied ({error.strerror})", flush=True)
