"""What one family's tiny model does in a real run of this project, against a plain loop that takes one row at a time.

In one process and on one device: rows are prepared, the model is evaluated, trained, stopped, resumed, exported and
evaluated again by the code that a rank runs. What is compared: the first step's loss and gradient norm, packed and
padded; the loss after a resume; the answers of the evaluation; the exported weights; and the same with an adapter.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import math
import random
import time
import traceback
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
import transformers

from sft import hostfile
from sft.errors import SftError
from sft.host.launch import inputs
from sft.host.plan import shapes
from sft.run import answers, budget, lifecycle, typed_json
from sft.run.directory import Run
from sft.run.records import AnswerLine, Prepared
from sft.settings.load import load
from sft.settings.stages import Decided, resolve, without_plan
from sft.steps import Steps
from sft.trainer import batching, loop, main, prepare
from sft.trainer.data import demo
from sft.trainer.data.rows import Rows
from sft.trainer.distributed import World
from sft.trainer.model import adapter, published, towers
from sft.trainer.model import tiny as maker
from sft.trainer.trial import cache, copies

ROWS, ASKED, NEW_TOKENS, STEPS, STOP_AFTER = 64, 6, 8, 3, 2
# Loss and norm of the first step may differ by these shares of them.
LOSS = {"fp32": 1e-5, "bf16": 1e-3}
NORM = {"fp32": 1e-4, "bf16": 1e-2}
LENGTH = 9  # tokens of a row that only shows whether a model runs
LATER = 20  # times as much in later steps: Adam makes rounding of small gradients larger
TIE = 1e-5  # share of the spread of logits by which rounding decides which of two is the larger one


@dataclass
class Found:
    """What became of one way to train a family."""

    verdict: str = ""  # right, refused, late (refused only in a rank), wrong, traceback
    reason: str = ""
    packed: bool = False
    said: list[str] = field(default_factory=list)  # by the trainer: what was left out
    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    seconds: float = 0.0


@dataclass
class Result:
    """One family's line of the table."""

    family: str
    model: str = ""  # its class
    plan: str = ""  # what the plan's weights are of the model's, or what it says
    ways: dict[str, Found] = field(default_factory=dict)

    def line(self) -> str:
        """Return it as a line of JSON."""
        return json.dumps(asdict(self))


class Plain(NamedTuple):
    """What plain PyTorch makes of some steps."""

    losses: list[float]  # of each step
    gradients: list[torch.Tensor]  # of the first step, in fp32 on the CPU
    norm: float  # of these
    model: transformers.PreTrainedModel


class Wrong(Exception):
    """The trainer's numbers are not those of the plain loop."""


