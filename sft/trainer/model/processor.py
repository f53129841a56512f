"""The processor of a multimodal model: its files, which go with the model, and its chat template."""

from __future__ import annotations

import shutil
from pathlib import Path

from sft import template_files
from sft.model_files import read_json
from sft.run import files
from sft.run.records import TemplateFacts

FILES = "*processor_config.json"  # for pictures, for films, and for the processor as a whole


def copy(base: Path, template: TemplateFacts | None, folder: Path) -> None:
    """Copy the files of the processor in `base` to `folder`, with the chat template that rows were rendered with.

    A processor has its template in a file of its own, and reads it before that of the tokenizer. It takes only one.
    """
    for path in sorted(base.glob(FILES)):
        shutil.copyfile(path, folder / path.name)
    texts = dict(template.templates) if template else {}
    for name in template_files.OF_PROCESSOR:
        content = read_json(base / name)
        if not isinstance(content, dict) or "chat_template" not in content:
            continue
        if template and texts.keys() != {"default"}:
            del content["chat_template"]
        elif texts:
            content["chat_template"] = texts["default"]
        if content:
            files.write_json(folder / name, content)
