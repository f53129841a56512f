"""What other programs read in an exported folder: the base's names and vocabulary beside what transformers 5 writes.

Servers and converters with transformers 4, or with readers of their own, know `rope_theta`, `torch_dtype`,
`additional_special_tokens` and `PreTrainedTokenizerFast`, some need `tokenizer.model`, and some look for the chat
template in tokenizer_config.json alone. transformers 5 reads these names but writes others. Without the old ones some
programs fail, and some take a default without a word. Whatever reads the base shall read what was trained from it, too.

What is added is kept only if transformers loads what was trained with it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import transformers
from transformers.tokenization_utils_base import TOKENIZER_CONFIG_FILE
from transformers.utils import CONFIG_NAME

from sft.model_files import read_json
from sft.run import files

Json = dict[str, Any]
Place = tuple[str, ...]  # the keys that lead to a value

TYPE, OLD_TYPE = "dtype", "torch_dtype"
MAP = "auto_map"  # where a model's own code is: beside it, once it is exported
NOT_THE_MODELS = (TYPE, MAP, "transformers_version", "_name_or_path", "_commit_hash")  # of an export, not of the model
ATTENTION = "attn_implementation"  # with marks before and behind it; not every machine has each
CLASS, OLD_CLASS = "TokenizersBackend", "PreTrainedTokenizerFast"
ADDED = "added_tokens_decoder"
TEMPLATE = "chat_template"
OF_A_LOADING = ("is_local", "local_files_only")  # how a tokenizer was found; transformers 5 writes it too
SAID_ELSEWHERE = (TEMPLATE, MAP, "name_or_path", "tokenizer_file", "special_tokens_map_file", *OF_A_LOADING)
RENAMED = (ADDED, "extra_special_tokens", "model_specific_special_tokens", "additional_special_tokens")
SENTENCEPIECE = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model")


def add_to_config(base: Path, folder: Path, trusted: bool) -> None:
    """Keep the base's own keys and values in the config.json in `folder` where transformers has written others."""
    path = folder / CONFIG_NAME
    own, written = read_json(base / CONFIG_NAME), read_json(path)
    if not isinstance(own, dict) or not isinstance(written, dict):
        return
    meant = config_of(folder, trusted)

    def is_same(content: Json) -> bool:
        write(path, content)
        try:
            return config_of(folder, trusted) == meant
        except Exception:  # of any kind: each family checks its own values
            return False

    places = list(different(own, written))
    missing = [(place, value) for place, value, is_missing in places if is_missing]
    singles = [[(place, value)] for place, value, _ in places]
    kept = written
    for some in [missing, *singles, *singles]:  # twice: some only mean the same beside another
        content = with_values(kept, some)
        if content != kept and is_same(content):
            kept = content
    write(path, kept)


def config_of(folder: Path, trusted: bool) -> Json:
    """Return the configuration in a folder as transformers understands it."""
    content: Json = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=trusted).to_dict()
    return content


def different(own: Json, written: Json, inside: Place = (), dtype: object = None) -> Iterator[tuple[Place, Any, bool]]:
    """Yield where a configuration as written differs from the base's own, the base's value, and whether it is missing.

    Also in the configurations of a model's parts. Under its old name the type of the weights is the one written now.
    """
    dtype = written.get(TYPE, dtype)
    for name, value in own.items():
        if name == OLD_TYPE:
            value = dtype or value
        if isinstance(value, dict) and isinstance(written.get(name), dict) and name.endswith("_config"):
            yield from different(value, written[name], (*inside, name), dtype)
        elif name in NOT_THE_MODELS or ATTENTION in name:
            continue
        elif name not in written or written[name] != value:
            yield (*inside, name), value, name not in written


def with_values(content: Json, values: list[tuple[Place, Any]]) -> Json:
    """Return a copy of JSON data with these values at their places."""
    whole: Json = json.loads(json.dumps(content))
    for (*parts, name), value in values:
        place = whole
        for part in parts:
            place = place[part]
        place[name] = value
    return whole


