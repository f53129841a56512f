"""What is known of the models that templates belong to: the tokenizer that fits, EOS, and where generation stops.

Taken from the models' own configurations and cards, not from what this project finds out about a template.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

LLAMA_3 = ("<|eot_id|>", "<|eom_id|>", "<|end_of_text|>")
COHERE = "<|END_OF_TURN_TOKEN|>"
HUNYUAN = "<｜hy_place▁holder▁no▁2｜>"
GLM = ("<|endoftext|>", "<|user|>", "<|observation|>")


@dataclass(frozen=True)
class Family:
    """Models with one kind of marks."""

    name: str
    mark: str  # a regular expression that only templates of this family hold
    eos: str  # as tokenizer_config.json has it
    stops: tuple[str, ...]  # texts of the tokens in generation_config.json at which generation ends
    tokenizer: str = "stand-in"  # the real one, or another model's with this family's marks added
    bos: str | None = None


# The first family whose mark a template holds is its family.
FAMILIES = (
    Family("gpt-oss", r"<\|return\|>", "<|return|>", ("<|return|>", "<|call|>", "<|endoftext|>"), "gptoss"),
    Family("Muse", r"<\|eom\|>", "<|eot|>", ("<|eot|>", "<|eom|>"), bos="<|begin_of_text|>"),
    Family("Solar Open", r"<\|tool_call:begin\|>", "<|endoftext|>", ("<|end|>", "<|calls|>", "<|endoftext|>")),
    Family("Apriel 1.5", r"<\|begin_content\|>|<\|content\|>", "<|end|>", ("<|end|>",), bos="<s>"),
    Family("Phi-3", r"<\|end\|>", "<|endoftext|>", ("<|end|>", "<|endoftext|>", "<|assistant|>"), "llama2", "<s>"),
    Family("Llama 3", r"<\|eot_id\|>", "<|eot_id|>", LLAMA_3, "llama3_1", "<|begin_of_text|>"),
    Family("Gemma 4", r"<turn\|>", "<eos>", ("<eos>", "<turn|>", "<|tool_response>"), "gemma3", "<bos>"),
    Family("Gemma", r"<end_of_turn>", "<eos>", ("<eos>", "<end_of_turn>"), "gemma3", "<bos>"),
    Family("Idefics", r"<end_of_utterance>", "<end_of_utterance>", ("<end_of_utterance>",), bos="<|begin_of_text|>"),
    Family(
        "DeepSeek", r"<｜Assistant｜>", "<｜end▁of▁sentence｜>", ("<｜end▁of▁sentence｜>",), "deepseek_v3",
        "<｜begin▁of▁sentence｜>",
    ),
    Family("Spark", r"<\|Bot\|>", "<｜end▁of▁sentence｜>", ("<｜end▁of▁sentence｜>",), bos="<｜start▁of▁sentence｜>"),
    Family("DeepSeek Coder", r"<\|EOT\|>", "<|EOT|>", ("<|EOT|>",), "deepseek_v3", "<｜begin▁of▁sentence｜>"),
    Family(
        "DeepSeek V2", r"begin▁of▁sentence.*Assistant:|bos_token.*User: .*Assistant: .*eos_token",
        "<｜end▁of▁sentence｜>", ("<｜end▁of▁sentence｜>",), "deepseek_v3", "<｜begin▁of▁sentence｜>",
    ),
    Family("Cohere", re.escape(COHERE), COHERE, (COHERE,), bos="<BOS_TOKEN>"),
    Family("Granite", r"<\|end_of_role\|>", "<|end_of_text|>", ("<|end_of_text|>",)),
    Family("Apertus", r"<\|assistant_end\|>", "<|assistant_end|>", ("<|assistant_end|>", "</s>"), bos="<s>"),
    Family("Kimi K3", r"<\|end_of_msg\|>", "<|end_of_msg|>", ("<|end_of_msg|>", "[EOS]"), bos="[BOS]"),
    Family("Kimi", r"<\|im_assistant\|>", "[EOS]", ("<|im_end|>", "[EOS]"), bos="[BOS]"),
    Family("MiniCPM5", r"<tool_def_sep>", "</s>", ("</s>", "<|im_end|>"), bos="<s>"),
    Family("GLM", r"<\|observation\|>|\[gMASK\]", "<|endoftext|>", GLM),
    Family("GLM Edge", r"<\|assistant\|>", "<|endoftext|>", GLM),
    Family("Hunyuan", r"hy_Assistant|hy_User", HUNYUAN, (HUNYUAN, "<｜hy_eos｜>")),
    Family("Ling", r"<\|role_end\|>", "<|role_end|>", ("<|role_end|>", "<|endoftext|>")),
    Family("MiniMax", r"\[e~\[", "[e~[", ("[e~[",), bos="]~!b["),
    Family("MiniMax M1", r"<end_of_sentence>", "<end_of_sentence>", ("<end_of_sentence>",), bos="<begin_of_document>"),
    Family("Seed", r"<seed:eos>", "<seed:eos>", ("<seed:eos>",), bos="<seed:bos>"),
    Family("GigaChat", r"<\|message_sep\|>", "</s>", ("</s>", "<|message_sep|>"), bos="<s>"),
    Family("TeleChat", r"<_end>", "<_end>", ("<_end>",), bos="<_start>"),
    Family("Laguna", r"</assistant>", "</assistant>", ("</assistant>", "<|endoftext|>")),
    Family("Ernie", r"end_of_sentence", "</s>", ("</s>", "<|end_of_sentence|>"), bos="<s>"),
    Family("Reka", r"<sep>", "<sep>", ("<sep>", "<|endoftext|>")),
    Family("Orion", r"Human: ", "</s>", ("</s>",), "llama2", "<s>"),
    Family("Nemotron Nano 2", r"<SPECIAL_1[0-9]>", "<SPECIAL_12>", ("<SPECIAL_12>", "<SPECIAL_11>"), bos="<s>"),
    Family("Mistral", r"\[INST\]", "</s>", ("</s>",), "llama2", "<s>"),
    Family("Baichuan", r"reserved_10[67]", "</s>", ("</s>", "<reserved_106>")),
    Family("Yi", r"IM_START_YI", "<|im_end|>", ("<|im_end|>", "<|endoftext|>")),
    Family("ChatML with BOS", r"bos_token.*<\|im_start\|>", "<|im_end|>", ("<|im_end|>",), bos="<|startoftext|>"),
    Family("ChatML", r"<\|im_end\|>", "<|im_end|>", ("<|im_end|>", "<|endoftext|>"), "qwen3"),
    Family("MiniCPM", r"<AI>", "</s>", ("</s>",), "llama2", "<s>"),
    Family("RWKV", r"", "</s>", ("</s>",), bos="<s>"),
)  # fmt: skip

# Marks of all families, so that a stand-in for a tokenizer has each of them as one token.
MARKS = re.compile(
    r"<[|｜][^|｜<>{}\s]{1,40}[|｜]>|<\|[a-z_]+>|<[a-z_]+\|>|<\|\"\|>|\[/?[A-Z_]{3,20}\]|</?seed:[a-z_]+>|</?s>"
    r"|\[gMASK\]|<sop>|<(?:start|end)_of_(?:turn|utterance)>|<(?:begin|end)(?:ning)?_of_[a-z]+>|\[e~\[|\]~b\]|\]~!b\["
    r"|<_(?:user|bot|end|start)>|<reserved_10[67]>|<SPECIAL_1[0-9]>|<AI>|<sep>|</?(?:assistant|user|system)>|</?think>"
)


def family_of(template: str) -> Family:
    """Return the family of a template."""
    return next(family for family in FAMILIES if re.search(family.mark, template, re.DOTALL))


def marks_of(template: str) -> set[str]:
    """Return the texts in a template that are tokens of its model."""
    return set(MARKS.findall(template))
