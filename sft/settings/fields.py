"""Every setting of a run: its name, type, default, limits and meaning.

`load` reads them, `rules` says which contradict each other, `stages` what becomes of them before a run starts.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationInfo, field_validator

from sft.settings import hosts
from sft.settings.kinds import (
    LARGEST,
    OF_DATA,
    OF_PART,
    Arguments,
    AskedForm,
    BaseBits,
    Bits,
    Columns,
    Count,
    DataSets,
    Device,
    Folder,
    HostNames,
    Launcher,
    LongRows,
    Lower,
    Mark,
    MarksInText,
    MayChange,
    Name,
    NotOfRun,
    OfData,
    OfPart,
    Place,
    Planned,
    Planning,
    Precision,
    Schedule,
    Secret,
    Splits,
    StateBits,
    Text,
    TimeLimit,
    TrainedAnswers,
    UnusedColumns,
    Wandb,
)

TEXT_SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv")
COMPRESSED_SUFFIXES = (".gz", ".zst")  # behind one of a text file
BINARY_SUFFIXES = (".parquet", ".arrow")
DATA_SUFFIXES = (*TEXT_SUFFIXES, *BINARY_SUFFIXES)
GPUS_OF_A_NODE = 64  # at most
ALL_LINEAR, EXPERTS = "all-linear", "experts"  # words in LORA_TARGETS
DS_CONFIGS = ("zero3", "zero2", "zero1", "zero3_offload", "zero3_offload_all")
TINY = "tiny"  # MODEL_NAME: a model of a few hundred thousand weights that the project makes itself
DEMO = "demo"  # DATASET: a small task that the project generates itself
CONFIGS = {"openai/gsm8k": "main"}  # of data sets that have several and no default
FOLDERS = ("data_path", "model_path", "runs_path")

# LEARNING_RATE=auto. An adapter needs a far higher rate than the weights themselves: 2e-4 is that of LoRA (Hu et al.
# 2021, for GPT-3) and of QLoRA (Dettmers et al. 2023, up to 13B). `tiny` begins with random weights.
ALL_WEIGHTS_RATE, LORA_RATE, TINY_RATE = 1e-6, 2e-4, 3e-3


class Settings(BaseModel):
    """The settings of one run as they were written; `auto` is still open. Field names in capitals are what users type.

    A field's mark says what it is for: `MayChange` on resume, `NotOfRun` (where it happens), `OfData` (prepared data),
    `OfPart` (each data set of several may have its own).
    """

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)

    # Model
    model_name: OfData[Place] = Field(
        "meta-llama/Llama-3.2-1B-Instruct",
        description="hub name or local folder of a causal language model; `tiny` makes one",
    )
    model_revision: OfData[Name] = Field("main", description="hub revision of the model: branch, tag or commit")
    allow_pickle: bool = Field(
        False, description="load pickled weights (.bin, .pt), which can run any program; 0 = safetensors only"
    )
    trust_remote_code: bool = Field(False, description="run Python code that comes with the model or its tokenizer")
    # Data
    dataset: OfPart[Place] = Field(
        "openai/gsm8k",
        description="hub name, local file or folder (docs/data.md lists the kinds); `demo` generates one; or several "
        "with shares, as in a.jsonl,b.jsonl*0.5,org/set*2000",
    )
    datasets: OfData[DataSets] = Field(
        "", description="TOML file with several data sets that need settings of their own, instead of DATASET"
    )
    dataset_config: OfPart[Name] = Field(
        "",
        validate_default=True,
        description="configuration of the data set; empty = the only one or its default (of openai/gsm8k: main)",
    )
    dataset_revision: OfPart[Name] = Field("main", description="hub revision of the data set")
    train_split: OfPart[Splits] = Field(
        "",
        description="splits to train on, such as train_sft or train[:10%] (docs/data.md); empty = the training split",
    )
    eval_split: OfPart[Splits] = Field(
        "",
        description="splits to evaluate on, or none; empty = the validation or test split, or one row in twenty",
    )
    prompt_column: OfPart[Name] = Field(
        "question", description="column with the prompt, if its name is not one that is recognised"
    )
    response_column: OfPart[Name] = Field(
        "answer", description="column with the response, whose tokens are the targets, if its name is not recognised"
    )
    columns: OfPart[Columns] = Field(
        "{}",
        description="roles of columns whose names are not recognised, as JSON: prompt, response, reasoning, system, "
        'input, history, messages, tools, text or unused, as in {"hint": "input", "label": "unused"}',
    )
    use_columns: OfPart[Annotated[UnusedColumns, Lower]] = Field(
        "warn", description="filled columns of rows that nothing uses are: warn = named and counted, refuse = an error"
    )
    system_prompt: OfPart[Text] = Field("", description="system message of the rows that have none of their own")
    max_length: OfData[Count] = Field(
        1024, ge=8, description="longest sequence in tokens; LONG_ROWS says what becomes of longer rows"
    )
    long_rows: OfData[Annotated[LongRows, Lower]] = Field(
        "cut",
        description="rows longer than MAX_LENGTH are: cut = cut at the end, or dropped if no target would be left "
        "(plain texts are split instead); drop = dropped; refuse = an error. What is cut or dropped is counted and "
        "reported",
    )
    chat_template: OfData[Place] = Field(
        "",
        description="chat template instead of the model's own: a file, `plain` or `chatml` (this project's), or the "
        "name of one of the model's; empty = the model's own, or `plain` if it has none",
    )
    chat_template_arguments: OfData[Arguments] = Field(
        "{}", description='variables for the chat template as JSON, such as {"enable_thinking": false}'
    )
    train_on: OfPart[Annotated[TrainedAnswers, Lower]] = Field(
        "all", description="answers of a row that are targets: all of them, or the last"
    )
    special_tokens_in_text: OfData[Annotated[MarksInText, Lower]] = Field(
        "parse",
        description="a control mark of the model in the text of a row, such as <|im_end|>, is: parse = that token, as "
        "in other tools; split = ordinary characters",
    )
    # Batch
    batch_size: MayChange[Count] = Field(
        4, ge=1, description="sequences per GPU and micro-step (with PACKING=1: per GPU and step)"
    )
    gradient_accumulation_steps: MayChange[Count] = Field(1, ge=1, description="micro-steps per optimizer step")
    global_batch_size: MayChange[Count] = Field(
        0,
        ge=0,
        description="sequences per optimizer step over all GPUs; 0 = BATCH_SIZE x GRADIENT_ACCUMULATION_STEPS x GPUs",
    )
    packing: MayChange[bool] = Field(
        True, description="concatenate the sequences of a step without padding; 0 = pad them, BATCH_SIZE at a time"
    )
    max_tokens_per_micro_step: MayChange[Annotated[int | None, Field(le=LARGEST), Planned]] = Field(
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
    seed: OfData[Count] = Field(42, ge=0, description="seed of the order of the rows, of dropout and of new weights")
    precision: Annotated[Precision, Lower] = Field(
        "auto",
        description="bf16, fp16 (dynamic loss scaling), fp32, or auto: bf16 on GPUs that have it, fp16 on older ones, "
        "fp32 on CPU",
    )
    optimizer_bits: Annotated[StateBits, Bits] = Field(
        32,
        description="bits of AdamW's moments and of the weights that it updates: 32, or 16 = bf16, rounded "
        "stochastically, which halves the memory of weights, gradients and optimizer together; needs PRECISION=bf16",
    )
    gradient_checkpointing: MayChange[Annotated[bool | None, Planned]] = Field(
        None, description="recompute activations in the backward pass: less memory, a third more time; auto: if needed"
    )
    compile: MayChange[bool] = Field(
        False,
        description="torch.compile the layers: slower to start, faster with large micro-steps",
    )
    ds_config: Place = Field(
        "zero3",
        description="zero3, zero2, zero1, zero3_offload (the optimizer in main memory), zero3_offload_all (the weights "
        "too), or a path to a DeepSpeed JSON file",
    )
    # LoRA
    lora_rank: Count = Field(0, ge=0, description="train a LoRA adapter of this rank instead of all weights; 0 = all")
    lora_alpha: Count = Field(32, ge=1, description="the adapter's output is scaled by LORA_ALPHA / LORA_RANK")
    lora_dropout: float = Field(0.0, ge=0, lt=1, description="share of the adapter's inputs that is dropped")
    lora_targets: Name = Field(
        "all-linear",
        min_length=1,
        description="layers with an adapter: all-linear, or names as in q_proj,v_proj; with experts, as in "
        "all-linear,experts, also those of a mixture of experts",
    )
    lora_base_bits: Annotated[BaseBits, Bits] = Field(
        16,
        description="bits per frozen weight: 4 = QLoRA (NF4, by bitsandbytes), with DS_CONFIG=zero2 or zero1; "
        "16 = as PRECISION says",
    )
    # Intervals
    logging_steps: MayChange[Count] = Field(1, ge=1, description="steps between lines in metrics.jsonl")
    save_steps: MayChange[Count] = Field(
        100,
        ge=0,
        description="steps between checkpoints; 0 = only if stopped, and after the last step until the export",
    )
    eval_steps: MayChange[Count] = Field(
        0, ge=0, description="steps between validation losses; 0 = only before and after"
    )
    keep_checkpoints: MayChange[Count] = Field(
        2, ge=1, description="number of checkpoints to keep; older ones are removed"
    )
    # Evaluation
    evaluate: MayChange[bool] = Field(
        True, description="evaluate the base model before and the tuned model after training"
    )
    eval_limit: MayChange[Count] = Field(0, ge=0, description="held-out rows to answer; 0 = all")
    max_new_tokens: MayChange[Count] = Field(256, ge=1, description="longest answer in tokens")
    eval_answer: MayChange[Annotated[AskedForm, Lower]] = Field(
        "auto",
        description=r"what answers are compared as: number (after #### if there is one), boxed (\boxed{}), choice (a "
        "letter, yes, no), text (all of it), or auto: the form that the references have",
    )
    eval_batch_size: MayChange[Count] = Field(
        0, ge=0, description="answers generated at once on each GPU; 0 = as many as fit (on CPU: 64)"
    )
    # Machines
    nodes: MayChange[int] = Field(2, ge=1, le=1024, description="number of nodes")
    gpus_per_node: MayChange[int] = Field(2, ge=1, le=GPUS_OF_A_NODE, description="GPUs (on CPU: processes) per node")
    launcher: MayChange[Annotated[Launcher, Lower]] = Field(
        "auto",
        description="local: nodes are processes on this machine; compose: containers; slurm: a job on a cluster; "
        "hosts: the machines in HOSTS; auto: hosts if HOSTS is set, otherwise one of the first two, and says why",
    )
    hosts: NotOfRun[HostNames] = Field(
        "",
        description="machines that are the nodes, reached with ssh, as in hostA,user@hostB:2222, or the path of a "
        "DeepSpeed hostfile; they decide NODES",
    )
    device: MayChange[Annotated[Device, Lower]] = Field(
        "auto", description="cuda, cpu, or auto: cuda if there is a GPU; with auto, models other than `tiny` need one"
    )
    plan: MayChange[Annotated[Planning, Lower]] = Field(
        "refuse", description="if the settings cannot fit the GPUs: refuse (before anything starts) or warn"
    )
    master_port: NotOfRun[int] = Field(
        37171,
        ge=1024,
        le=65534,
        description="port on which the ranks meet; the node programs use the next one. If it is not set, a run without "
        "containers takes the next free pair",
    )
    rendezvous_timeout_s: MayChange[Count] = Field(
        300, ge=10, description="seconds within which nodes and ranks must meet at the start"
    )
    step_timeout_s: MayChange[Count] = Field(
        1800, ge=0, description="seconds without a step after which the run fails; 0 = no limit"
    )
    max_hours: MayChange[float] = Field(
        0.0, ge=0, description="hours after which the run is saved and stopped; 0 = no limit"
    )
    restarts: MayChange[Count] = Field(
        0, ge=0, description="how often a run that failed is started again from its last checkpoint"
    )
    # Slurm
    slurm_partition: NotOfRun[Name] = Field("", description="partition of the job; empty = the cluster's default")
    slurm_account: NotOfRun[Name] = Field("", description="account that the job is charged to")
    slurm_qos: NotOfRun[Name] = Field("", description="quality of service of the job")
    slurm_constraint: NotOfRun[Name] = Field("", description="features that the nodes must have, as in a100&nvlink")
    slurm_time: NotOfRun[TimeLimit] = Field(
        "",
        description="time limit of the job: minutes, hours:minutes:seconds or days-hours; shortly before it the run is "
        "saved and the job queued again, until the run is finished",
    )
    slurm_extra: NotOfRun[Name] = Field(
        "", description="more options of sbatch, separated by spaces, as in --mem=0 --reservation=x"
    )
    # Run
    run_name: NotOfRun[Name] = Field("", description="name of the run directory; empty = date, time and model")
    fresh: NotOfRun[bool] = Field(
        False, description="start a new run instead of resuming; a run with the same RUN_NAME is set aside"
    )
    # Folders
    data_path: NotOfRun[Folder] = Field(Path("data"), description="cache of prepared data sets")
    model_path: NotOfRun[Folder] = Field(Path("models"), description="cache of base models")
    runs_path: NotOfRun[Folder] = Field(Path("runs"), description="run directories")
    # Accounts
    wandb_api_key: NotOfRun[Secret] = Field(SecretStr(""), description="Weights & Biases key; empty = log offline")
    wandb_mode: MayChange[Annotated[Wandb, Lower]] = Field(
        "auto",
        description="auto = online with a key, otherwise offline; online = with what `wandb login` left; or disabled",
    )
    wandb_entity: MayChange[Name] = Field("", description="Weights & Biases team or user")
    wandb_project_name: MayChange[Name] = Field("sft", description="Weights & Biases project")
    wandb_run_name: MayChange[Name] = Field("", description="name of the run in Weights & Biases; empty = RUN_NAME")
    huggingface_api_key: NotOfRun[Secret] = Field(
        SecretStr(""), description="hub token, for gated models such as Llama"
    )

    @field_validator("dataset_config")
    @classmethod
    def usual_config(cls, config: str, info: ValidationInfo) -> str:
        """Return the configuration, or the one that is usual for the data set."""
        return config or CONFIGS.get(info.data.get("dataset", ""), "")

    @classmethod
    def of(cls, settings: Settings, **changes: object) -> Self:
        """Return settings as this class (a stage), with some changes. `is_explicit` stays what it was.

        Raises ValidationError if something is still open that this stage needs.
        """
        made = cls.model_validate(dict(settings) | changes)
        made.model_fields_set.intersection_update(settings.model_fields_set)
        return made

    @property
    def world_size(self) -> int:
        """Ranks over all nodes."""
        return self.nodes * self.gpus_per_node

    @property
    def host_names(self) -> list[str]:
        """The names of the nodes if the launcher takes them from HOSTS; otherwise none."""
        return [host.text for host in hosts.parse(self.hosts)] if self.launcher == "hosts" else []

    @property
    def sequences_per_step(self) -> int:
        """The global batch size: sequences that one optimizer step trains on."""
        return self.global_batch_size or self.batch_size * self.gradient_accumulation_steps * self.world_size

    @property
    def adapted_layers(self) -> list[str]:
        """The names in LORA_TARGETS: `all-linear`, `experts`, or those of linear layers."""
        return [name.strip() for name in self.lora_targets.split(",") if name.strip()]

    @property
    def adapts_experts(self) -> bool:
        """Whether a LoRA adapter reaches the experts, which are not linear layers but stacked in one tensor."""
        return self.lora_rank > 0 and EXPERTS in self.adapted_layers

    @property
    def peak_learning_rate(self) -> float:
        """LEARNING_RATE, or what `auto` means for the model and the way of training."""
        if self.learning_rate is not None:
            return self.learning_rate
        if self.model_name == TINY:
            return TINY_RATE
        return LORA_RATE if self.lora_rank else ALL_WEIGHTS_RATE

    def is_explicit(self, name: str) -> bool:
        """Whether a setting comes from `.env`, the environment or `make`, not from a default or another run."""
        return name in self.model_fields_set

    def freeze(self) -> dict[str, object]:
        """Return the settings as JSON data, without the secrets."""
        return self.model_dump(mode="json", exclude=set(secret_names()))

    def secrets(self) -> dict[str, str]:
        """Return the secrets that are set, by the names they have in the environment of the run's processes."""
        found = {name.upper(): getattr(self, name).get_secret_value() for name in secret_names()}
        return {name: value for name, value in found.items() if value}

    def of_data(self) -> dict[str, object]:
        """Return the settings that prepared data depends on; its manifest holds them, so that it is found again."""
        return self.model_dump(mode="json", include={*marked(OF_DATA)})

    def of_part(self) -> dict[str, object]:
        """Return the settings that each data set of several may have for itself."""
        return self.model_dump(mode="json", include=set(marked(OF_PART)))


@functools.cache
def marked(mark: Mark) -> frozenset[str]:
    """Return the names of the settings that carry a mark."""
    return frozenset(
        name
        for name, field in Settings.model_fields.items()
        if any(isinstance(found, Mark) and mark in found.all for found in field.metadata)
    )


def secret_names() -> list[str]:
    """Return the settings that must never be written anywhere."""
    return [name for name, field in Settings.model_fields.items() if field.annotation is SecretStr]
