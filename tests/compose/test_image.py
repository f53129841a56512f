"""What is in the image, as a node's container has it: read-only, without a home, and with a user's rights alone."""

import json

import pytest

from sft.host.launch import image
from tests.e2e.project import small

from .stack import IMAGE

# As Triton does for each kernel: a module in C for this Python, compiled by gcc where the cache is, and loaded.
STUB = """
import importlib.util, subprocess, sysconfig
open("/tmp/stub.c", "w").write('''
#include <Python.h>
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "stub", NULL, -1, NULL};
PyMODINIT_FUNC PyInit_stub(void) { return PyModule_Create(&module); }
''')
include = sysconfig.get_path("include")
subprocess.run(["gcc", "/tmp/stub.c", "-O3", "-shared", "-fPIC", "-o", "/tmp/stub.so", f"-I{include}"], check=True)
spec = importlib.util.spec_from_file_location("stub", "/tmp/stub.so")
print(importlib.util.module_from_spec(spec).__name__)
"""
COMPILED = "import torch; print(torch.compile(lambda x: x.sin() + 1)(torch.zeros(3)).sum().item())"


@pytest.fixture(scope="module")
def python(stack):
    done = stack.inv("setup", **small(GPUS_PER_NODE=1))
    assert done.returncode == 0, done.stdout

    def run(program):
        return stack.docker("compose", "run", "--rm", "--no-deps", "-T", "llm-master", "python3", "-c", program).strip()

    return run


def test_triton_and_torch_find_their_compilers(python):
    assert python(STUB).endswith("stub")
    assert float(python(COMPILED)) == 3


def test_its_torch_is_the_build_for_this_machine_and_no_compiler_of_nvidias_is_in_it(python):
    said = python("import shutil, torch; print(torch.version.cuda, shutil.which('nvcc'))").split()
    cuda, nvcc = said[-2:]
    wanted = "None" if image.torch_backend() == "cpu" else f"{image.torch_backend()[2:-1]}.{image.torch_backend()[-1]}"
    assert (cuda, nvcc) == (wanted, "None")


def test_it_says_what_of_the_driver_it_needs_and_names_no_card(stack, python):
    found = json.loads(stack.docker("image", "inspect", IMAGE))[0]["Config"]
    variables = dict(line.split("=", 1) for line in found["Env"])
    assert variables["NVIDIA_DRIVER_CAPABILITIES"] == "compute,utility"
    assert variables["NVIDIA_VISIBLE_DEVICES"] == "void" and not [name for name in variables if "REQUIRE" in name]
    assert found["Labels"]["sft.content"] == image.content()
