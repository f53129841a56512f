"""The files of a model's weights: which are loaded, and what names, headers and sizes say is wrong with them."""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

PICKLED = (".bin", ".pt", ".pth", ".ckpt")
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"  # the index says which weights are in which file
PICKLED_SINGLE, PICKLED_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
POINTER = b"version https://git-lfs"  # the beginning of a file that git-lfs has not fetched
UNFETCHED = "is a git-lfs pointer and not the file (`git lfs pull`)"
HEADER_LENGTH_BYTES = 8  # a safetensors file begins with its header's length
LONGEST_HEADER = 100_000_000  # bytes; safetensors itself refuses a longer one
# Types of quantised weights. Models also have a few whole numbers that are none, such as masks.
FLOAT8 = ("F8_", "F4", "F6_")
WHOLE_NUMBERS = ("I8", "U8", "I16", "U16", "I32", "U32")
MOST_WHOLE_NUMBERS = 0.2  # of a model's bytes
PIECE_BYTES = 2**12

AGAIN = "fetch the model again"
ORIGINAL = "use the model with its original weights (LORA_BASE_BITS=4 quantises them as they are loaded)"
OTHER_WEIGHTS = (  # a file's name, what it is, and what to do
    ("*.gguf", "llama.cpp's format", "use the model with safetensors"),
    (
        "zero_to_fp32.py",
        "DeepSpeed's shards",
        "`python zero_to_fp32.py . . --safe_serialization` there joins them",
    ),
    (
        "*.distcp",
        "shards of torch.distributed.checkpoint",
        "have the program that wrote them export the model for transformers",
    ),
    ("*_fsdp_*", "FSDP's shards", "`accelerate merge-weights` joins them"),
)
Problem = tuple[str, str]  # what is wrong, and what to do
ADAPTER = "adapter_config.json"  # peft's; where it is, transformers loads the adapter too
ALONE: Problem = "is an adapter without its base model", "merge it into the base model, and give that folder"
BOTH: Problem = (
    f"holds an adapter beside a whole model ({ADAPTER}), and transformers would load both",
    "give a folder with the model alone, or one with the adapter merged into it",
)


def problem(folder: Path, allow_pickle: bool) -> Problem | None:
    """Return what is wrong with the weights in a folder, or None. Pickled files can run any program when loaded."""
    if (folder / SINGLE).is_symlink() and not (folder / SINGLE).exists():
        return f"{SINGLE} is a link to a file that is not there", AGAIN
    if what := bad_index(folder / INDEX):
        return what, AGAIN
    if (folder / ADAPTER).is_file() and (weight_files(folder) or pickled_files(folder)):
        return BOTH
    if names := weight_files(folder):
        if what := next(filter(None, (broken(folder, name, INDEX) for name in names)), ""):
            return what, AGAIN
        if what := twice(folder, names):
            return what, AGAIN
        return (what, ORIGINAL) if (what := quantised(folder, names)) else None
    if names := pickled_files(folder):
        if not allow_pickle:
            what = f"its weights are pickled ({names[0]}), which can run any program when they are loaded"
            return what, "take a model with safetensors, or set ALLOW_PICKLE=1 if you trust its source"
        what = next(filter(None, (broken(folder, name, PICKLED_INDEX) for name in names)), "")
        return (what, AGAIN) if what else None
    return not_loaded(folder)


def not_loaded(folder: Path) -> Problem:
    """Return what to say of a folder in which no file has the name of weights."""
    if (folder / ADAPTER).is_file():
        return ALONE
    if partial := next(folder.rglob("*.incomplete"), None):
        return f"its download has not ended ({partial.name})", AGAIN
    for pattern, what, remedy in OTHER_WEIGHTS:
        if found := next(folder.glob(pattern), None):
            return f"has its weights in {what} alone ({found.name})", remedy
    others = sorted(path.name for path in folder.glob("*.safetensors"))
    others += sorted(path.name for path in folder.iterdir() if path.suffix in PICKLED)
    if others:
        return f"has no weights under the names that are loaded: {SINGLE}, or {INDEX} (it has {others[0]})", AGAIN
    remedy = "fetch its safetensors files, or set ALLOW_PICKLE=1 if it has pickled ones that you trust"
    return "has no weights in safetensors", remedy


def weight_files(folder: Path) -> list[str]:
    """Return the names of the safetensors files that a model is loaded from; an empty list if it has none."""
    if (folder / SINGLE).is_file():  # loaded even if there is an index too
        return [SINGLE]
    return named_in(folder / INDEX)


def passed_by(folder: Path) -> list[str]:
    """Return the files that an index names and that are not loaded: one of the name for a single file is there too."""
    names = named_in(folder / INDEX) if (folder / SINGLE).is_file() else []
    return [name for name in names if name != SINGLE and (folder / name).is_file()]


def pickled_files(folder: Path) -> list[str]:
    """Return the names of the pickled files that a model without safetensors files is loaded from."""
    if (folder / PICKLED_SINGLE).is_file():
        return [PICKLED_SINGLE]
    return named_in(folder / PICKLED_INDEX)


def named_in(index: Path) -> list[str]:
    """Return the names of the files in an index; an empty list if there is none."""
    content = read(index)
    weights = content.get("weight_map") if isinstance(content, dict) else None
    return sorted({str(name) for name in weights.values()}) if isinstance(weights, dict) else []


