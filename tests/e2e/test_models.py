"""Model families, precisions and ZeRO stages, all through the same path: train, save, reload, answer."""

import copy
import json

import pytest
import torch
import transformers

from sft.run.directory import Run

from ..zoo import tiny
from .conftest import RANKS, STEPS
from .project import ROOT, metrics, small
from .test_same_result import plain_pytorch

PLAIN = ROOT / "sft" / "templates" / "plain.jinja"

SHAPES = {
    "llama": lambda size: transformers.LlamaConfig(
        vocab_size=size, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=True,
    ),
    "qwen2": lambda size: transformers.Qwen2Config(
        vocab_size=size, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=False, return_dict=False,
    ),
    "gpt2": lambda size: transformers.GPT2Config(vocab_size=size, n_embd=64, n_layer=2, n_head=4, n_positions=256),
}  # fmt: skip


@pytest.mark.parametrize(
    ("shape", "settings"),
    [
        ("llama", {"PRECISION": "bf16", "GRADIENT_CHECKPOINTING": 1}),
        ("qwen2", {"DS_CONFIG": "zero3_offload", "LR_SCHEDULER": "linear"}),
        ("gpt2", {"DS_CONFIG": "zero2", "LR_SCHEDULER": "constant", "GRADIENT_ACCUMULATION_STEPS": 2}),
    ],
)
def test_it_trains_saves_and_answers(project, tokenizer, tmp_path, shape, settings):
    model = transformers.AutoModelForCausalLM.from_config(SHAPES[shape](len(tokenizer)))
    model.save_pretrained(tmp_path)
    if shape == "gpt2":  # a base model without a chat template
        tokenizer = copy.deepcopy(tokenizer)
        tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path)
    limits = {"NODES": 1, "MAX_STEPS": 4, "EVALUATE": 1, "EVAL_LIMIT": 4, "MAX_NEW_TOKENS": 4, "WARMUP_RATIO": 0}
    run = project.train(f"shape-{shape}", MODEL_NAME=tmp_path, **limits, **settings)
    losses = [line.values["train/loss"] for line in run.read_metrics() if "train/loss" in line.values]
    assert len(losses) == 4 and losses[-1] < losses[0]
    evaluation = json.loads(run.evaluation.read_text())
    assert evaluation["after"]["loss"] < evaluation["before"]["loss"]
    asked = transformers.AutoTokenizer.from_pretrained(run.final).chat_template
    assert asked == (PLAIN.read_text() if shape == "gpt2" else tokenizer.chat_template)  # as rows were rendered
    tuned = transformers.AutoModelForCausalLM.from_pretrained(run.final)
    assert type(tuned) is type(model)
    changed = [not torch.equal(a, b) for a, b in zip(tuned.parameters(), model.parameters(), strict=True)]
    assert all(changed)
    if "PRECISION" not in settings:  # two tokens may be equally likely up to rounding
        answers = [json.loads(line) for line in run.answers.read_text().splitlines()]
        assert [line["answer"] for line in answers if line["moment"] == "after"] == greedy(run, tuned, answers[:4])
    said = run.log_files()[0].read_text()
    assert (
        "cannot pad prompts" not in said and "token by token" not in said
    )  # GPT-2 has dropout, which evaluation has not


