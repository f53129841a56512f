"""What is wrong with model and data is said before a run directory is made, with what was probably meant."""

import io
import json
import os
import re
import shutil
from pathlib import Path

import numpy
import pyarrow
import pyarrow.parquet
import pytest
import safetensors.numpy
from rich.console import Console

from sft.errors import UserError
from sft.host.commands import train
from sft.host.launch import inputs
from sft.host.plan import lookup
from sft.rows import bad_rows, look
from sft.run import find, lifecycle
from sft.settings.load import load
from tests.settings import decided

GOOD = {"question": "1 + 1?", "answer": "2"}
BASE = {"model_name": "tiny", "dataset": "demo", "device": "cpu", "launcher": "local", "nodes": 1, "gpus_per_node": 1}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    return tmp_path


@pytest.fixture
def whole_model(tmp_path_factory):
    """A folder with every file that a model needs."""
    folder = tmp_path_factory.mktemp("whole")
    config = lookup.BUILT_IN["tiny"] | {"max_position_embeddings": 4096}
    for name, content in (("config", config), ("tokenizer", {}), ("tokenizer_config", {})):
        (folder / f"{name}.json").write_text(json.dumps(content))
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    safetensors.numpy.save_file({"lm_head.weight": numpy.zeros((8, 4))}, folder / "model.safetensors")
    return folder


def written():
    """Return every path; a lock file is no news of a run."""
    return sorted(path for path in Path().rglob("*") if path.name != ".claim")


def refused(**settings):
    """Return the lines with which `make train` refuses to start; nothing may be written."""
    before = written()
    with pytest.raises(UserError) as caught:
        train.train(load(None, **BASE | settings), Console(file=io.StringIO()))
    assert written() == before
    return str(caught.value).splitlines()


def write(path, *content):
    path.write_text("".join(json.dumps(row) + "\n" for row in content))
    return str(path)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        (
            "dataset",
            "data/nosuch.jsonl",
            "no such file or folder; check the path, or give a hub name such as openai",
        ),
        ("dataset", "data/nosuch", "no such file or folder; check the path"),
        ("dataset", "elsewhere/rows.csv", "no such file or folder; check the path"),
        ("dataset", "rows.PARQUET", "no such file or folder; check the path"),
        (
            "model_name",
            "data/model",
            "no such file or folder; check the path, or give a hub name such as Qwen",
        ),
        ("model_name", "model.safetensors", "no such file or folder; check the path"),
        ("model_name", "tinny", "no such file or folder; did you mean tiny? (a hub name has an owner, as in Qwen/"),
        ("model_name", "Tiny", "no such file or folder; did you mean tiny?"),
        ("dataset", "demoo", "no such file or folder; did you mean demo?"),
        ("model_name", "org/name/", "no such file or folder, and not a hub name; did you mean org/name?"),
        ("model_name", " org/name ", "no such file or folder, and not a hub name; did you mean org/name?"),
        ("model_name", "'org/name'", "no such file or folder, and not a hub name; did you mean org/name?"),
        (
            "model_name",
            "https://huggingface.co/org/name/tree/main",
            "no such file or folder, and not a hub name; did you",
        ),
        ("model_name", "hf://org/name", "no such file or folder, and not a hub name; did you mean org/name?"),
        ("dataset", "https://huggingface.co/datasets/org/name", "no such file or folder, and not a hub name; did you"),
        ("model_name", "./nowhere/", "no such file or folder; check the path"),
    ],
)
def test_a_path_is_never_taken_for_a_name_on_the_hub(name, value, said):
    (line,) = refused(**{name: value})
    assert line.startswith(f"{name.upper()}={value}: {said}")


@pytest.mark.parametrize("name", ["openai/gsm8k", "squad", "gpt2", "org/data.v1", "Qwen/Qwen2.5-0.5B"])
def test_a_name_that_the_hub_may_have_is_left_to_it(name):
    load(None, dataset=name, model_name=name)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("mine.jinja", None, "no such file, and not one of chatml, plain; check the path"),
        ("chatlm", None, "no such file, and not one of chatml, plain; check the path"),
        ("mine.jinja", b" \n", "is empty; write a chat template into it"),
        ("mine.jinja", b"\xe9", "cannot be read (it is not UTF-8 text); check the file"),
        (
            "tokenizer_config.json",
            b'{"chat_template": "{{ messages }}"}',
            "is JSON, such as tokenizer_config.json, and",
        ),
        ("data", None, "cannot be read (Is a directory); check the file"),
    ],
)
def test_a_chat_template_that_is_none_is_refused(name, content, said):
    if content is not None:
        Path(name).write_bytes(content)
    (line,) = refused(chat_template=name)
    assert line.startswith(f"CHAT_TEMPLATE={name}: {said}")


