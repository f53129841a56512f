"""The trained model as a Hugging Face folder: `final/`, and `adapter/` of a LoRA run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from deepspeed import DeepSpeedEngine

from sft.run import files
from sft.run.directory import Run
from sft.run.records import Prepared, TemplateFacts
from sft.settings.fields import Settings
from sft.trainer import distributed
from sft.trainer.distributed import World
from sft.trainer.model import adapter, generation, implementation, licence, older_names, processor, published
from sft.trainer.model.load import permissions


def export(engine: DeepSpeedEngine, prepared: Prepared, run: Run, settings: Settings, world: World) -> None:
    """Write the trained model to `final/` in Hugging Face layout, complete or not at all (all ranks).

    It is loaded again and compared bit by bit before the folder gets its name: here, not at its user, it must show if a
    file is incomplete or tied weights are missing. A LoRA adapter is written to `adapter/`, and merged into `final/`.
    """
    if engine.zero_optimization_stage() == 3:
        # DeepSpeed's public function writes a .bin file. Only rank 0 gets the weights; with an adapter, only its own.
        weights = engine._zero3_consolidated_16bit_state_dict(exclude_frozen_parameters=bool(settings.lora_rank))
    else:
        weights = engine.module.state_dict()
    if world.is_main:
        base, template = Path(prepared.model), prepared.template
        named = {
            name.removeprefix("model."): value.detach().cpu()
            for name, value in weights.items()
            if name.startswith("model.")  # the others are the head's again, as part of the loss
        }
        model, said = engine.module.model, list[str]()
        if adapter.is_adapted(model):
            with files.whole_folder(run.adapter) as folder:
                said += adapter.write(model, named, base, template, folder, settings)
            model = adapter.merged(model, base, run.adapter, permissions(settings), engine.module.unused)
            named = model.state_dict()
        with files.whole_folder(run.final) as folder:
            said += write_model(model, named, base, template, folder, settings.trust_remote_code)
        for line in said:
            run.warn(line)
    distributed.barrier()


def write_model(
    model: transformers.PreTrainedModel,
    weights: dict[str, torch.Tensor],
    base: Path,
    template: TemplateFacts | None,
    folder: Path,
    trusted: bool,
) -> list[str]:
    """Write weights, configuration and tokenizer to `folder`, load them again, and compare.

    The configuration is that of the model's class, with what the `base` model's publisher set; generation stops where
    answers end according to `template`, which the tokenizer gets too. `trusted`: run the model's own code. Returns
    lines about what others make of it, for the user. Raises RuntimeError if the loaded weights differ.
    """
    with torch.device("meta"):
        whole: Any = type(model)(implementation.undecided(model.config))
    own = transformers.AutoConfig.from_pretrained(base, trust_remote_code=trusted)
    if hasattr(own, "use_cache"):  # training has switched it off
        whole.config.use_cache = own.use_cache
    elif hasattr(whole.config, "use_cache"):  # a multimodal model has it in its part about text, as it was
        del whole.config.use_cache
    # transformers keeps here how it renames what is in a model's files, and writes the files' names again. Under ZeRO-3
    # it also keeps what it would do to names that these files do not have.
    conversions = getattr(model, "_weight_conversions", None)
    whole._weight_conversions = conversions and [one for one in conversions if one.was_used()]
    whole.load_state_dict(weights, strict=False, assign=True)
    whole.tie_weights()
    # transformers reads some generation configurations that it refuses to write, such as a temperature without
    # sampling: save without it, and write its file separately.
    whole.generation_config = transformers.GenerationConfig()
    whole.save_pretrained(folder)
    older_names.add_to_config(base, folder, trusted)
    tokenizer = generation.exported_tokenizer(base, template, trusted)
    said = older_names.write_tokenizer(tokenizer, base, folder, trusted)
    processor.copy(base, template, folder)
    licence.copy(base, folder)
    if model.generation_config is not None:
        configuration = generation.configuration(model, tokenizer, template)
        configuration.to_json_file(folder / transformers.utils.GENERATION_CONFIG_NAME)
    dtype = next(iter(weights.values())).dtype
    reloaded = published.from_pretrained(folder, dtype=dtype, trust_remote_code=trusted)
    loaded = reloaded.state_dict()
    different = [name for name, value in weights.items() if name not in loaded or not torch.equal(loaded[name], value)]
    missing = loaded.keys() - weights.keys() - set(reloaded.all_tied_weights_keys)
    if different or missing:
        raise RuntimeError(f"{folder}: does not load as it was saved (differs in {[*different, *missing][:3]})")
    return said
