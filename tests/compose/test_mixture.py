"""Several data sets in containers, which see data/ but not DATASETS' file."""

import json

from tests.e2e.project import small


def test_what_the_file_of_datasets_says_comes_into_the_containers(stack):
    for name in ("a", "b"):
        rows = [{"question": f"{name}: what is {i} + 1?", "answer": f"{i + 1}"} for i in range(40)]
        stack.write(f"data/{name}.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    stack.write(
        "mix.toml",
        '[[datasets]]\ndataset = "data/a.jsonl"\nshare = "2x"\n\n[[datasets]]\ndataset = "data/b.jsonl"\nshare = 0.5\n',
    )
    run, process = stack.start_training(**small(DATASET="", DATASETS="mix.toml", RUN_NAME="mixture", MAX_STEPS=1))
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    parts = json.loads(run.prepared.read_text())["parts"]
    assert [(part["name"], part["taken"], part["repeats"]) for part in parts] == [
        ("data/a.jsonl", 38, 2), ("data/b.jsonl", 19, 1),
    ]  # fmt: skip