def test_a_chat_template_has_to_be_one_of_a_local_models(whole_model):
    config = {"chat_template": [{"name": "rag", "template": "{{ messages }}"}]}
    (whole_model / "tokenizer_config.json").write_text(json.dumps(config))
    (whole_model / "additional_chat_templates").mkdir()
    (whole_model / "additional_chat_templates" / "tool_use.jinja").write_text("{{ messages }}")
    model = str(whole_model)
    for name in ("default", "rag", "tool_use", "plain"):
        inputs.check(load(None, **BASE | {"model_name": model, "chat_template": name}))
    (line,) = refused(model_name=model, chat_template="tool-use")
    assert "no such file, and not one of default, rag, tool_use, chatml, plain;" in line
    inputs.check(
        load(None, **BASE | {"model_name": "org/model", "chat_template": "rag"})
    )  # on the hub there may be one


def test_a_name_in_a_container_says_what_containers_see(monkeypatch):
    monkeypatch.setenv("SFT_CONTAINER", "1")
    where = "in this container, which sees data/, models/ and runs/ alone; "
    (line,) = refused(dataset="data/x.jsonl")
    assert line.startswith(f"DATASET=data/x.jsonl: no such file or folder {where}")
    (line,) = refused(ds_config="mine.json")
    assert line.startswith(f"DS_CONFIG=mine.json: no such file {where}")
    (line,) = refused(chat_template="mine.jinja")
    assert line.startswith(
        "CHAT_TEMPLATE=mine.jinja: no such file in this container, which sees data/, models/ and runs/"
    )


def test_columns_that_no_row_has_are_a_wrong_setting():
    path = write(Path("data/x.jsonl"), *[GOOD] * 30)
    what = f"no row of {path} has that column but question, answer"
    assert refused(dataset=path, prompt_column="questoin", response_column="reply") == [
        f"PROMPT_COLUMN=questoin: {what}; did you mean PROMPT_COLUMN=question?",
        f"RESPONSE_COLUMN=reply: {what}; set RESPONSE_COLUMN to one of them",
    ]


def test_all_rows_that_cannot_be_used_are_said_at_once():
    bad = [{"question": "a"}, GOOD | {"answer": ""}, {"messages": []}, [1]]
    path = write(Path("data/x.jsonl"), GOOD, *bad)
    with open(path, "a") as file:
        file.write("{not json\n")
    assert [line.split(": ")[0] for line in refused(dataset=path)] == [f"{path}:{i}" for i in range(2, 7)]
    path = write(Path("data/y.jsonl"), GOOD, *bad * 5)
    *named, more = refused(dataset=path)
    assert len(named) == bad_rows.LISTED and more == "and 10 more rows that cannot be used"


def test_every_file_of_a_folder_is_looked_at():
    write(Path("data/train-a.jsonl"), GOOD)
    Path("data/train-b.csv").write_text("question,answer\nx,y\nz\n")
    table = pyarrow.Table.from_pylist([GOOD, GOOD | {"answer": None}])
    pyarrow.parquet.write_table(table, "data/validation.parquet")
    assert refused(dataset="data") == [
        "data/train-b.csv:3: does not have the header's number of fields; fix the line",
        "data/validation.parquet:row 2: column 'answer' is null, so no target token; fill it or remove the row",
    ]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("x.jsonl", "\n\n", "DATASET=data/x.jsonl: has no training rows; add some"),
        ("x.csv", "question,answer\n", "DATASET=data/x.csv: has no training rows; add some"),
        ("x.json", "[]", "DATASET=data/x.json: has no training rows; add some"),
        ("x.txt", "text", "DATASET=data/x.txt: has an unknown file type; use .jsonl, .ndjson, .json, .csv, .tsv (also"),
        ("x.json", "[{}", "data/x.json:1: is not valid JSON (Expecting ',' delimiter at column 4); fix the line"),
        ("x.parquet", "text", "data/x.parquet: is not a readable Parquet file ("),
    ],
)
def test_a_file_without_rows_is_refused(name, content, said):
    Path("data", name).write_text(content)
    (line,) = refused(dataset=f"data/{name}")
    assert line.startswith(said)