def bad_index(index: Path) -> str:
    """Return what is wrong with an index, or "": transformers reads both of its parts."""
    if not index.is_file() or (index.parent / SINGLE).is_file():
        return ""
    content = read(index)
    if isinstance(content, dict) and named_in(index) and isinstance(content.get("metadata"), dict):
        return ""
    return f"{index.name} is not an index of weights (a JSON object with metadata and weight_map)"


def broken(folder: Path, name: str, index: str) -> str:
    """Return what is wrong with a file of weights: missing, not fetched or incomplete; "" if nothing is."""
    path = folder / name
    if not path.is_file():
        return f"{name} is missing, which {index} names"
    if path.with_name(f"{name}.aria2").exists():  # aria2 gives a file its size at the start, filled with zeros
        return f"the download of {name} has not ended ({name}.aria2)"
    if is_pointer(path):
        return f"{name} {UNFETCHED}"
    if path.suffix in PICKLED:
        # Files of torch before 1.6 are no archives. They begin as any pickle does.
        is_whole = zipfile.is_zipfile(path) or begins_as_pickle(path)
        return "" if is_whole else f"{name} is not a complete file of torch.save"
    try:
        tensors, start = header(path)
    except BadHeader:
        return f"{name} is not a complete safetensors file"
    whole, size = start + max((tensor.end for tensor in tensors.values()), default=0), path.stat().st_size
    return "" if size == whole else f"{name} has {size:,} bytes of {whole:,}"


def is_pointer(path: Path) -> bool:
    """Tell whether a file is what git leaves in place of one that git-lfs has not fetched."""
    with path.open("rb") as file:
        return file.read(len(POINTER)) == POINTER


def begins_as_pickle(path: Path) -> bool:
    """Tell whether a file begins as a pickle does. An archive that was cut does not."""
    with path.open("rb") as file:
        return file.read(1) == b"\x80"


def twice(folder: Path, names: list[str]) -> str:
    """Return which weights are in two files, or "". The last file is loaded, whichever the index names."""
    first: dict[str, str] = {}
    for name in names:
        for tensor in header(folder / name)[0]:
            if first.setdefault(tensor, name) != name:
                return f"{tensor} is in {first[tensor]} and in {name}"
    return ""


def quantised(folder: Path, names: list[str]) -> str:
    """Return how weights are quantised already as their types say, or "". Loading would take them as they are."""
    tensors = [tensor for name in names for tensor in header(folder / name)[0].values()]
    if found := next((tensor.dtype for tensor in tensors if tensor.dtype.startswith(FLOAT8)), ""):
        return f"its weights are quantised already ({found})"
    whole = [tensor for tensor in tensors if tensor.dtype in WHOLE_NUMBERS]
    if sum(tensor.bytes for tensor in whole) > MOST_WHOLE_NUMBERS * sum(tensor.bytes for tensor in tensors):
        return f"its weights are quantised already ({whole[0].dtype})"
    return ""


def zeros(folder: Path, names: list[str], dimensions: int = 2) -> list[str]:
    """Return the matrices whose bytes are all zero: a file that was given its size and not written whole has such.

    `dimensions`: the fewest that a weight has to have; 1 for biases too.
    """
    found = []
    for path in (folder / name for name in names if name.endswith(".safetensors")):
        tensors, start = header(path)
        with path.open("rb") as file:
            for name, tensor in tensors.items():
                if (
                    len(tensor.shape) >= dimensions
                    and tensor.bytes
                    and is_zero(file, start + tensor.begin, tensor.bytes)
                ):
                    found.append(name)
    return found


def is_zero(file: BinaryIO, start: int, length: int) -> bool:
    """Tell whether all bytes of a part of a file are zero. The middle is read first, which hardly ever is."""
    pieces = [(start + length // 2, min(PIECE_BYTES, length - length // 2))]
    pieces += [(place, min(2**24, start + length - place)) for place in range(start, start + length, 2**24)]
    for place, size in pieces:
        file.seek(place)
        if file.read(size).count(0) != size:
            return False
    return True


class BadHeader(Exception):
    """A file does not begin with the header of a safetensors file."""


@dataclass(frozen=True)
class StoredTensor:
    """What a safetensors file's header says of a tensor: shape, type, and its place in bytes behind the header."""

    shape: tuple[int, ...]
    dtype: str  # as in F32, BF16 or F8_E4M3
    begin: int
    end: int

    @property
    def bytes(self) -> int:
        """Bytes that it takes."""
        return self.end - self.begin


def header(path: Path) -> tuple[dict[str, StoredTensor], int]:
    """Return a safetensors file's tensors by name, and the bytes before the first one. Raises BadHeader, OSError."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(HEADER_LENGTH_BYTES), "little")
        if size < HEADER_LENGTH_BYTES + length or length > LONGEST_HEADER:
            raise BadHeader
        try:
            content = json.loads(file.read(length))
            tensors = {
                name: StoredTensor(tuple(entry["shape"]), str(entry["dtype"]), *map(int, entry["data_offsets"]))
                for name, entry in content.items()
                if name != "__metadata__"
            }
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            raise BadHeader from None
    return tensors, HEADER_LENGTH_BYTES + length


def read(path: Path) -> object:
    """Return a JSON file's content, or None if it cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