def greedy(run, model, lines):
    """Answer the prompts of some lines of answers.jsonl with transformers alone."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(run.final)
    found = []
    for line in lines:
        messages = [{"role": "user", "content": line["prompt"]}]
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        asked = tokenizer(text, add_special_tokens=False, return_tensors="pt")
        ids = model.generate(**asked, max_new_tokens=4, do_sample=False)[0, asked.input_ids.shape[1] :]
        found.append(tokenizer.decode(ids, skip_special_tokens=True))
    return found


@pytest.mark.parametrize("ranks", [1, 2])
def test_layers_that_zero3_cannot_gather_whole_train_as_plain_pytorch_does(project, tokenizer, tmp_path, ranks):
    openai_gpt(tokenizer, tmp_path)
    run = project.train(f"openai-gpt-{ranks}", MODEL_NAME=tmp_path, **STEPS, **RANKS[ranks])
    assert "Block returns a list: ZeRO-3 gathers layers in parts" in run.log_files()[0].read_text()
    found = metrics(run, "step", "train/loss", "train/grad_norm")
    assert len(found) == 12
    for seen, wanted in zip(found, plain_pytorch(run, project), strict=True):
        assert seen == pytest.approx(wanted, rel=2e-5)


def test_weights_that_are_only_found_when_a_model_is_loaded_whole_are_trained_under_zero3(project, tokenizer, tmp_path):
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(tiny.config_of("deepseek_v4"))
    torch.nn.init.normal_(model.model.norm.weight)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    run = project.train("deepseek-v4", MODEL_NAME=tmp_path, **STEPS, **RANKS[2])
    for seen, wanted in zip(metrics(run, "step", "train/loss"), plain_pytorch(run, project), strict=True):
        assert seen == pytest.approx(wanted[:2], rel=2e-5)


def test_layers_that_a_model_leaves_out_at_random_are_trained_and_that_is_said(project, tokenizer, tmp_path):
    """Under ZeRO-3 each rank would wait for the weights of layers that others leave out."""
    runs = {}
    for share in (0.0, 0.5):
        torch.manual_seed(0)
        config = transformers.OPTConfig(
            vocab_size=len(tokenizer), hidden_size=64, word_embed_proj_dim=64, ffn_dim=128, num_hidden_layers=4,
            num_attention_heads=4, max_position_embeddings=256, dropout=0.0, layerdrop=share,
        )  # fmt: skip
        folder = tmp_path / f"{share}"
        transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        runs[share] = project.train(f"layerdrop-{share}", MODEL_NAME=folder, **STEPS, **RANKS[2])
    assert metrics(runs[0.5], "step", "train/loss") == metrics(runs[0.0], "step", "train/loss")
    assert "no layer is left out at random (layerdrop=0.5)" in runs[0.5].log_files()[0].read_text()


OWN_LOADING = """
from transformers import LlamaConfig, LlamaForCausalLM
class MineConfig(LlamaConfig):
    model_type = "mine"
class MineForCausalLM(LlamaForCausalLM):
    config_class = MineConfig
    @classmethod
    def from_pretrained(cls, *args, **kwargs):
        model = super().from_pretrained(*args, **kwargs)
        model.lm_head.weight.sum().item()
        return model
"""


def test_weights_that_only_the_ranks_can_look_for_are_missed_before_the_first_step(project, tokenizer, tmp_path):
    model = transformers.AutoModelForCausalLM.from_config(SHAPES["llama"](len(tokenizer)))
    weights = {name: weight for name, weight in model.state_dict().items() if name != "model.norm.weight"}
    model.save_pretrained(tmp_path, state_dict=weights)
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "mine.py").write_text(OWN_LOADING)
    config = json.loads((tmp_path / "config.json").read_text())
    own = {"AutoConfig": "mine.MineConfig", "AutoModelForCausalLM": "mine.MineForCausalLM"}
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": "mine", "auto_map": own}))
    done = project.inv("train", **small(RUN_NAME="lacks", MODEL_NAME=tmp_path, TRUST_REMOTE_CODE=1))
    assert done.returncode == 2, done.stdout
    assert "its files lack 1 weight (model.norm.weight) of MineForCausalLM, which" in done.stdout
    assert not metrics(Run(project.path / "runs" / "lacks"), "train/loss")


def openai_gpt(tokenizer, folder):
    """Write a small model of a family whose layers return lists."""
    torch.manual_seed(0)
    sizes = {"vocab_size": len(tokenizer), "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 256}
    config = transformers.OpenAIGPTConfig(**sizes, attn_pdrop=0, embd_pdrop=0, resid_pdrop=0)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def test_the_tasks_read_their_env_file(project):
    env = project.path / ".env"
    env.unlink(missing_ok=True)
    done = project.inv("train", DEVICE="cuda", CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 2
    assert env.read_text() == (project.path / ".env.example").read_text()
    assert env.stat().st_mode & 0o777 == 0o600
    env.write_text("MAX_STEPS=2\n")
    settings = small(RUN_NAME="from-file", NODES=1)
    del settings["MAX_STEPS"]
    assert project.inv("train", **settings).returncode == 0
    assert Run(project.path / "runs" / "from-file").state().total_steps == 2
    env.unlink()


def test_layers_that_cannot_be_compiled_here_are_trained_as_they_are(project, tmp_path):
    missing = {"CXX": "/nonexistent", "TORCHINDUCTOR_CACHE_DIR": tmp_path}
    compiled = project.train("no-compiler", NODES=1, MAX_STEPS=2, COMPILE=1, **missing)
    assert "LlamaForCausalLM is not compiled (" in compiled.log_files()[0].read_text()
    assert len(metrics(compiled, "train/loss")) == 2
