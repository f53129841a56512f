"""A run needs an optional package only for what it alone does, and one that does not load ends no run."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
OPTIONAL = ("bitsandbytes", "liger_kernel", "flash_attn")
PACKAGES = Path(torch.__file__).parents[1]

ADAPTER_FROM_START_TO_END = """
    import sys
    from pathlib import Path
    import torch
    from tests.settings import decided
    from sft.trainer import loop
    from sft.trainer.evaluation import evaluate
    from sft.trainer.model import adapter, export
    from sft.trainer.model.load import load_model, permissions

    base, folder = Path(sys.argv[1]), Path(sys.argv[2])
    settings = decided(model_name="tiny", lora_rank=2)
    model = load_model(base, settings, torch.device("cpu"))
    adapter.add(model, settings)
    model(torch.arange(5, 25)[None]).logits.sum().backward()
    adapter.write(model, model.state_dict(), base, None, folder / "adapter", settings)
    whole = adapter.merged(model, base, folder / "adapter", permissions(settings))
    export.write_model(whole, whole.state_dict(), base, None, folder / "final", False)
"""

KERNELS = """
    import torch
    from sft.trainer import attention, engine
    from sft.trainer.attention_options import Options
    from sft.trainer.distributed import World

    print(attention.fastest("cuda", torch.bfloat16, Options(None, 0, 0.0)).__name__)
    engine.take_liger_kernels(torch.nn.Linear(2, 2), World(0, 0, 1, torch.device("cuda")))
"""


@pytest.fixture
def packages(tmp_path):
    """A folder with all installed packages but the optional ones, as a default installation has them."""
    folder = tmp_path / "packages"
    folder.mkdir()
    for path in PACKAGES.iterdir():
        if not path.name.replace("-", "_").startswith(OPTIONAL):
            (folder / path.name).symlink_to(path)
    return folder


def python(packages, code, *arguments):
    environment = os.environ | {"PYTHONPATH": f"{packages}:{ROOT}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-S", "-c", textwrap.dedent(code), *map(str, arguments)]  # -S: no other packages
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_an_adapter_is_trained_written_and_merged_without_optional_packages(packages, tiny, tmp_path):
    missing = python(packages, "import bitsandbytes")
    assert "No module named 'bitsandbytes'" in missing.stderr
    done = python(packages, ADAPTER_FROM_START_TO_END, tiny, tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "final" / "model.safetensors").is_file()


def test_kernels_that_do_not_load_are_said_and_done_without(packages):
    for name in ("flash_attn", "liger_kernel"):  # built for another torch, as they are found in the wild
        (packages / name).mkdir()
        (packages / name / "__init__.py").write_text("raise ImportError('undefined symbol: _ZN3c105')")
        (packages / f"{name}-9.9.dist-info").mkdir()
        (packages / f"{name}-9.9.dist-info" / "METADATA").write_text(f"Name: {name}\nVersion: 9.9\n")
    done = python(packages, KERNELS)
    assert done.returncode == 0, done.stderr
    assert "flash-attn does not load (undefined symbol: _ZN3c105): attention without it" in done.stdout
    assert "torch_varlen" in done.stdout
    assert "liger-kernel does not load (undefined symbol: _ZN3c105): training without it" in done.stdout
