"""Variables of the environment that libraries read: values with which they cannot even be imported.

They are no settings: somebody has set them for another program, or to look into this one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from sft.errors import wrong

WHOLE_NUMBER = r"\s*[+-]?\d+\s*", "is not a whole number"
# By their names, what they have to match, and what is wrong if they do not. Some libraries take an empty one as unset.
FORMS = {
    "DEEPSPEED_TIMEOUT": WHOLE_NUMBER,
    "HF_HUB_DOWNLOAD_TIMEOUT": (rf"({WHOLE_NUMBER[0]})?", WHOLE_NUMBER[1]),
    "HF_HUB_ETAG_TIMEOUT": (rf"({WHOLE_NUMBER[0]})?", WHOLE_NUMBER[1]),
    "TORCHDYNAMO_REPRO_LEVEL": WHOLE_NUMBER,
    "TORCHINDUCTOR_COMPILE_THREADS": WHOLE_NUMBER,
    "TORCH_DISTRIBUTED_DEBUG": ("(?i)OFF|INFO|DETAIL", "is none of OFF, INFO, DETAIL"),
}


def problems(environment: Mapping[str, str]) -> list[str]:
    """Return a line for every variable that a library would refuse with a traceback."""
    return [
        wrong(name, environment[name], what, f"correct it, or `unset {name}`")
        for name, (form, what) in FORMS.items()
        if name in environment and not re.fullmatch(form, environment[name])
    ]