def test_a_link_to_nothing_among_the_data_is_refused():
    Path("data/train.jsonl").symlink_to("removed.jsonl")
    (line,) = refused(dataset="data")
    what = "train.jsonl in it is a link to a file that does not exist"
    assert line == f"DATASET=data: {what}; put the file there, or remove the link"


def test_a_folder_without_data_is_refused():
    Path("data/train.jsonl").mkdir()  # a folder of such a name is not a file
    (line,) = refused(dataset="data")
    kinds = ".jsonl, .ndjson, .json, .csv, .tsv (also .gz and .zst), .parquet, .arrow"
    what = f"holds no training file ({kinds})"
    assert line == f"DATASET=data: {what}; add train.jsonl, or give the file to train on"


def test_a_pipe_is_left_to_the_run_which_alone_can_read_it(folder):
    os.mkfifo(folder / "train.jsonl")
    look.check_first_rows(folder, load(None, **BASE))


def test_large_data_is_looked_at_in_part(monkeypatch):
    """The run looks at every row: what lies behind the first ones costs the start nothing."""
    monkeypatch.setattr(look, "LOOK_ROWS", 5)
    path = write(Path("data/x.jsonl"), *[GOOD] * 5, {"question": "a"})
    inputs.check(load(None, dataset=path))
    path = write(Path("data/x.jsonl"), *[GOOD] * 4, {"question": "a"})
    assert len(refused(dataset=path)) == 1


def test_what_is_wrong_with_model_and_data_is_said_together(whole_model, folder):
    shutil.copytree(whole_model, folder / "model")
    for path in (folder / "model").glob("tokenizer*"):
        path.unlink()
    (folder / "model" / "chat_template.jinja").unlink(missing_ok=True)
    path = write(Path("data/x.jsonl"), GOOD | {"answer": 1})
    assert refused(model_name="model", dataset=path) == [
        "MODEL_NAME=model: holds no tokenizer; copy its tokenizer's files into the folder (tokenizer.json and "
        "tokenizer_config.json)",
        "data/x.jsonl:1: column 'answer' is not text but int; write a string",
    ]


def test_max_length_is_held_against_the_model(whole_model, folder):
    shutil.copytree(whole_model, folder / "model")
    config = json.loads((folder / "model" / "config.json").read_text())
    (folder / "model" / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 512}))
    assert refused(model_name="model") == ["MAX_LENGTH=1024: model reads 512 tokens at most; use 512 or less"]
    yarn = config | {
        "max_position_embeddings": 512,
        "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512},
    }
    (folder / "model" / "config.json").write_text(json.dumps(yarn))
    inputs.check(load(None, **BASE | {"model_name": "model", "max_length": 2048}))
    assert refused(max_length=5000) == ["MAX_LENGTH=5000: tiny reads 4096 tokens at most; use 4096 or less"]
    cached = folder / "models" / "models--org--small" / "snapshots" / "abc" / "config.json"
    cached.parent.mkdir(parents=True)
    cached.write_text(json.dumps({"n_positions": 256}))
    assert refused(model_name="org/small", model_revision="abc", device="cpu") == [
        "MAX_LENGTH=1024: org/small reads 256 tokens at most; use 256 or less"
    ]


def test_a_part_of_a_run_leads_to_its_model(whole_model, folder):
    run = lifecycle.create(decided(**BASE, run_name="a"), "")
    what = "holds no config.json; it belongs to a run"
    for name in ("runs/a", "runs/latest", "runs/a/checkpoints"):
        (line,) = refused(model_name=name)
        named = name.replace("latest", "a")
        assert line == f"MODEL_NAME={named}: {what} without a final model; finish that run first"
    shutil.copytree(whole_model, run.final)
    run.adapter.mkdir()
    for name in ("runs/a", "runs/a/adapter"):
        (line,) = refused(model_name=name)
        assert line == f"MODEL_NAME={name}: {what}; use its model: MODEL_NAME=runs/a/final"
    inputs.check(load(None, **BASE | {"model_name": "runs/a/final"}))


