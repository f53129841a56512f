"""How a model is asked and where its answers end: the same in evaluation and in the folders that are exported."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import transformers
from tokenizers import AddedToken

from sft.run.records import TemplateFacts


def stops(model: Any, tokenizer: Any, template: TemplateFacts | None) -> list[int]:
    """Return the tokens that end an answer.

    Without facts about the chat template: the tokenizer's EOS, and those of the model's generation configuration.
    """
    if template:
        return template.stops
    configured = model.generation_config.eos_token_id
    configured = configured if isinstance(configured, list) else [configured]
    return sorted({token for token in [tokenizer.eos_token_id, *configured] if token is not None})


def pad_token(model: Any, tokenizer: Any, ends: list[int]) -> int:
    """Return a token to fill up a batch with: the tokenizer's, or an end token if it has none that the model knows.

    Padding is masked, and never a target. But a finished answer is padded while others of its batch go on, so the
    model must have an embedding for it.
    """
    for token in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token is not None and 0 <= token < model.config.get_text_config().vocab_size:
            return int(token)
    return ends[0]


def configuration(model: Any, tokenizer: Any, template: TemplateFacts | None) -> transformers.GenerationConfig:
    """Return the generation configuration to export: as published, but it stops where the trained answers end."""
    found = copy.deepcopy(model.generation_config)
    if template:
        # Always a list: Ollama does not read a single number.
        found.eos_token_id = ends = stops(model, tokenizer, template)
        padding = found.pad_token_id
        if padding is None or not 0 <= padding < model.config.get_text_config().vocab_size:
            found.pad_token_id = pad_token(model, tokenizer, ends)
        # Some versions of transformers take what is marked so from config.json again, which has no such end tokens.
        found._from_model_config = False
    return found


def exported_tokenizer(base: Path, template: TemplateFacts | None, trusted: bool) -> Any:
    """Return the tokenizer of the model in `base` with the chat template that rows were rendered with.

    End marks become special tokens: decoding leaves special tokens out, and with them the mark that ends an answer.
    """
    tokenizer = transformers.AutoTokenizer.from_pretrained(base, trust_remote_code=trusted)
    if template and template.templates:
        texts = dict(template.templates)
        tokenizer.chat_template = texts["default"] if texts.keys() == {"default"} else texts
    if template:
        added = tokenizer.added_tokens_decoder
        marks = [added[token] for token in template.stops if token in added and not added[token].special]
        if marks:
            special = [
                AddedToken(
                    mark.content, special=True, normalized=mark.normalized, lstrip=mark.lstrip, rstrip=mark.rstrip,
                    single_word=mark.single_word,
                )
                for mark in marks
            ]  # fmt: skip
            tokenizer.add_special_tokens({"extra_special_tokens": special}, replace_extra_special_tokens=False)
    return tokenizer
