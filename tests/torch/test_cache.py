"""Answers with the cache that takes its memory once are those that transformers' own gives."""

import json

import pytest
import torch
import transformers
from transformers.cache_utils import DynamicCache

from sft.trainer.distributed import World
from sft.trainer.evaluation import generate, kv_cache
from sft.trainer.model.load import load_model
from tests.settings import decided

from .small_models import HEADS, SIZES, model_of

FAMILIES = {
    "llama": transformers.LlamaConfig(**SIZES, **HEADS),
    "mistral, a sliding window": transformers.MistralConfig(**SIZES, **HEADS, sliding_window=4),
    "gemma 3, sliding and full layers": transformers.Gemma3TextConfig(
        **SIZES, **HEADS, head_dim=8, sliding_window=4, layer_types=["sliding_attention", "full_attention"]
    ),
    "gpt2": transformers.GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4),
    "mamba, which keeps no keys": transformers.MambaConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2),
}
PROMPTS = torch.tensor([[0, 0, 0, 5, 6], [9, 8, 7, 6, 5], [0, 3, 1, 4, 1]])
NEW = 12


def answers(model, **options):
    config = transformers.GenerationConfig(max_new_tokens=NEW, do_sample=False, pad_token_id=0)
    return model.generate(PROMPTS, attention_mask=(PROMPTS != 0).long(), generation_config=config, **options)


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_are_those_of_the_usual_cache(family):
    model = model_of(FAMILIES[family])
    usual = answers(model)
    assert len({tuple(row) for row in usual[:, PROMPTS.shape[1] :].tolist()}) == len(PROMPTS)
    assert torch.equal(answers(model, past_key_values=kv_cache.preallocated(model, PROMPTS.shape[1] + NEW)), usual)


def test_memory_is_taken_once():
    model = model_of(FAMILIES["llama"])
    kept = kv_cache.preallocated(model, PROMPTS.shape[1] + NEW)
    places = set()

    class Watch(transformers.StoppingCriteria):
        def __call__(self, input_ids, scores, **_):
            places.add(tuple(states.data_ptr() for layer in kept.layers for states in (layer.keys, layer.values)))
            return torch.zeros(len(input_ids), dtype=torch.bool)

    answers(model, past_key_values=kept, stopping_criteria=[Watch()])
    assert len(places) == 1
    assert kept.get_seq_length() == PROMPTS.shape[1] + NEW - 1  # nothing follows the last token


def test_only_layers_that_see_everything_are_held_in_full():
    kept = kv_cache.preallocated(model_of(FAMILIES["gemma 3, sliding and full layers"]), 8)
    usual = DynamicCache(config=FAMILIES["gemma 3, sliding and full layers"])
    assert [type(layer) for layer in kept.layers] == [type(usual.layers[0]), kv_cache.PreallocatedLayer]


class Unwatched(transformers.StoppingCriteria):
    """Takes the place of what says how far the evaluation is."""

    batch = None

    def __call__(self, input_ids, scores, **_):
        return torch.zeros(len(input_ids), dtype=torch.bool)


USE_CACHE = {"config.json": ["llama", "gemma 3, sliding and full layers"], "generation_config.json": ["llama"]}


@pytest.mark.parametrize(("file", "family"), [(file, family) for file in USE_CACHE for family in USE_CACHE[file]])
def test_a_model_that_says_it_uses_no_cache_is_evaluated_as_any_other(tmp_path, file, family):
    model_of(FAMILIES[family]).save_pretrained(tmp_path)
    settings = decided(model_name="tiny", max_new_tokens=NEW)
    found = []
    for use_cache in (True, False):
        content = json.loads((tmp_path / file).read_text())
        (tmp_path / file).write_text(json.dumps(content | {"use_cache": use_cache}))
        model = load_model(tmp_path, settings, torch.device("cpu"))
        prompts = [[5, 6], [9, 8, 7, 6, 5], [3, 1, 4, 1]]
        world = World(0, 0, 1, torch.device("cpu"))
        found.append(generate.answer_batch(model, prompts, [1], 0, settings, Unwatched(), world))
    assert found[0] == found[1] and len(found[0][0]) > 1


def test_mpt_which_uses_no_cache_by_itself_is_evaluated(tmp_path):
    model_of(transformers.MptConfig(vocab_size=64, d_model=32, n_heads=4, n_layers=2)).save_pretrained(tmp_path)
    settings = decided(model_name="tiny", max_new_tokens=NEW)
    model = load_model(tmp_path, settings, torch.device("cpu"))
    world = World(0, 0, 1, torch.device("cpu"))
    (answer,) = generate.answer_batch(model, [[5, 6, 7]], [1], 0, settings, Unwatched(), world)
    assert answer == model.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=NEW, do_sample=False, eos_token_id=1,
                                    use_cache=False)[0, 3:].tolist()  # fmt: skip
