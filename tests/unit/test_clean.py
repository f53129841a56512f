"""Names of a checkout's containers and image, and what `make clean` removes, when and after which question."""

import io
import subprocess

import pytest

from sft.host.bootstrap import checkout, clean, sound
from sft.host.launch.compose import Stack
from sft.settings import variables
from sft.settings.load import load


@pytest.fixture
def project(tmp_path, monkeypatch):
    """An empty folder that is the project's, with `.env`."""
    for name in ("COMPOSE_PROJECT_NAME", "SFT_IMAGE", "YES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sound, "ROOT", str(tmp_path))
    monkeypatch.setattr(checkout, "ENV_FILE", str(tmp_path / ".env"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("SEED=1\n")
    return tmp_path


def test_each_folder_has_a_name_of_its_own_and_always_the_same(project, tmp_path, monkeypatch):
    mine = checkout.own()
    assert checkout.GENERATED.fullmatch(mine) and mine == checkout.own() == checkout.project() == checkout.image()
    (tmp_path / "second").mkdir()
    monkeypatch.setattr(sound, "ROOT", str(tmp_path / "second"))
    assert checkout.own() != mine
    (tmp_path / "link").symlink_to(project)
    monkeypatch.setattr(sound, "ROOT", str(tmp_path / "link"))
    assert checkout.own() == mine


@pytest.mark.parametrize(
    ("lines", "project_name", "image_name"),
    [
        ("COMPOSE_PROJECT_NAME=mine\n", "mine", "mine"),
        ("SFT_IMAGE='registry:5000/a/b:1'\n", None, "registry:5000/a/b:1"),
        ('COMPOSE_PROJECT_NAME=first\n  export COMPOSE_PROJECT_NAME = "last"\n', "last", "last"),
        ("# COMPOSE_PROJECT_NAME=other\n", None, None),
        ("COMPOSE_PROJECT_NAME=sft-00000000\nSFT_IMAGE=sft-00000000\n", None, None),  # copied with the folder
        ("COMPOSE_PROJECT_NAME=\n", None, None),
    ],
)
def test_a_name_that_the_user_has_chosen_counts_and_one_made_for_another_folder_does_not(
    project, lines, project_name, image_name
):
    (project / ".env").write_text(lines)
    assert checkout.project() == (project_name or checkout.own())
    assert checkout.image() == (image_name or checkout.own())


@pytest.mark.parametrize(
    ("lines", "path"),
    [
        ("RUNS_PATH='/large disk/runs'  # not here\n", "/large disk/runs"),
        ('export RUNS_PATH = "~/a#b"\n', "~/a#b"),
        ("RUNS_PATH=/large disk/a#b # not here\n", "/large disk/a#b"),
        ("RUNS_PATH=\nSEED=1\n", ""),
        ("RUNS_PATH= # runs\nSEED=1\n", ""),
    ],
)
def test_a_path_in_env_file_is_read_as_the_settings_read_it(project, monkeypatch, lines, path):
    monkeypatch.delenv("RUNS_PATH", raising=False)
    (project / ".env").write_text(lines)
    assert checkout.variable("RUNS_PATH") == path == variables.from_file(project / ".env").get("RUNS_PATH", "")


def test_env_file_gets_the_names_once_and_loses_those_of_the_folder_that_it_was_copied_from(project):
    stack = Stack(load(None, device="cpu"))
    names = [f"COMPOSE_PROJECT_NAME={checkout.own()}", f"SFT_IMAGE={checkout.own()}"]
    assert stack.complete_env_file()[:2] == names
    assert stack.complete_env_file() == []
    (project / ".env").write_text("SEED=1\nCOMPOSE_PROJECT_NAME=sft-00000000\nSFT_IMAGE=sft-00000000 # a\nNODES=2")
    assert stack.complete_env_file()[:2] == names
    assert "00000000" not in (project / ".env").read_text()
    found = variables.from_file(project / ".env")
    assert (found["SEED"], found["NODES"], found["SFT_IMAGE"]) == ("1", "2", checkout.own())
    (project / ".env").write_text("COMPOSE_PROJECT_NAME=mine\n")
    assert stack.complete_env_file()[0] == "SFT_IMAGE=mine"
    (project / ".env").unlink()
    assert stack.complete_env_file() == []


class Docker:
    """What an engine has: this folder's things, those of another folder, and another project's."""

    def __init__(self, place):
        mine, check, other = checkout.own(), checkout.own() + "-check", "sft-00000000"
        self.containers = {
            mine: [f"c1\t{mine}-llm-master-1\t1.2MB (virtual 2GB)\t{place}", "c2\tx\t0B\t/another/folder"],
            check: [], other: [f"c9\t{other}-llm-master-1\t0B\t/another/folder"],
        }  # fmt: skip
        self.named = {("network", mine): [f"{mine}_nodes"], ("volume", mine): [], ("network", other): ["theirs"]}
        self.images = {f"label=sft.checkout={mine}": [f"i1\t{mine}:latest\t2GB", "i2\t<none>:<none>\t1.9GB"],
                       f"reference={mine}": [f"i1\t{mine}:latest\t2GB"],
                       f"label=sft.checkout={other}": [f"i9\t{other}:latest\t2GB"]}  # fmt: skip
        self.running, self.problem, self.removed = [], "", []

    def __call__(self, *words):
        filters = [words[index + 1] for index, word in enumerate(words) if word == "--filter"]
        label = filters[0].rpartition("=")[2] if filters else ""
        said = []
        if words[0] == "version":
            return subprocess.CompletedProcess(words, bool(self.problem), "20.10", self.problem)
        if words[0] == "ps":
            said = self.running if "status=running" in filters else self.containers.get(label, [])
        elif words[:2] in (("network", "ls"), ("volume", "ls")):
            said = self.named.get((words[0], label), [])
        elif words[0] == "images":
            said = self.images.get(filters[0], [])
        else:
            self.removed.append(words)
        return subprocess.CompletedProcess(words, 0, "\n".join(said), "")


@pytest.fixture
def engine(project, monkeypatch):
    engine = Docker(project)
    monkeypatch.setattr(clean, "docker", engine)
    monkeypatch.setattr(clean.shutil, "which", lambda name: f"/usr/bin/{name}")
    (project / ".venv" / "bin").mkdir(parents=True)
    (project / ".venv" / "bin" / "python").write_bytes(b"x" * 5000)
    (project / "runs").mkdir()
    return engine


def ours():
    name = checkout.own()
    return [
        ("container", "rm", "c1"), ("network", "rm", f"{name}_nodes"), ("image", "rm", f"{name}:latest"),
        ("image", "rm", "i2"),
    ]  # fmt: skip


def test_with_yes_everything_of_this_folder_goes_and_nothing_else(project, engine, monkeypatch, capsys):
    monkeypatch.setenv("YES", "1")
    clean.main()
    assert engine.removed == ours()
    assert sorted(path.name for path in project.iterdir()) == [".env", "runs"]
    said = capsys.readouterr().out
    assert "8 kB  .venv" in said and "1.2MB  container" in said and "2GB  image" in said and "superseded" in said


@pytest.mark.parametrize(("answer", "goes"), [("y\n", True), ("yes\n", True), ("\n", False), ("n\n", False)])
def test_in_a_terminal_it_asks(project, engine, monkeypatch, answer, goes):
    monkeypatch.setattr("sys.stdin", io.StringIO(answer))
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    clean.main()
    assert bool(engine.removed) == goes and (project / ".venv").exists() != goes


def test_a_word_that_is_neither_yes_nor_no_removes_nothing(project, engine, monkeypatch, capsys):
    monkeypatch.setenv("YES", "maybe")
    with pytest.raises(SystemExit) as ended:
        clean.main()
    assert ended.value.code == 2 and capsys.readouterr().err == "YES=maybe: is not 1 or 0; use 1 or 0\n"
    assert engine.removed == [] and (project / ".venv").exists()


@pytest.mark.parametrize("value", ["", "0", "no", "False"])
def test_without_a_terminal_nothing_is_removed_unless_it_is_said(project, engine, monkeypatch, capsys, value):
    monkeypatch.setenv("YES", value)
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    with pytest.raises(SystemExit) as ended:
        clean.main()
    assert ended.value.code == 2 and "make clean YES=1" in capsys.readouterr().err
    assert engine.removed == [] and (project / ".venv").exists()


def test_while_containers_run_nothing_is_removed(project, engine, monkeypatch, capsys):
    monkeypatch.setenv("YES", "1")
    engine.running = [f"c1\tname\t0B\t{project}"]
    with pytest.raises(SystemExit) as ended:
        clean.main()
    assert ended.value.code == 2 and "`make stop` ends them" in capsys.readouterr().err
    assert engine.removed == [] and (project / ".venv").exists()


@pytest.mark.parametrize(
    ("problem", "said"),
    [("Got permission denied while", "you may not use it"), ("Cannot connect", "the engine does not answer")],
)
def test_without_docker_the_folders_go_and_the_rest_is_named(project, engine, monkeypatch, capsys, problem, said):
    monkeypatch.setenv("YES", "1")
    engine.problem = problem
    clean.main()
    assert not (project / ".venv").exists() and engine.removed == []
    assert f"docker: {said}; what it has of this folder stays" in capsys.readouterr().out
