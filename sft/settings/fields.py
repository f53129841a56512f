"""Every setting of a run: its name, type, default, limits and meaning.

A setting comes from, the later winning: its default, `.env`, the environment, `make train NAME=value`.
`Settings.load` reports everything that is wrong at once, a line each.
"""

from __future__ import annotations

import difflib
import json
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PrivateAttr, SecretStr, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from sft import ROOT, redaction
from sft.errors import SettingsError, UserError, shown, wrong
from sft.settings import variables

Precision = Literal["auto", "bf16", "fp16", "fp32"]
Schedule = Literal["cosine", "linear", "constant"]
Launcher = Literal["auto", "local", "compose"]
Device = Literal["auto", "cuda", "cpu"]
Planning = Literal["refuse", "warn"]
Wandb = Literal["auto", "online", "offline", "disabled"]
BaseBits = Literal[16, 4]

# As the hub has it: a name, or an owner and a name, without `--` and `..`.
HUB_NAME = re.compile(r"(?!.*(--|\.\.))(?=.{1,96}$)\w[\w.-]*(/[\w.-]+)?(?<![.-])", re.ASCII)
DATA_SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
MODEL_SUFFIXES = (".safetensors", ".bin", ".gguf", ".json")
NEAR = 0.75  # as alike as `tinny` and `tiny` are: a slip of the finger
DS_CONFIGS = ("zero3", "zero2", "zero1", "zero3_offload", "zero3_offload_all")
TINY = "tiny"  # MODEL_NAME: a model of a few hundred thousand weights that the project makes itself
UNPLANNED_TOKENS = 8192  # MAX_TOKENS_PER_MICRO_STEP=auto where no plan can be made: on a CPU, of an unknown model
DEMO = "demo"  # DATASET: a small task that the project generates itself

# `make demo`: what a tiny model learns in a minute on a CPU, over two nodes.
DEMO_SETTINGS: dict[str, Any] = {
    "model_name": TINY, "dataset": DEMO, "device": "cpu", "launcher": "local", "nodes": 2, "gpus_per_node": 1,
    "batch_size": 16, "learning_rate": 3e-3, "warmup_ratio": 0.05, "max_epochs": 2, "max_length": 128,
    "max_new_tokens": 24, "eval_batch_size": 100,
}  # fmt: skip

# A resumed run may change these; every other setting decides what it trains.
MAY_CHANGE = {
    "batch_size", "gradient_accumulation_steps", "global_batch_size", "packing", "max_tokens_per_micro_step",
    "compile", "gradient_checkpointing", "plan", "nodes", "gpus_per_node", "launcher", "device", "master_port",
    "rendezvous_timeout_s", "step_timeout_s", "max_hours", "restarts", "logging_steps", "save_steps", "eval_steps",
    "keep_checkpoints", "evaluate", "eval_limit", "eval_batch_size", "max_new_tokens", "run_name", "fresh",
    "data_path", "model_path", "runs_path", "wandb_api_key", "wandb_mode", "wandb_entity", "wandb_project_name",
    "wandb_run_name", "huggingface_api_key",
}  # fmt: skip

# What other trainers call a setting, if its name here is not near enough to be guessed.
ELSEWHERE = {
    "LR": "LEARNING_RATE", "MODEL": "MODEL_NAME", "DATA": "DATASET", "EPOCHS": "MAX_EPOCHS", "STEPS": "MAX_STEPS",
    "NUM_EPOCHS": "MAX_EPOCHS", "NUM_TRAIN_EPOCHS": "MAX_EPOCHS", "MAX_SEQ_LENGTH": "MAX_LENGTH",
    "SEQ_LEN": "MAX_LENGTH", "CUTOFF_LEN": "MAX_LENGTH", "PER_DEVICE_TRAIN_BATCH_SIZE": "BATCH_SIZE",
    "MICRO_BATCH_SIZE": "BATCH_SIZE", "MAX_GRAD_NORM": "GRAD_CLIP", "LORA_R": "LORA_RANK",
    "RANK": "LORA_RANK", "GPUS": "GPUS_PER_NODE",
    "NPROC_PER_NODE": "GPUS_PER_NODE", "PORT": "MASTER_PORT", "OUTPUT_DIR": "RUNS_PATH", "NAME": "RUN_NAME",
    "HF_TOKEN": "HUGGINGFACE_API_KEY", "DEEPSPEED": "DS_CONFIG", "ZERO_STAGE": "DS_CONFIG",
}  # fmt: skip
# pydantic's kinds of errors: what is wrong, and what to do.
IN_PLAIN_WORDS = {
    "int_parsing": ("is not a whole number", "use a whole number"),
    "int_from_float": ("is not a whole number", "use a whole number"),
    "int_parsing_size": ("has too many digits", "use a smaller number"),
    "float_parsing": ("is not a number", "use a number such as 0.001 or 1e-3"),
    "finite_number": ("is not a finite number", "use a number such as 0.001 or 1e-3"),
    "bool_parsing": ("is neither 1 nor 0", "use 1 or 0"),
    "string_too_short": ("is empty", "give it a value, or leave it out"),
}