def write_tokenizer(tokenizer: Any, base: Path, folder: Path, trusted: bool) -> list[str]:
    """Write a tokenizer of the base's to `folder` so that it loads as it is, also under older names.

    What the base says under names that transformers does not write again may decide how text is cut into tokens
    (`legacy`). Returns a line for the user if no way to write it loads as the tokenizer that was trained with.
    """
    tokenizer.save_pretrained(folder)
    path = folder / TOKENIZER_CONFIG_FILE
    written, own = read_json(path), read_json(base / TOKENIZER_CONFIG_FILE)
    if not isinstance(written, dict):
        return []
    copied = [folder / name for name in SENTENCEPIECE if (base / name).is_file() and not (folder / name).exists()]
    for file in copied:
        shutil.copyfile(base / file.name, file)
    older = under_older_names(written, tokenizer)
    said = own.items() if isinstance(own, dict) else ()
    of_base = {name: value for name, value in said if name not in (*SAID_ELSEWHERE, *RENAMED)}
    meant = facts(tokenizer)
    for content in (of_base | older, older, of_base | written, written):
        write(path, content)
        try:
            if facts(load(folder, trusted)) == meant:
                return []
        except Exception:  # of any kind: the code of a tokenizer
            continue
    for file in copied:
        file.unlink()
    return [f"{folder.name}/: its tokenizer does not load as the one that was trained with; use the base model's"]


def under_older_names(written: Json, tokenizer: Any) -> Json:
    """Return a tokenizer's configuration under the names that transformers 4 reads, and 5 too."""
    content = {name: value for name, value in written.items() if name not in OF_A_LOADING}
    if template := tokenizer.chat_template:
        # Beside chat_template.jinja, with the same text: Ollama and text-generation-inference know only this place.
        named = template.items() if isinstance(template, dict) else ()
        content[TEMPLATE] = [{"name": name, "template": text} for name, text in named] or template
    if content.get("tokenizer_class") == CLASS:
        content["tokenizer_class"] = OLD_CLASS  # not the base's, with which transformers 4 may tokenise otherwise
    others = content.pop("extra_special_tokens", None)
    if others and isinstance(others, list):
        content["additional_special_tokens"] = others
    if named := content.pop("model_specific_special_tokens", None):
        content["extra_special_tokens"] = named
    content[ADDED] = {
        str(token): {
            "content": added.content, "lstrip": added.lstrip, "normalized": added.normalized, "rstrip": added.rstrip,
            "single_word": added.single_word, "special": added.special,
        }
        for token, added in tokenizer.added_tokens_decoder.items()
    }  # fmt: skip
    code = content.get(MAP)
    if isinstance(code, dict) and isinstance(place := code.get("AutoTokenizer"), str):
        # transformers reads a pair, of which the second is the faster one.
        content[MAP] = code | {"AutoTokenizer": [None, place] if is_fast(tokenizer) else [place, None]}
    return content


def load(folder: Path, trusted: bool) -> Any:
    """Return the tokenizer in a folder."""
    return transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=trusted)


def is_fast(tokenizer: Any) -> bool:
    """Tell whether a tokenizer is one of the library of that name, which writes tokenizer.json."""
    return hasattr(tokenizer, "backend_tokenizer")


def facts(tokenizer: Any) -> tuple[object, ...]:
    """Return what makes two tokenizers the same."""
    return (
        type(tokenizer).__name__, backend(tokenizer) if is_fast(tokenizer) else tokenizer.get_vocab(),
        tokenizer.special_tokens_map, tokenizer.all_special_ids, tokenizer.chat_template, tokenizer.model_max_length,
        tokenizer.padding_side, tokenizer.model_input_names,
    )  # fmt: skip


def backend(tokenizer: Any) -> Json:
    """Return what a fast tokenizer cuts text by.

    Some classes look for a special token in raw text, whatever its file says: an end mark that `add_tokens` made is
    looked for in normalised text until it is special. It is found in the same places where normalising leaves it alone.
    """
    content: Json = json.loads(tokenizer.backend_tokenizer.to_str())
    normalizer = tokenizer.backend_tokenizer.normalizer
    for added in content["added_tokens"]:
        mark = added["content"]
        if normalizer is None or normalizer.normalize_str(f"a {mark} b") == mark.join(
            (normalizer.normalize_str("a "), normalizer.normalize_str(" b"))
        ):
            added["normalized"] = False
    return content


def write(path: Path, content: Json) -> None:
    """Write JSON data as transformers does: config.json may have infinite numbers."""
    files.write_whole(path, json.dumps(content, indent=2, sort_keys=True) + "\n", flushed=False)