def folder_of(config: transformers.PreTrainedConfig, folder: Path) -> Path:
    """Write a model of this configuration, with random weights, and the tiny model's tokenizer to a folder."""
    torch.manual_seed(0)
    model = published.from_config(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1 and "embed" in name:  # larger, so that what a token sees matters
                parameter.mul_(5)
            copies.make_uneven(parameter)
    model.to(torch.bfloat16).save_pretrained(folder)  # weights that every precision holds
    return folder


def unbuilt(
    error: Exception,
    config: transformers.PreTrainedConfig | None,
    folder: Path,
    scratch: Path,
    device: str,
    precision: str,
) -> Found:
    """Return what a user is told of a model that cannot be made of its configuration."""
    reason = f"{type(error).__name__}: {error}"[:300]
    if config is None:
        return Found("not built", reason)
    model = folder / "model"
    config.save_pretrained(model)
    try:
        cache.tried(settings_of(folder, model, scratch / "rows", "packed", device, precision), model)
    except SftError as refusal:
        return Found("refused", str(refusal))
    return Found("not built", reason)


def tokenizer_of(folder: Path, texts: list[str]) -> None:
    """Write the tiny model's tokenizer, learnt from `texts`, to a folder, with no more tokens than the tiny sizes."""
    maker.VOCABULARY = 480
    maker.make(folder, texts, seed=0)
    for path in folder.iterdir():
        if "token" not in path.name and "template" not in path.name:
            path.unlink()


def data_of(folder: Path) -> Path:
    """Write rows in GSM8K's form to a folder."""
    folder.mkdir(parents=True)
    rng = random.Random(0)
    for name, number in (("train", ROWS), ("test", ASKED)):
        rows = [demo.problem(rng) for _ in range(number)]
        for row in rows[::3]:  # rows of different lengths
            more = demo.problem(rng)
            row["question"], row["answer"] = (
                f"{more['question']} {row['question']}",
                f"{more['answer']}, {row['answer']}",
            )
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def settings_of(folder: Path, model: Path, data: Path, way: str, device: str, precision: str) -> Decided:
    """Return the settings of one way to train."""
    given: dict[str, Any] = {"packing": way != "padded"}
    if way == "lora":
        given |= {"lora_rank": 4, "ds_config": "zero2", "learning_rate": 1e-3}
    written = load(
        None, model_name=str(model), dataset=str(data), prompt_column="question", response_column="answer",
        nodes=1, gpus_per_node=1, precision=precision, run_name=way,
        batch_size=8, max_steps=STEPS, max_length=256, warmup_ratio=0.0,
        **{"learning_rate": 1e-4, "ds_config": "zero3", **given}, gradient_checkpointing=way == "padded",
        max_tokens_per_micro_step=1024, logging_steps=1, save_steps=0, eval_limit=ASKED, max_new_tokens=NEW_TOKENS,
        runs_path=folder / "runs", data_path=folder / "data", model_path=folder / "models", wandb_mode="disabled",
    )  # fmt: skip
    return without_plan(resolve(written, "cuda" if device == "cuda" else "cpu", "local"))


def trial(folder: Path, model: Path, data: Path, way: str, precision: str, world: World) -> Found:
    """Train one way and compare. Whatever goes wrong is in what is returned."""
    found, started, said = Found(), time.monotonic(), io.StringIO()
    settings = settings_of(folder, model, data, way, world.device.type, precision)
    try:
        with contextlib.redirect_stdout(said):
            found.verdict = "refused"  # by what is found out before anything is prepared
            inputs.check(settings)
            run = lifecycle.create(settings, hostfile.hostfile(1, 1))
            prepared = prepare.prepare(settings, run)
            typed_json.write(run.prepared, prepared)
            found.verdict = "late"
            status = stopped_and_resumed(run, way, world)
        found.losses, found.norms = logged(run)
        assert status == "finished", status
        found.packed = "padded ones" not in said.getvalue() and way != "padded"
        compare(run, settings, way, world)
        found.verdict = "right"
    except SftError as error:
        found.reason = str(error)
    except Wrong as error:
        found.verdict, found.reason = "wrong", str(error)
    except Exception as error:
        found.verdict = "traceback"
        where = traceback.extract_tb(error.__traceback__)[-1]
        found.reason = f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"[:400]
    found.said = [line for line in said.getvalue().splitlines() if line and not line.startswith(("{", "step", "eval"))]
    found.seconds = round(time.monotonic() - started, 1)
    return found


def stopped_and_resumed(run: Run, way: str, world: World) -> str:
    """Evaluate and train a run in this process; the packed one is stopped after a step and resumed."""
    settings = budget.effective(run, run.settings())
    if way == "packed":
        asked = itertools.count(1)
        with mock.patch.object(loop, "stop_is_requested", lambda *_: next(asked) >= STOP_AFTER):
            status = main.evaluate_and_train(run, settings, world)
        assert status == "stopped", status
    return main.evaluate_and_train(run, settings, world)


def logged(run: Run) -> tuple[list[float], list[float]]:
    """Return the losses and gradient norms of a run's steps."""
    steps: dict[int, dict[str, float]] = {}
    for line in run.metrics.read_text().splitlines():
        values = json.loads(line)
        if "train/loss" in values:
            steps[values["step"]] = values
    return [v["train/loss"] for v in steps.values()], [v["train/grad_norm"] for v in steps.values()]


def compare(run: Run, settings: Decided, way: str, world: World) -> None:
    """Raise Wrong if a run that has finished is not what the plain loop and plain generation say."""
    prepared = typed_json.read(run.prepared, Prepared)
    rows = Rows(Path(prepared.data) / "train")
    losses, norms = logged(run)
    if len(losses) != STEPS:
        raise Wrong(f"{len(losses)} steps of {STEPS}")
    plain = plain_steps(settings, Path(prepared.model), rows, way, world, STEPS)
    loss_share, norm_share = LOSS[settings.precision], NORM[settings.precision]
    if settings.precision == "bf16":  # some families round more than others: as much as the plain loop in bf16
        rounded = plain_steps(settings, Path(prepared.model), rows, way, world, 1, torch.bfloat16)
        loss_share = max(loss_share, 2 * abs(rounded.losses[0] / plain.losses[0] - 1))
        norm_share = max(norm_share, 2 * abs(rounded.norm / plain.norm - 1), lengthened(rounded, plain))
    if not near(losses[0], plain.losses[0], loss_share):
        raise Wrong(f"loss {losses[0]:.7f}, plain {plain.losses[0]:.7f}")
    if not near(norms[0], plain.norm, norm_share):
        raise Wrong(f"gradient norm {norms[0]:.6f}, plain {plain.norm:.6f}")
    for step, (ours, theirs) in enumerate(zip(losses, plain.losses, strict=True)):
        if not near(ours, theirs, LATER * loss_share):
            raise Wrong(f"loss {ours:.6f} in step {step + 1}, plain {theirs:.6f}")
    # With its attention written out: some families see the tokens behind a token with another one.
    final = written_out(run.final, plain.model.dtype).to(world.device).eval()
    if type(final) is not type(plain.model):
        raise Wrong(f"final/ holds a {type(final).__name__}, not a {type(plain.model).__name__}")
    compare_kept(final, plain.model, Path(prepared.model), settings)
    if settings.precision == "fp32":
        compare_answers(run, final, Rows(Path(prepared.data) / "validation"), world)


def near(ours: float, theirs: float, share: float) -> bool:
    """Tell whether two numbers are finite and differ by no more than a share of the second."""
    return math.isfinite(ours) and abs(ours - theirs) <= share * abs(theirs)


def plain_steps(
    settings: Decided, path: Path, rows: Rows, way: str, world: World, steps: int, dtype: torch.dtype = torch.float32
) -> Plain:
    """Train in plain PyTorch, one row at a time."""
    model = written_out(path, dtype).to(world.device)
    if way == "lora":
        adapter.add(model, settings, towers.unused(model))
    model.train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, weight_decay=0.0)
    losses, gradients, first_norm = [], list[torch.Tensor](), 0.0
    for step in range(steps):
        chosen = batching.rows_of_step(step, len(rows), settings.sequences_per_step, settings.seed)
        targets, loss_sum = rows.target_tokens(chosen), 0.0
        for index in chosen:
            ids, is_target = rows[int(index)]
            tokens = torch.from_numpy(ids.astype("int64"))[None].to(world.device)
            wanted = torch.from_numpy(is_target[1:].copy()).to(world.device)
            logits = model(input_ids=tokens, use_cache=False).logits[0, :-1][wanted].float()
            loss = torch.nn.functional.cross_entropy(logits, tokens[0, 1:][wanted], reduction="sum")
            (loss / targets).backward()
            loss_sum += loss.item()
        losses.append(loss_sum / targets)
        norm = norm_of(trained)
        if step == 0:
            first_norm = norm
            gradients = [p.grad.float().cpu().clone() for p in trained if p.grad is not None]
        if settings.grad_clip and norm > settings.grad_clip:
            for parameter in trained:
                if parameter.grad is not None:
                    parameter.grad.mul_(settings.grad_clip / norm)
        for group in optimizer.param_groups:
            group["lr"] = Steps.of(settings, len(rows)).learning_rate(settings, step)
        optimizer.step()
        if step < steps - 1:
            optimizer.zero_grad()
    return Plain(losses, gradients, first_norm, model)