def test_a_model_of_the_latest_run_stays_that_of_this_run_when_the_next_one_opens(whole_model, folder):
    run = lifecycle.create(decided(**BASE, run_name="a"), "")
    shutil.copytree(whole_model, run.final)
    template = run.final / "chat_template.jinja"
    template.write_text("{{ messages }}")
    names = {"model_name": "runs/latest/final", "chat_template": f"./runs/latest/final/{template.name}"}
    settings = load(None, **BASE | names | {"run_name": "b"})
    lifecycle.create(decided(**settings.model_dump()), "")
    assert (settings.model_name, settings.chat_template) == ("runs/a/final", f"./runs/a/final/{template.name}")
    inputs.check(settings)


def cut_short(path):
    path.write_bytes(path.read_bytes()[:-1])


def not_fetched(path):
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")


def of_noise(path):
    path.write_bytes(b"\x10" + b"\0" * 7 + b"no header at all" + b"x" * 100)


def listed_and_missing(path):
    index = {"metadata": {}, "weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    path.with_name("model.safetensors.index.json").write_text(json.dumps(index))
    path.rename(path.with_name("model-1.safetensors"))


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (cut_short, "model.safetensors has "),
        (not_fetched, "model.safetensors is a git-lfs pointer and not the file (`git lfs pull`)"),
        (of_noise, "model.safetensors is not a complete safetensors file"),
        (listed_and_missing, "model-2.safetensors is missing, which model.safetensors.index.json names"),
    ],
)
def test_weights_that_are_not_whole_are_refused(whole_model, folder, harm, said):
    shutil.copytree(whole_model, folder / "model")
    inputs.check(load(None, model_name="model", dataset="demo"))
    (folder / "model" / "model.safetensors.index.json").write_text('{"weight_map": {"a": "of another time"}}')
    inputs.check(load(None, model_name="model", dataset="demo"))  # one file of that name is enough
    harm(folder / "model" / "model.safetensors")
    (line,) = refused(model_name="model")
    assert line.startswith(f"MODEL_NAME=model: {said}") and line.endswith("; fetch the model again")


@pytest.mark.parametrize("name", ["tokenizer.json", "config.json", "chat_template.jinja"])
def test_a_small_file_that_git_lfs_has_not_fetched_is_named(whole_model, folder, name):
    shutil.copytree(whole_model, folder / "model")
    not_fetched(folder / "model" / name)
    (line,) = refused(model_name="model")
    assert line.startswith(f"MODEL_NAME=model: {name} is a git-lfs pointer and not the file (`git lfs pull`); fetch")


def renamed(path):
    path.rename(path.with_name("weights.safetensors"))


def half_fetched(path):
    path.rename(path.with_name("model.safetensors.incomplete"))


def for_llama_cpp(path):
    path.rename(path.with_name("model-Q4_K_M.gguf"))


def linked_to_nothing(path):
    path.unlink()
    path.symlink_to("../blobs/abc")


def with_a_broken_index(path):
    path.rename(path.with_name("model-1.safetensors"))
    path.with_name("model.safetensors.index.json").write_text("{")


def an_adapter_alone(path):
    path.rename(path.with_name("adapter_model.safetensors"))
    path.with_name("adapter_config.json").write_text("{}")


def an_adapter_beside(path):
    path.with_name("adapter_config.json").write_text("{}")


def half_fetched_in_its_size(path):
    path.with_name("model.safetensors.aria2").touch()


def of_distributed_checkpoint(path):
    path.rename(path.with_name("__0_0.distcp"))


def of_deepspeed(path):
    path.with_name("zero_to_fp32.py").touch()
    path.unlink()


def in_two_files(path):
    names = [f"model-{number}.safetensors" for number in (1, 2)]
    for name in names:
        shutil.copy(path, path.with_name(name))
    index = {"metadata": {}, "weight_map": {"a": names[0], "b": names[1]}}
    path.with_name("model.safetensors.index.json").write_text(json.dumps(index))
    path.unlink()


