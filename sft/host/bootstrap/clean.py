"""`make clean`: remove what this folder can make again, here and from docker. Standard library only: `.venv` goes too.

It lists everything with its size and asks; YES=1 answers. Without a terminal and YES=1 nothing is removed. What docker
has is found by names and labels of this folder alone: nothing of another clone or project is touched.
"""

import os
import shutil
import subprocess
import sys
from typing import Iterator, List, NamedTuple, Optional

from sft.host.bootstrap import at_work, checkout, sound, switch
from sft.host.bootstrap.stop import run, stop

FOLDERS = (".venv", ".uv", ".pytest_cache", ".mypy_cache", ".ruff_cache", ".import_linter_cache", ".hypothesis")
KEPT = "runs/, data/, models/ and .env stay"
ANSWER_TIMEOUT_S = 20
PROJECT, PLACE = "com.docker.compose.project", "com.docker.compose.project.working_dir"


class Item(NamedTuple):
    """Something to remove: what it is, its size in words, and the command of docker; none for a path."""

    name: str
    size: str
    command: "List[str]"


def main() -> None:
    """List, ask, remove. Exits with 2 if nothing may be removed, and with 1 if something could not be."""
    in_use = at_work.in_use()
    if in_use:
        stop(f"{in_use}; `make stop` ends a run")
    found = list(folders())
    problem = docker_problem()
    if problem:
        print(f"docker: {problem}; what it has of this folder stays")
    elif problem is None:
        running = containers("--filter", "status=running")
        if running:
            stop(f"{len(running)} containers of this folder are running; `make stop` ends them")
        found += of_docker()
    if not found:
        print(f"nothing to remove; {KEPT}")
        return
    for item in found:
        print(f"  {item.size:>8}  {item.name}")
    if not agreed():
        return
    left = [item.name for item in found if not removed(item)]
    print(f"removed; {KEPT}")
    if left:
        sys.exit("not removed: " + ", ".join(left))


def agreed() -> bool:
    """Ask whether to remove it. Exits where nobody can answer."""
    if switch.is_on("YES", os.environ):
        return True
    if not sys.stdin.isatty():
        stop("nothing was removed, because there is no terminal to ask in; `make clean YES=1` removes all of it")
    try:
        return input("remove all of it? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:  # Ctrl-D
        print()
        return False


def folders() -> Iterator[Item]:
    """Yield the folders of the environment, of tools and of caches."""
    egg = [name for name in os.listdir(sound.ROOT) if name.endswith(".egg-info")]
    for name in [*FOLDERS, *egg]:
        path = os.path.join(sound.ROOT, name)
        if os.path.lexists(path):
            yield Item(name, words(size_of(path)), [])


def size_of(path: str) -> int:
    """Return the bytes that removing a path frees: a file with another link elsewhere frees none."""
    if os.path.islink(path):
        return 0
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            status = os.lstat(os.path.join(folder, name))
            total += status.st_blocks * 512 if status.st_nlink == 1 else 0
    return total


def words(size: float) -> str:
    """Return a number of bytes in words."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


# What docker has


def docker_problem() -> Optional[str]:
    """Return why docker cannot be asked, "" if it is not installed, None if it answers."""
    if not shutil.which("docker"):
        return ""
    done = docker("version", "--format", "{{.Server.Version}}")
    if done.returncode == 0:
        return None
    return "you may not use it" if "permission denied" in done.stderr else "the engine does not answer"


def of_docker() -> Iterator[Item]:
    """Yield the containers, networks, volumes and images of this folder, in an order in which they can be removed."""
    for container in containers():
        yield Item(f"container {container[1]}", container[2].split(" ")[0], ["container", "rm", container[0]])
    for kind in ("network", "volume"):
        for project in projects():
            for name in lines(kind, "ls", "--filter", f"label={PROJECT}={project}", "--format", "{{.Name}}"):
                yield Item(f"{kind} {name}", "", [kind, "rm", name])
    for image, name, size in images():
        what = "superseded image " + image if name.startswith("<none>") else f"image {name}"
        yield Item(what, size, ["image", "rm", image if name.startswith("<none>") else name])


def projects() -> "List[str]":
    """Return the compose projects of this folder: that of runs, and that of `make test-env`."""
    return [checkout.project(), checkout.project() + checkout.CHECKING]


def containers(*filters: str) -> "List[List[str]]":
    """Return id, name and size of the containers of this folder's projects that were started in this folder."""
    found, shown = [], ["--format", '{{.ID}}\t{{.Names}}\t{{.Size}}\t{{.Label "%s"}}' % PLACE]  # noqa: UP031
    for project in projects():
        started = lines("ps", "--all", "--size", "--filter", f"label={PROJECT}={project}", *filters, *shown)
        found += [line.split("\t") for line in started]
    return [one for one in found if os.path.realpath(one[3]) == os.path.realpath(sound.ROOT)]


def images() -> "List[List[str]]":
    """Return id, name and size of the images that this folder has built."""
    shown = ["--format", "{{.ID}}\t{{.Repository}}:{{.Tag}}\t{{.Size}}"]
    built = lines("images", "--filter", f"label=sft.checkout={checkout.own()}", *shown)
    by_hand = lines("images", "--filter", f"reference={checkout.own()}", *shown)
    return [line.split("\t") for line in dict.fromkeys([*built, *by_hand])]


def docker(*words: str) -> "subprocess.CompletedProcess[str]":
    """Run a command of docker; a timeout counts as failure."""
    command = ["docker", *words]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 1, "", "no answer")


def lines(*words: str) -> "List[str]":
    """Return the lines that a command of docker prints, none if it fails."""
    return docker(*words).stdout.splitlines()


def removed(item: Item) -> bool:
    """Remove one thing; tell whether it is gone."""
    if item.command:
        done = docker(*item.command)
        if done.returncode:
            sys.stderr.write(done.stderr)
        return done.returncode == 0
    path = os.path.join(sound.ROOT, item.name)
    if os.path.islink(path):
        os.unlink(path)
    else:
        shutil.rmtree(path, ignore_errors=True)
    return not os.path.lexists(path)


if __name__ == "__main__":
    run(main, after="`make clean` removes what is left")