# LEARNING_RATE=auto. An adapter needs a far higher rate than the weights themselves: 2e-4 is that of LoRA (Hu et al.
# 2021, for GPT-3) and of QLoRA (Dettmers et al. 2023, up to 13B). `tiny` begins with random weights.
ALL_WEIGHTS_RATE, LORA_RATE, TINY_RATE = 1e-6, 2e-4, 3e-3

FOLDERS = ("data_path", "model_path", "runs_path")
# Where a run happens and who sees it: nothing of what it does.
NOT_OF_RUN = {*FOLDERS, "run_name", "fresh", "master_port", "wandb_api_key", "huggingface_api_key"}

LARGEST = 2**31 - 1  # of every whole number: more is a slip of the finger, and no array or timer takes it
CPU_RANKS_PER_CORE = 16  # more would only starve the machine
LONGEST_NAME = 100  # characters of a run's name, which W&B and the file system must take
DEEPEST = 20  # levels of a DeepSpeed file

Lower = BeforeValidator(lambda value: value.strip().lower() if isinstance(value, str) else value)
# `auto` is None: left to the plan, which puts a number there before the settings are frozen.
Planned = BeforeValidator(lambda value: None if isinstance(value, str) and value.strip().lower() == "auto" else value)
# A literal takes the number alone, not what a user writes.
Bits = BeforeValidator(lambda value: {"16": 16, "4": 4}.get(value.strip(), value) if isinstance(value, str) else value)
Count = Annotated[int, Field(le=LARGEST)]  # its limit wins over one of the field itself: those are plain int


def readable(text: str) -> str:
    """Return a text that files and terminals can hold. Raises ValueError."""
    if any(ord(c) < 32 and c not in "\n\t" for c in text) or not is_unicode(text):
        raise ValueError("holds characters that no terminal shows")
    return text


def plain(text: str) -> str:
    """Return a text of one line. Raises ValueError."""
    if not text.isprintable():
        raise ValueError("holds characters that a name cannot have")
    return text


def folder(path: Path) -> Path:
    """Return a folder's path with `~` as the home folder. Raises ValueError."""
    plain(str(path))
    return variables.expanded(path)


def secret(value: SecretStr) -> SecretStr:
    """Return a key. Raises ValueError for what cannot be one."""
    text = value.get_secret_value()
    if text and (len(text) < redaction.LEAST or not text.isascii() or not text.isprintable() or " " in text):
        raise ValueError("is not a key: it is too short, or has spaces or odd characters")
    return value


