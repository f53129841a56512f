"""How much-used models write one question and one answer, by hand from what their makers say of the format.

For each template: the end of the text that generation starts from, and the targets, {} being the answer.
"""

from __future__ import annotations

EXPECTED = {
    "trl:qwen2_5": ("<|im_start|>assistant\n", "{}<|im_end|>"),
    "trl:qwen2_5_vl": ("<|im_start|>assistant\n", "{}<|im_end|>"),
    "trl:qwen3": ("<|im_start|>assistant\n", "<think>\n\n</think>\n\n{}<|im_end|>"),
    "trl:qwen3_instruct_2507": ("<|im_start|>assistant\n", "{}<|im_end|>"),
    "trl:qwen3_5_think": ("<|im_start|>assistant\n<think>\n", "\n</think>\n\n{}<|im_end|>"),
    "trl:llama3": ("<|start_header_id|>assistant<|end_header_id|>\n\n", "{}<|eot_id|>"),
    "trl:llama3_1": ("<|start_header_id|>assistant<|end_header_id|>\n\n", "{}<|eot_id|>"),
    "trl:llama3_2": ("<|start_header_id|>assistant<|end_header_id|>\n\n", "{}<|eot_id|>"),
    "trl:gemma": ("<start_of_turn>model\n", "{}<end_of_turn>"),
    "trl:gemma3": ("<start_of_turn>model\n", "{}<end_of_turn>"),
    "xinference:code-llama-instruct": ("[/INST]", "{}</s>"),
    "xinference:mistral-instruct-v0.3": ("[/INST]", "{}</s>"),
    "llama.cpp:mistralai-Mistral-Nemo-Instruct-2407": ("[/INST]", "{}</s>"),
    "trl:phi3": ("<|assistant|>\n", "{}<|end|>"),
    "trl:phi3_5": ("<|assistant|>\n", "{}<|end|>"),
    "trl:glm4moe": ("<|assistant|>", "\n<think></think>\n{}<|user|>"),
    "xinference:glm4-0414": ("<|assistant|>", "\n{}<|user|>"),
    "trl:deepseekv3": ("<｜Assistant｜><think>\n", "\n</think>\n\n{}<｜end▁of▁sentence｜>"),
    "trl:deepseek_r1_distill": ("<｜Assistant｜><think>\n", "\n</think>\n\n{}<｜end▁of▁sentence｜>"),
    "trl:gptoss": ("<|start|>assistant", "<|channel|>final<|message|>{}<|return|>"),
    "trl:cohere": ("<|CHATBOT_TOKEN|>", "{}<|END_OF_TURN_TOKEN|>"),
    "trl:cohere2": ("<|CHATBOT_TOKEN|><|START_RESPONSE|>", "{}<|END_RESPONSE|><|END_OF_TURN_TOKEN|>"),
    "llama.cpp:ibm-granite-granite-3.3-2B-Instruct": (
        "<|start_of_role|>assistant<|end_of_role|>", "{}<|end_of_text|>",
    ),
    "llama.cpp:ibm-granite-granite-4.0": ("<|start_of_role|>assistant<|end_of_role|>", "{}<|end_of_text|>"),
    "llama.cpp:HuggingFaceTB-SmolLM3-3B": ("<|im_start|>assistant\n", "{}<|im_end|>"),
    "xinference:Yi-1.5-chat-16k": ("<|im_start|>assistant\n", "{}<|im_end|>"),
    "llama.cpp:Apertus-8B-Instruct": ("<|assistant_start|>", "{}<|assistant_end|>"),
}  # fmt: skip