def stored_as(dtype):
    def store(path):
        length = int.from_bytes(path.read_bytes()[:8], "little")
        head = json.loads(path.read_bytes()[8 : 8 + length])
        for tensor in head.values():
            tensor["dtype"] = dtype
        content = json.dumps(head).encode()
        path.write_bytes(len(content).to_bytes(8, "little") + content + path.read_bytes()[8 + length :])

    return store


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (renamed, "has no weights under the names that are loaded: .* .it has weights.safetensors.; fetch"),
        (half_fetched, "its download has not ended .model.safetensors.incomplete.; fetch"),
        (for_llama_cpp, "has its weights in llama.cpp's format alone .model-Q4_K_M.gguf.; use"),
        (linked_to_nothing, "model.safetensors is a link to a file that is not there; fetch"),
        (with_a_broken_index, "model.safetensors.index.json is not an index of weights .*; fetch"),
        (an_adapter_alone, "is an adapter without its base model; merge"),
        (an_adapter_beside, "holds an adapter beside a whole model .adapter_config.json., and .*; give"),
        (half_fetched_in_its_size, "the download of model.safetensors has not ended .model.safetensors.aria2.; fetch"),
        (of_deepspeed, "has its weights in DeepSpeed's shards alone .zero_to_fp32.py.; `python"),
        (
            of_distributed_checkpoint,
            "has its weights in shards of torch.distributed.checkpoint alone .__0_0.distcp.; have",
        ),
        (in_two_files, "[a-z0-9_.]+ is in model-1.safetensors and in model-2.safetensors; fetch"),
        (stored_as("F8_E4M3"), "its weights are quantised already .F8_E4M3.; use"),
        (stored_as("I32"), "its weights are quantised already .I32.; use"),
    ],
)
def test_weights_that_would_not_be_loaded_are_refused(whole_model, folder, harm, said):
    shutil.copytree(whole_model, folder / "model")
    harm(folder / "model" / "model.safetensors")
    (line,) = refused(model_name="model")
    assert re.match(f"MODEL_NAME=model: {said} ", line), line


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ((), "is an empty folder; fetch"),
        (("model.gguf",), "holds a model for llama.cpp .model.gguf. and no config.json; give"),
        (("params.json",), "holds a model in its maker's own format .params.json. and no config.json; give"),
        (("model_index.json",), "holds a pipeline of diffusers .model_index.json. and no config.json; give"),
        (("small/config.json",), "holds no config.json, but small does; use MODEL_NAME=model/small"),
        (("snapshots/a/config.json", "refs/main"), "holds no config.json, but snapshots/a does; use"),
        (("small/config.json", "large/config.json"), "holds no config.json; give"),
        (("blobs/x.incomplete",), "its download has not ended .x.incomplete.; fetch"),
    ],
)
def test_folders_of_other_things_are_named(folder, files, said):
    (folder / "model").mkdir()
    for name in files:
        (folder / "model" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "model" / name).touch()
    (line,) = refused(model_name="model")
    assert re.match(f"MODEL_NAME=model: {said}", line), line


def test_a_run_that_came_to_nothing_is_taken_back(folder):
    first = lifecycle.create(decided(**BASE, run_name="first"), "")
    second = lifecycle.create(decided(**BASE, run_name="second"), "")
    lifecycle.discard(second, first)
    assert find.latest(first.path.parent) == first and not second.path.exists()
    lifecycle.discard(first, None)
    assert find.latest(first.path.parent) is None and not any(first.path.parent.iterdir())


KINDS = {
    "t5": (
        {"architectures": ["T5ForConditionalGeneration"], "is_encoder_decoder": True},
        "is an encoder with a decoder",
    ),
    "bert": (
        {"architectures": ["BertForMaskedLM"], "model_type": "bert"},
        r"was not made to write text \(BertForMaskedLM\)",
    ),
    "roberta": (
        {"architectures": ["RobertaForCausalLM"], "model_type": "roberta", "is_decoder": False},
        "is an encoder .* sees the tokens",
    ),
    "nf4": (
        {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}},
        r"its weights are quantised already \(bitsandbytes, 4 bits\)",
    ),
    "mlx": ({"quantization": {"group_size": 64, "bits": 4}}, r"quantised already \(mlx\)"),
    "mxfp4": ({"quantization_config": {"quant_method": "mxfp4"}}, r"quantised already \(mxfp4\)"),
    "short": ({"max_seq_len": 64}, "reads 64 tokens at most"),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_that_cannot_be_trained_is_known_from_its_configuration(whole_model, folder, kind):
    config, said = KINDS[kind]
    shutil.copytree(whole_model, folder / "model")
    (folder / "model" / "config.json").write_text(json.dumps({"model_type": "x", "vocab_size": 8} | config))
    with pytest.raises(UserError, match=said):
        inputs.check(load(None, model_name="./model", dataset="demo"))


def test_a_file_of_a_model_in_another_format_is_named(folder):
    (folder / "model.gguf").touch()
    assert refused(model_name="model.gguf")[0].startswith("MODEL_NAME=model.gguf: is a model for llama.cpp; give a fo")
