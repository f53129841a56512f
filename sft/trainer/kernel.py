"""Let the installed torch compute for a moment: `python -m sft.trainer.kernel --device cuda`, on every GPU, or `cpu`.

Prints one line of JSON. A build that does not suit the driver or a card can be imported, and fails at its first kernel.
"""

from __future__ import annotations

import argparse
import json

import torch

try:  # torch's builds for CUDA bring it
    import triton
    import triton.language as tl
except ImportError:
    triton = None

SIZE = 256  # values of the Triton kernel; rows and columns of the matrices


def main() -> None:
    """Print the versions, the devices, and what went wrong: "" for nothing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), required=True)
    device = parser.parse_args().device
    found: dict[str, str | list[str]] = {"torch": str(torch.__version__), "cuda": torch.version.cuda or ""}
    found |= {"devices": [], "triton": triton.__version__ if triton else "", "error": ""}
    try:
        multiply(torch.device("cpu"))
        if device == "cuda":
            torch.cuda.init()
            devices = [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
            found["devices"] = [torch.cuda.get_device_name(device) for device in devices]
            for device in devices:
                multiply(device)
                add_one_with_triton(device)
    except Exception as error:  # whatever it is, it is the answer
        found["error"] = f"{type(error).__name__}: {error}"
    print(json.dumps(found), flush=True)


def multiply(device: torch.device) -> None:
    """Multiply matrices of ones in the precision of a run. Raises ArithmeticError if the product is wrong."""
    ones = torch.ones(SIZE, SIZE, device=device, dtype=torch.bfloat16)
    if not bool(((ones @ ones) == SIZE).all()):
        raise ArithmeticError(f"a product of matrices is wrong on {device}")


def add_one_with_triton(device: torch.device) -> None:
    """Compile a kernel with Triton and run it. Raises ArithmeticError if it computes wrong."""
    if triton is None:
        return
    values = torch.zeros(SIZE, device=device)
    with torch.cuda.device(device):
        triton.jit(add_one)[(1,)](values, SIZE)
    if not bool((values == 1).all()):
        raise ArithmeticError(f"a Triton kernel computes wrong on {device}")


def add_one(values, size: tl.constexpr):  # type: ignore[no-untyped-def]  # Triton knows no other annotation
    """Add one to each value. Triton compiles this function from its source."""
    places = tl.arange(0, size)
    tl.store(values + places, tl.load(values + places) + 1)


if __name__ == "__main__":
    main()
