"""Keys planted in `.env` are in no file, log, console output or command line, whatever prints them."""

import base64
import contextlib
import http.server
import shutil
import subprocess
import threading
import urllib.parse

import psutil
import pytest

from sft.run.directory import Run

from .project import Project, small

pytestmark = pytest.mark.real

KEYS = {"WANDB_API_KEY": "w4ndb" * 8, "HUGGINGFACE_API_KEY": "hf_p@ss/w0rd+" + "s3cr3t" * 4 + "'\"\\"}

# What a careless library does in every process of a run: prints the environment, and fails with a URL that has the key.
CARELESS = """
import base64, os, sys, urllib.parse
key = os.environ.get("HUGGINGFACE_API_KEY", "")
program = " ".join(sys.orig_argv)
if key and ("sft.trainer" in program or "deepspeed" in program):
    print(dict(os.environ), file=sys.stderr)
    for name in ("WANDB_API_KEY", "HUGGINGFACE_API_KEY"):
        value = os.environ[name]
        print(name, value, urllib.parse.quote_plus(value), base64.b64encode(f"api:{value}".encode()).decode())
if os.environ.get("FAIL_IN") in program.split():
    def fail(*_, **__):
        raise RuntimeError(f"401 Unauthorized: https://user:{urllib.parse.quote(key)}@hub, header Bearer {key}")
    sys.path.insert(0, os.getcwd())  # where `python -m` finds the project, only after this
    if os.environ["FAIL_IN"] == "sft.host.launch.node":
        from sft import hostfile
        hostfile.read_hostfile = fail
    else:
        from sft import steps
        steps.Steps.of = fail
"""


class Refusal(http.server.BaseHTTPRequestHandler):
    """A server that knows no key."""

    def do_POST(self):
        self.send_error(401)

    do_GET = do_POST

    def log_message(self, *_):
        """Say nothing."""


@pytest.fixture(scope="module")
def refusing():
    """The address of a server that refuses everybody, in W&B's place."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusal)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture(scope="module")
def planted(tmp_path_factory, project):
    """A project of its own, with the keys in its `.env` and the careless library on its path."""
    own = Project(tmp_path_factory.mktemp("planted"))
    for cache in ("data", "models"):
        if (project.path / cache).is_dir():
            shutil.copytree(project.path / cache, own.path / cache)
    quoted = {name: value.replace("\\", "\\\\").replace("'", "\\'") for name, value in KEYS.items()}
    (own.path / ".env").write_text("".join(f"{name}='{value}'\n" for name, value in quoted.items()))
    (own.path / ".env").chmod(0o600)
    (own.path / "careless").mkdir()
    (own.path / "careless" / "sitecustomize.py").write_text(CARELESS)
    return own


def forms():
    """Return what must be found nowhere."""
    for value in KEYS.values():
        yield from (value, urllib.parse.quote(value), urllib.parse.quote_plus(value), repr(value)[1:-1])
        yield base64.b64encode(f"api:{value}".encode()).decode()[8:40]


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        ({}, 0),
        ({"FAIL_IN": "sft.trainer.main", "NODES": 1}, 1),
        ({"FAIL_IN": "sft.host.launch.node"}, 1),
        ({"NCCL_DEBUG": "INFO", "TORCH_DISTRIBUTED_DEBUG": "DETAIL", "TORCH_CPP_LOG_LEVEL": "INFO", "HF_DEBUG": "1",
          "NODES": 1, "WANDB_DEBUG": "true", "TRANSFORMERS_VERBOSITY": "debug", "DATASETS_VERBOSITY": "debug"}, 0),
    ],
    ids=["run", "failed-rank", "failed-node", "debug"],
)  # fmt: skip
def test_planted_keys_are_found_nowhere(planted, refusing, settings, code, request):
    name = request.node.callspec.id
    own = {"RUN_NAME": name, "PYTHONPATH": planted.path / "careless", "WANDB_BASE_URL": refusing, "WANDB_MODE": "auto"}
    process = planted.start("train", **small(MAX_STEPS=3, **own, **settings))
    commands = set()
    while process.poll() is None:
        for running in planted.processes():
            try:
                commands.add(" ".join(running.cmdline()))
            except psutil.Error:
                continue
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.2)
    output = process.stdout.read()
    assert process.returncode == code, output
    planted.wait_for_no_process()  # what is looked at from here on stays as it is
    run = Run(planted.path / "runs" / name)
    said = [output, *commands, *(planted.inv(*task, "--name", name).stdout for task in (["logs"], ["monitor"]))]
    places = {str(i): text.encode() for i, text in enumerate(said)}
    places |= {str(path): path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    found = [(place, form) for place, content in places.items() for form in forms() if form.encode() in content]
    assert not found
    assert len(commands) >= 3 and run.log_files()
    logs = "".join(path.read_text() for path in run.log_files())
    if settings.get("FAIL_IN"):
        assert "401 Unauthorized: https://user:***@hub, header Bearer ***" in logs
        assert "header Bearer ***" in output
    else:
        assert "'WANDB_API_KEY': '***'" in logs
        assert "W&B: not logging there (" in output  # and the run is finished all the same