def is_unicode(text: str) -> bool:
    """Tell whether a text can be written in UTF-8: lone surrogates cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


Text = Annotated[str, AfterValidator(readable)]
Name = Annotated[str, AfterValidator(plain)]
Folder = Annotated[Path, AfterValidator(folder)]
Secret = Annotated[SecretStr, AfterValidator(secret)]


class Settings(BaseSettings):
    """The settings of one run. Field names in capitals are what users type."""

    model_config = SettingsConfigDict(
        extra="forbid", env_ignore_empty=True, frozen=True, protected_namespaces=(), allow_inf_nan=False
    )
    # Of a run that has been opened: its ds_config.json holds what DS_CONFIG's file said then. The file may be gone by
    # now, or lie where a container does not see it.
    _opened: bool = PrivateAttr(False)

    # Model
    model_name: Name = Field(
        "meta-llama/Llama-3.2-1B-Instruct",
        description="hub name or local folder of a causal language model; `tiny` makes one",
    )
    model_revision: Name = Field("main", description="hub revision of the model: branch, tag or commit")
    allow_pickle: bool = Field(
        False, description="load pickled weights (.bin, .pt), which can run any program; 0 = safetensors only"
    )
    trust_remote_code: bool = Field(False, description="run Python code that comes with the model or its tokenizer")
    # Data
    dataset: Name = Field(
        "openai/gsm8k", description="hub name, local file or folder (jsonl, json, csv, parquet); `demo` generates one"
    )
    dataset_config: Name = Field("main", description="configuration of a hub data set")
    dataset_revision: Name = Field("main", description="hub revision of the data set")
    prompt_column: Name = Field("question", description="column with the prompt (unless rows have chat `messages`)")
    response_column: Name = Field("answer", description="column with the response; its tokens are the targets")
    system_prompt: Text = Field("", description="system message put before every prompt")
    max_length: Count = Field(
        1024, ge=8, description="longest row in tokens; longer rows are cut at the end, counted and reported"
    )
    # Batch
    batch_size: Count = Field(
        4, ge=1, description="sequences per GPU and micro-step (with PACKING=1: per GPU and step)"
    )
    gradient_accumulation_steps: Count = Field(1, ge=1, description="micro-steps per optimizer step")
    global_batch_size: Count = Field(
        0,
        ge=0,
        description="sequences per optimizer step over all GPUs; 0 = BATCH_SIZE x GRADIENT_ACCUMULATION_STEPS x GPUs",
    )
    packing: bool = Field(
        True, description="concatenate the sequences of a step without padding; 0 = pad them, BATCH_SIZE at a time"
    )
    max_tokens_per_micro_step: Annotated[int | None, Field(le=LARGEST), Planned] = Field(
        None,
        ge=8,
        description="tokens that a GPU packs into one micro-step; auto: as many as fit, but no more than a step needs",
    )
    # Optimisation
    learning_rate: Annotated[float | None, Planned] = Field(
        None,
        gt=0,
        lt=10,
        description="peak learning rate of AdamW; auto: 1e-6 for all weights, 2e-4 for LoRA, 3e-3 for `tiny`",
    )
    lr_scheduler: Annotated[Schedule, Lower] = Field(
        "cosine", description="cosine, linear (both to 0) or constant, after the warm-up"
    )
    warmup_ratio: float = Field(0.03, ge=0, lt=1, description="share of all steps over which the learning rate rises")
    weight_decay: float = Field(0.0, ge=0, description="decoupled weight decay, not on biases and norms")
    grad_clip: float = Field(1.0, ge=0, description="largest gradient norm; 0 = no clipping")
    max_epochs: Count = Field(2, ge=1, description="passes over the training rows")
    max_steps: Count = Field(0, ge=0, description="largest number of optimizer steps; 0 = no limit")
    seed: Count = Field(42, ge=0, description="seed of the order of the rows, of dropout and of new weights")
    precision: Annotated[Precision, Lower] = Field(
        "auto",
        description="bf16, fp16 (dynamic loss scaling), fp32, or auto: bf16 on GPUs that have it, fp16 on older ones, "
        "fp32 on CPU",
    )
    gradient_checkpointing: Annotated[bool | None, Planned] = Field(
        None, description="recompute activations in the backward pass: less memory, a third more time; auto: if needed"
    )
    compile: bool = Field(
        False,
        description="torch.compile the layers: slower to start, faster with large micro-steps",
    )
    ds_config: Name = Field(
        "zero3",
        description="zero3, zero2, zero1, zero3_offload (the optimizer in main memory), zero3_offload_all (the weights "
        "too), or a path to a DeepSpeed JSON file",
    )
    # LoRA
    lora_rank: Count = Field(0, ge=0, description="train a LoRA adapter of this rank instead of all weights; 0 = all")
    lora_alpha: Count = Field(32, ge=1, description="the adapter's output is scaled by LORA_ALPHA / LORA_RANK")
    lora_dropout: float = Field(0.0, ge=0, lt=1, description="share of the adapter's inputs that is dropped")
    lora_targets: Name = Field(
        "all-linear", min_length=1, description="layers with an adapter: all-linear, or names as in q_proj,v_proj"
    )
    lora_base_bits: Annotated[BaseBits, Bits] = Field(
        16,
        description="bits per frozen weight: 4 = QLoRA (NF4, by bitsandbytes), with DS_CONFIG=zero2 or zero1; "
        "16 = as PRECISION says",
    )
    # Intervals
    logging_steps: Count = Field(1, ge=1, description="steps between lines in metrics.jsonl")
    save_steps: Count = Field(
        100,
        ge=0,
        description="steps between checkpoints; 0 = only if stopped, and after the last step until the export",
    )
    eval_steps: Count = Field(0, ge=0, description="steps between validation losses; 0 = only before and after")
    keep_checkpoints: Count = Field(2, ge=1, description="number of checkpoints to keep; older ones are removed")
    # Evaluation
    evaluate: bool = Field(True, description="evaluate the base model before and the tuned model after training")
    eval_limit: Count = Field(0, ge=0, description="held-out rows to answer; 0 = all")
    max_new_tokens: Count = Field(256, ge=1, description="longest answer in tokens")
    eval_batch_size: Count = Field(
        0, ge=0, description="answers generated at once on each GPU; 0 = as many as fit (on CPU: 64)"
    )
    # Machines
    nodes: int = Field(2, ge=1, le=1024, description="number of nodes")
    gpus_per_node: int = Field(2, ge=1, le=64, description="GPUs (on CPU: processes) per node")
    launcher: Annotated[Launcher, Lower] = Field(
        "auto",
        description="local: nodes are processes on this machine; compose: containers; auto chooses and says why",
    )
    device: Annotated[Device, Lower] = Field(
        "auto", description="cuda, cpu, or auto: cuda if there is a GPU; with auto, models other than `tiny` need one"
    )
    plan: Annotated[Planning, Lower] = Field(
        "refuse", description="if the settings cannot fit the GPUs: refuse (before anything starts) or warn"
    )
    master_port: int = Field(
        37171,
        ge=1024,
        le=65534,
        description="port on which the ranks meet; the node programs use the next one. If it is not set, a run without "
        "containers takes the next free pair",
    )
    rendezvous_timeout_s: Count = Field(
        300, ge=10, description="seconds within which nodes and ranks must meet at the start"
    )
    step_timeout_s: Count = Field(
        1800, ge=0, description="seconds without a step after which the run fails; 0 = no limit"
    )
    max_hours: float = Field(0.0, ge=0, description="hours after which the run is saved and stopped; 0 = no limit")
    restarts: Count = Field(
        0, ge=0, description="how often a run that failed is started again from its last checkpoint"
    )
    # Run
    run_name: Name = Field("", description="name of the run directory; empty = date, time and model")
    fresh: bool = Field(
        False, description="start a new run instead of resuming; a run with the same RUN_NAME is set aside"
    )
    # Folders
    data_path: Folder = Field(Path("data"), description="cache of prepared data sets")
    model_path: Folder = Field(Path("models"), description="cache of base models")
    runs_path: Folder = Field(Path("runs"), description="run directories")
    # Accounts
    wandb_api_key: Secret = Field(SecretStr(""), description="Weights & Biases key; empty = log offline")
    wandb_mode: Annotated[Wandb, Lower] = Field(
        "auto",
        description="auto = online with a key, otherwise offline; online = with what `wandb login` left; or disabled",
    )
    wandb_entity: Name = Field("", description="Weights & Biases team or user")
    wandb_project_name: Name = Field("sft", description="Weights & Biases project")
    wandb_run_name: Name = Field("", description="name of the run in Weights & Biases; empty = RUN_NAME")
    huggingface_api_key: Secret = Field(SecretStr(""), description="hub token, for gated models such as Llama")

    @property
    def world_size(self) -> int:
        """Ranks over all nodes."""
        return self.nodes * self.gpus_per_node

    @property
    def sequences_per_step(self) -> int:
        """The global batch size: sequences that one optimizer step trains on."""
        return self.global_batch_size or self.batch_size * self.gradient_accumulation_steps * self.world_size

    @property
    def peak_learning_rate(self) -> float:
        """The peak learning rate, of settings that are not resolved too."""
        if self.learning_rate is not None:
            return self.learning_rate
        if self.model_name == TINY:
            return TINY_RATE
        return LORA_RATE if self.lora_rank else ALL_WEIGHTS_RATE

    @property
    def micro_step_tokens(self) -> int:
        """Tokens that a GPU packs into one micro-step, of settings without a plan too."""
        return self.max_tokens_per_micro_step or max(UNPLANNED_TOKENS, self.max_length)

    @classmethod
    def load(
        cls, env_file: Path | None = variables.ENV_FILE, defaults: dict[str, Any] | None = None, **given: Any
    ) -> Settings:
        """Return the settings from `defaults`, `env_file`, the environment and `given`.

        Raises SettingsError with a line for everything that is wrong.
        """
        problems: list[str] = []
        written: dict[str, str] = {}
        try:
            written = variables.from_file(env_file) if env_file else {}
        except UserError as error:
            problems.append(str(error))
        problems += unknown_names(list(written), str(env_file)) + unknown_names(variables.behind_make(), "make")
        values: dict[str, Any] = dict(defaults or {})
        values |= {name.lower(): value for name, value in written.items() if name.lower() in cls.model_fields}
        values |= {name: os.environ[name.upper()] for name in cls.model_fields if os.environ.get(name.upper())}
        values |= given
        while True:
            try:
                settings = cls.model_validate(values)
                break
            except ValidationError as error:
                # Go on with the defaults of what is wrong, to find the contradictions of the rest.
                for item in error.errors():
                    problems.append(explain(item))
                    values.pop(str(item["loc"][0]))
        problems += settings.contradictions()
        if problems:
            raise SettingsError(problems)
        asked = {name for name in cls.model_fields if name.upper() in written or os.environ.get(name.upper())}
        settings.model_fields_set.intersection_update(asked | set(given))
        redaction.know(list(settings.secrets().values()))
        return settings

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource, *_: Any, **__: Any
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read nothing behind the caller's back: `load` has put all sources together, and `thaw` wants none."""
        return (init_settings,)

    @classmethod
    def thaw(cls, path: Path) -> Settings:
        """Return the settings frozen in a run directory; secrets come from the environment, and so do folders.

        A container has the same folders in other places. Raises UserError for a file that holds no settings.
        """
        here = {name: os.environ.get(name.upper(), "") for name in secret_names()}
        here |= {name: os.environ[name.upper()] for name in FOLDERS if os.environ.get(name.upper())}
        try:
            settings = cls.model_validate(json.loads(path.read_text(encoding="utf-8")) | here)
            settings._opened = True
            settings.model_fields_set.clear()  # none of them was asked for now
            return settings
        except (OSError, ValueError, TypeError) as error:
            what = f"holds no settings that this version reads ({shown(str(error).splitlines()[0])})"
            raise UserError(f"{path}: {what}; start a new run, with FRESH=1 if it has the same RUN_NAME") from None

    @classmethod
    def repeat(cls, frozen: dict[str, Any], env_file: Path | None = variables.ENV_FILE, **given: Any) -> Settings:
        """Return the settings of a frozen run for a new one; the environment and `given` win, and so `make`'s words.

        Of `env_file` only the keys are taken, which are never frozen: the rest of it is about other runs. Raises
        SettingsError.
        """
        kept = {name: value for name, value in frozen.items() if name != "run_name"}
        return cls.load(None, defaults=kept | keys_of(env_file), **(given | {"fresh": True}))

    @classmethod
    def resume(cls, before: Settings, env_file: Path | None = variables.ENV_FILE, **given: Any) -> Settings:
        """Return the settings with which a run goes on: its own ones; the environment and `given` win.

        Of `env_file` only the keys are taken. The global batch size stays over other ranks unless it is set. Raises
        SettingsError.
        """
        defaults = before.freeze() | {"fresh": False} | keys_of(env_file)
        settings = cls.load(None, defaults=defaults, **given)
        if settings.fresh:
            remedy = "leave it out, or start over with `make train FRESH=1` and the same settings"
            raise SettingsError([wrong("FRESH", 1, "`resume` goes on with a run", remedy)])
        sizes = {"global_batch_size", "gradient_accumulation_steps", "batch_size"}
        if settings.world_size != before.world_size and not any(os.environ.get(name.upper()) for name in sizes):
            defaults |= {"global_batch_size": before.sequences_per_step, "gradient_accumulation_steps": 1}
            defaults |= {"max_tokens_per_micro_step": None}  # planned for the ranks of now
            settings = cls.load(None, defaults=defaults, **given)
        return settings

    def is_asked(self, name: str) -> bool:
        """Tell whether a setting comes from `.env`, the environment or `make`: not from a default or another run."""
        return name in self.model_fields_set

    def freeze(self) -> dict[str, Any]:
        """Return the settings as JSON data, without the secrets."""
        return self.model_dump(mode="json", exclude=set(secret_names()))

    def secrets(self) -> dict[str, str]:
        """Return the secrets that are set, by the names they have in the environment of the run's processes."""
        found = {name.upper(): getattr(self, name).get_secret_value() for name in secret_names()}
        return {name: value for name, value in found.items() if value}

    def resolved(self, device: Device, launcher: Launcher, has_bf16: bool = True) -> Settings:
        """Return the settings with what was left open decided, for GPUs with bf16 or without.

        Raises SettingsError for a new contradiction.
        """
        precision = self.precision
        if precision == "auto":
            precision = "fp32" if device == "cpu" else "bf16" if has_bf16 else "fp16"
        decided: dict[str, Any] = {"device": device, "launcher": launcher, "precision": precision}
        decided["learning_rate"] = self.peak_learning_rate
        settings = self.model_copy(update=decided)
        if device == "cpu":
            settings = settings.planned(self.micro_step_tokens, recompute=False)
        problems = settings.contradictions()
        if precision == "fp16" and device == "cpu":
            remedy = "use bf16, fp32 or auto"
            problems.append(wrong("PRECISION", precision, "DeepSpeed has no fp16 on the CPU", remedy))
        if precision == "bf16" and device == "cuda" and not has_bf16:
            # torch emulates it, many times slower, and Triton's kernels do not compile.
            what = "these GPUs have no bf16: cards since Ampere have (RTX 30, A100)"
            problems.append(wrong("PRECISION", precision, what, "use fp16, fp32, or auto, which is fp16 here"))
        if problems:
            raise SettingsError(problems)
        return settings

    def planned(self, tokens: int, recompute: bool) -> Settings:
        """Return the settings with the plan's numbers where they say auto."""
        chosen: dict[str, Any] = {"max_tokens_per_micro_step": tokens, "gradient_checkpointing": recompute}
        return self.model_copy(update={name: value for name, value in chosen.items() if getattr(self, name) is None})

    def of_data(self) -> dict[str, Any]:
        """Return the settings that prepared data is made for; its manifest holds them, for those who look for it."""
        names = {"model_name", "model_revision", "dataset", "dataset_config", "dataset_revision", "prompt_column"}
        return self.model_dump(mode="json", include=names | {"response_column", "system_prompt", "max_length", "seed"})

    def changed(self, before: Settings) -> list[tuple[str, Any, Any]]:
        """Return name, value now and value `before` of every setting that decides what is trained and differs.

        The global batch size is compared as it comes out, however it was set.
        """
        names = [name for name in type(self).model_fields if name not in MAY_CHANGE]
        pairs = [(name.upper(), getattr(self, name), getattr(before, name)) for name in names]
        pairs.append(("GLOBAL_BATCH_SIZE", self.sequences_per_step, before.sequences_per_step))
        return [(name, now, then) for name, now, then in pairs if now != then]

    def adjusted(self, before: Settings) -> list[tuple[str, Any, Any]]:
        """Return the same of every setting that a resumed run may change, if it says something about the run."""
        unsaid = {*NOT_OF_RUN, "global_batch_size"}  # `changed` compares that one as it comes out
        names = [name for name in type(self).model_fields if name in MAY_CHANGE and name not in unsaid]
        pairs = [(name.upper(), getattr(self, name), getattr(before, name)) for name in names]
        return [(name, now, then) for name, now, then in pairs if now != then]

    def differences(self, before: Settings) -> list[str]:
        """Return a line for every setting that decides what is trained and is not what it was `before`."""
        problems = []
        for name, now, then in self.changed(before):
            to_resume = f"set GLOBAL_BATCH_SIZE={then} to resume" if name == "GLOBAL_BATCH_SIZE" else ""
            remedy = f"{to_resume or f'set it to {then} to resume'}, or FRESH=1 to start a new run"
            problems.append(wrong(name, now, f"the unfinished run {before.run_name} has {then}", remedy))
        return problems

    def contradictions(self) -> list[str]:
        """Return a line for every pair of settings that cannot both hold."""
        problems = []
        if 0 < self.global_batch_size < self.world_size:
            what = f"is less than NODES x GPUS_PER_NODE = {self.world_size}, so some would have nothing to do"
            remedy = f"use at least {self.world_size}"
            problems.append(wrong("GLOBAL_BATCH_SIZE", self.global_batch_size, what, remedy))
        product = self.batch_size * self.gradient_accumulation_steps * self.world_size
        if self.global_batch_size and self.gradient_accumulation_steps > 1 and product != self.global_batch_size:
            what = f"with BATCH_SIZE and GPUs it makes {product} per step, GLOBAL_BATCH_SIZE={self.global_batch_size}"
            accumulation = self.gradient_accumulation_steps
            problems.append(wrong("GRADIENT_ACCUMULATION_STEPS", accumulation, what, "set one of the two"))
        if self.lora_base_bits == 4 and not self.lora_rank:
            what = "4-bit weights cannot be trained themselves, and LORA_RANK=0 has no adapter"
            problems.append(wrong("LORA_BASE_BITS", 4, what, "use LORA_RANK=16, or LORA_BASE_BITS=16"))
        if self.packing and self.max_length > self.micro_step_tokens:
            what = f"is less than MAX_LENGTH={self.max_length}, so the longest row may not fit"
            remedy = f"use at least {self.max_length}, or lower MAX_LENGTH"
            problems.append(wrong("MAX_TOKENS_PER_MICRO_STEP", self.max_tokens_per_micro_step, what, remedy))
        if self.run_name and not re.fullmatch(rf"(?!latest$)\w[\w.-]{{,{LONGEST_NAME - 1}}}", self.run_name, re.ASCII):
            remedy = f"use letters, digits, - and _, {LONGEST_NAME} at most"
            problems.append(wrong("RUN_NAME", self.run_name, "is not a valid folder name", remedy))
        problems += [*name_problems("model_name", self.model_name), *name_problems("dataset", self.dataset)]
        if not self._opened:
            try:
                self.deepspeed()
            except SettingsError as error:
                problems += error.problems
        return problems

    def deepspeed_file(self) -> Path:
        """Return the DeepSpeed JSON file that DS_CONFIG names."""
        if self.ds_config in DS_CONFIGS:
            return ROOT / "ds_configs" / f"{self.ds_config}.json"
        return variables.expanded(self.ds_config)

    def deepspeed(self, file: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the configuration that DeepSpeed receives: the file, with the settings filled in as numbers.

        `file` is what the file held when the run began, if that is not what it holds now. Raises SettingsError where
        the file is unusable or says something else than a setting.
        """
        config = self.read_deepspeed_file() if file is None else dict(file)
        problems = []
        ours: dict[str, tuple[str, Any]] = {
            "train_micro_batch_size_per_gpu": ("BATCH_SIZE", self.batch_size),
            "gradient_clipping": ("GRAD_CLIP", self.grad_clip),
        }
        if self.precision != "auto":
            ours["bf16"] = ("PRECISION", {"enabled": self.precision == "bf16"})
            ours["fp16"] = ("PRECISION", {"enabled": self.precision == "fp16"})
        for key, (name, value) in ours.items():
            given = config.get(key, "auto")
            options = {}
            if isinstance(given, dict):  # precision: the file may tune it, the setting chooses it
                options = given
                given = {"enabled": given["enabled"]} if given.get("enabled", "auto") != "auto" else "auto"
            if given not in ("auto", value):
                remedy = f"change {name} or remove {key} from the file"
                what = f"DS_CONFIG={self.ds_config} says {key} = {json.dumps(given)}"
                problems.append(wrong(name, getattr(self, name.lower()), what, remedy))
            config[key] = options | value if isinstance(value, dict) else value
        accumulation = config.get("gradient_accumulation_steps", "auto")
        if accumulation not in ("auto", 1, self.gradient_accumulation_steps):
            what = f"DS_CONFIG={self.ds_config} says gradient_accumulation_steps = {accumulation}"
            remedy = "remove it from the file"
            problems.append(wrong("GRADIENT_ACCUMULATION_STEPS", self.gradient_accumulation_steps, what, remedy))
        # The trainer marks the step's last micro-step itself (set_gradient_accumulation_boundary).
        config["gradient_accumulation_steps"] = 1
        whole = config.pop("train_batch_size", "auto")
        if whole not in ("auto", self.sequences_per_step):
            what = f"DS_CONFIG={self.ds_config} says train_batch_size = {whole}"
            problems.append(wrong("GLOBAL_BATCH_SIZE", self.sequences_per_step, what, "remove it from the file"))
        for key in ("optimizer", "scheduler"):
            if key in config:
                remedy = f"remove {key} from the file; LEARNING_RATE, WEIGHT_DECAY and LR_SCHEDULER set it"
                problems.append(wrong("DS_CONFIG", self.ds_config, f"has its own {key}", remedy))
        stage = config.get("zero_optimization", {}).get("stage")
        if isinstance(stage, bool) or stage not in (1, 2, 3):
            problems.append(
                wrong("DS_CONFIG", self.ds_config, f"zero_optimization.stage is {stage}", "write 1, 2 or 3")
            )
        elif self.lora_base_bits == 4 and stage == 3:
            # ZeRO-3 cuts a parameter and forgets the scales that belong to its 4-bit values.
            what = f"DS_CONFIG={self.ds_config} is ZeRO-3, which cannot shard 4-bit weights"
            problems.append(wrong("LORA_BASE_BITS", 4, what, "use DS_CONFIG=zero2"))
        if problems:
            raise SettingsError(problems)
        return without_auto(config)

    def read_deepspeed_file(self) -> dict[str, Any]:
        """Return the content of the file that DS_CONFIG names. Raises SettingsError."""
        what, remedy = "does not hold a JSON object", "fix the file"
        try:
            text = self.deepspeed_file().read_text(encoding="utf-8-sig")
            config = json.loads(text, object_pairs_hook=once, parse_constant=no_number)
            if depth(config) > DEEPEST:
                raise RecursionError
            if isinstance(config, dict) and isinstance(config.get("zero_optimization", {}), dict):
                return config
        except (OSError, UnicodeDecodeError):
            what = "no such file" + variables.in_container()
            remedy = f"use {', '.join(DS_CONFIGS)} or a path to a DeepSpeed JSON file"
        except json.JSONDecodeError as error:
            what = f"is not valid JSON (line {error.lineno}: {error.msg})"
        except RecursionError:
            what = "is nested too deep"
        except ValueError as error:
            what = "holds a number of too many digits" if "integer string" in str(error) else str(error)
        raise SettingsError([wrong("DS_CONFIG", self.ds_config, what, remedy)])


def name_problems(name: str, value: str) -> list[str]:
    """Return the line for a MODEL_NAME or DATASET that is no file or folder here and can be no name on the hub.

    A name that begins as a path does, has the suffix of a file, or whose first part is a folder here, is a path.
    """
    made, example, suffixes = {
        "model_name": (TINY, "Qwen/Qwen3-0.6B", MODEL_SUFFIXES),
        "dataset": (DEMO, "openai/gsm8k", DATA_SUFFIXES),
    }[name]
    if value == made or is_there(variables.expanded(value)):
        return []
    first, slash, _ = value.partition("/")
    is_path = value.startswith((".", "/", "~")) or bool(slash and is_there(Path(first)))
    if is_path or value.lower().endswith(suffixes):
        what, remedy = (
            "no such file or folder" + variables.in_container(),
            f"check the path, or give a hub name such as {example}",
        )
    elif not HUB_NAME.fullmatch(value):
        what, remedy = "no such file or folder, and not a hub name", f"give a hub name such as {example}"
    elif not slash and difflib.get_close_matches(value.lower(), [made], cutoff=NEAR):
        what, remedy = "no such file or folder", f"did you mean {made}? (a hub name has an owner, as in {example})"
    else:
        return []
    return [wrong(name.upper(), value, what, remedy)]


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object. Raises ValueError for a key that stands there twice, of which one would be lost."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"has the key {key!r} twice")
        found[key] = value
    return found


def no_number(name: str) -> Any:
    """Raise ValueError: JSON has no NaN and no Infinity, though Python reads them."""
    raise ValueError(f"holds {name}")


def depth(value: Any) -> int:
    """Return how deep a JSON value is nested, as far as it matters."""
    level, values = 0, [value]
    while values and level <= DEEPEST:
        values = [inner for outer in values for inner in children(outer)]
        level += 1
    return level


def children(value: Any) -> list[Any]:
    """Return the values inside a JSON value."""
    return list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []


def is_there(path: Path) -> bool:
    """Tell whether a file or folder is there; a path that cannot be one is not."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def without_auto(config: dict[str, Any]) -> dict[str, Any]:
    """Return a DeepSpeed configuration without its "auto" values, so that DeepSpeed's own defaults hold."""
    return {k: without_auto(v) if isinstance(v, dict) else v for k, v in config.items() if v != "auto"}


def secret_names() -> list[str]:
    """Return the settings that must never be written anywhere."""
    return [name for name, field in Settings.model_fields.items() if field.annotation is SecretStr]


def keys_of(env_file: Path | None) -> dict[str, str]:
    """Return the secrets in an env file: they are never frozen."""
    written = variables.from_file(env_file) if env_file else {}
    return {name: written[name.upper()] for name in secret_names() if name.upper() in written}


def unknown_names(names: list[str], where: str, options: tuple[str, ...] = ()) -> list[str]:
    """Return a line for every name that is neither a setting nor an option, with the one that was probably meant."""
    known = [*options, *(name.upper() for name in Settings.model_fields)]
    problems = []
    for name in names:
        if name not in known and not variables.is_of_compose(name):
            usual = name.upper() if name.upper() in known else ELSEWHERE.get(name.upper())
            near = [usual] if usual else difflib.get_close_matches(name.upper(), known, n=1)
            remedy = f"did you mean {near[0]}?" if near else "docs/settings.md lists every setting"
            problems.append(f"{shown(name)}: no such setting (from {where}); {remedy}")
    return problems


def explain(error: Any) -> str:
    """Return the user's line for one of pydantic's errors."""
    name = str(error["loc"][0]).upper() if error["loc"] else "settings"
    value = "***" if name.lower() in secret_names() else error["input"]
    context = error.get("ctx", {})
    kind = error["type"]
    limits = {
        "greater_than": "more than",
        "greater_than_equal": "at least",
        "less_than": "less than",
        "less_than_equal": "at most",
    }
    if kind in limits:
        bound = next(iter(context.values()))
        return wrong(name, value, "is out of range", f"use {limits[kind]} {bound}")
    if kind == "literal_error":
        return wrong(name, value, "is not one of the choices", f"use {context['expected']}")
    if kind in IN_PLAIN_WORDS:
        what, remedy = IN_PLAIN_WORDS[kind]
        may_be_auto = name.lower() in Settings.model_fields and Settings.model_fields[name.lower()].default is None
        return wrong(name, value, what, remedy + " or auto" * may_be_auto)
    what = str(error["msg"]).removeprefix("Value error, ")
    return wrong(name, value, what[0].lower() + what[1:], "correct it")