def lengthened(rounded: Plain, plain: Plain) -> float:
    """Return the share by which rounding may lengthen a gradient: noise of a share e of it, across it, by e²/2."""
    pairs = zip(rounded.gradients, plain.gradients, strict=True)
    return sum(float((one.double() - other.double()).square().sum()) for one, other in pairs) / plain.norm**2


def written_out(path: Path, dtype: torch.dtype) -> Any:
    """Load a model with its attention written out, or, where that does not run, with what transformers chooses."""
    model = published.from_pretrained(path, dtype=dtype, attn_implementation="eager")
    try:
        with torch.no_grad():
            model(input_ids=torch.arange(3, 3 + LENGTH)[None], use_cache=False)
    except Exception:  # of any kind: the code of a model family
        return published.from_pretrained(path, dtype=dtype)
    return model


def norm_of(parameters: list[torch.nn.Parameter]) -> float:
    """Return the norm of all gradients. Summed in fp64: torch's fp32 norm of 16 million numbers is off by 1e-4."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    return math.sqrt(sum(float(gradient.double().square().sum()) for gradient in gradients))


def compare_kept(final: Any, plain: Any, base: Path, settings: Decided) -> None:
    """Raise Wrong if a weight that no loss depends on is not as the base model has it, to the bit."""
    if settings.lora_rank:
        return
    kept = [name for name, parameter in plain.named_parameters() if parameter.grad is None]
    before = published.from_pretrained(base, dtype=plain.dtype).state_dict()
    after = final.state_dict()
    changed = [name for name in kept if not torch.equal(before[name], after[name].cpu())]
    if changed:
        raise Wrong(f"{len(changed)} weights without a gradient have changed, such as {changed[0]}")


def compare_answers(run: Run, model: Any, rows: Rows, world: World) -> None:
    """Raise Wrong if the evaluation's answers are not those of greedy decoding without a cache or a batch."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(run.final)
    lines = [AnswerLine.from_json(json.loads(line)) for line in answers.lines_of(run.answers, "after")]
    if not lines:
        raise Wrong("no answers after training")
    texts = list(rows.texts())
    ends = model.generation_config.eos_token_id
    ends = ends if isinstance(ends, list) else [ends]
    different = 0
    for line in lines:
        ids = list(texts[line.index].prompt_ids or rows.prompt_ids(line.index))
        start, is_tied = len(ids), False
        with torch.no_grad():
            while len(ids) - start < NEW_TOKENS and (len(ids) == start or ids[-1] not in ends):
                logits = model(input_ids=torch.tensor([ids], device=world.device), use_cache=False).logits
                first, second = logits[0, -1].float().topk(2).values
                is_tied |= bool(first - second <= TIE * logits[0, -1].float().std())
                ids.append(int(logits[0, -1].argmax()))
        new = ids[start:-1] if ids[-1] in ends else ids[start:]
        different += line.generated != tokenizer.decode(new) and not is_tied
    if different:
        raise Wrong(f"{different} of {len(lines)} answers are not those of greedy decoding without a cache")


def plan_of(model: Path, weights: int) -> str:
    """Return the share of a model's weights that the plan knows, or why it knows none."""
    try:
        return f"{shapes.read(model / 'config.json').weights / weights:.3f}"
    except SftError as error:
        return str(error).partition(": ")[2]
