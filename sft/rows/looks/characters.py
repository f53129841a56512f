"""Looks at the characters of a text."""

from __future__ import annotations

import re
from collections.abc import Iterator

# UTF-8 that was read as cp1252 or Latin-1: a byte of C2 to F4, and others of 80 to BF behind it. The look is only for
# the usual ones, and not behind a capital: Portuguese has MANHÃ with a quote behind it.
TAIL = "\x80-\xbf€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ"
MOJIBAKE = re.compile(f"(?<![A-ZÀ-Þ])(?:Ã[{TAIL}]|Â[\xa0-\xbf]|â€[{TAIL}]|ðŸ[{TAIL}])")
CONTROL = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f-\x84\x86-\x9f]")
CONTROL_BYTES = bytes(byte for byte in range(128) if CONTROL.match(chr(byte)))
ENTITY = re.compile(r"&(?:amp|lt|gt|quot|apos|nbsp|#\d{2,5}|#x[0-9a-fA-F]{2,4});")
IS_ABOUT_HTML = re.compile(r"</?[a-z]|html|xml|entit|escape|```|`&", re.IGNORECASE)
MARKS = re.compile(
    r"<\|(?:im_start|im_end|start_header_id|eot_id|endoftext|begin_of_text|end_of_text|user|assistant|system"
    r"|START_OF_TURN_TOKEN|END_OF_TURN_TOKEN)\|>|<\|turn>"
    r"|<(?:start|end)_of_turn>|<｜(?:User|Assistant)｜>"
)
HUMAN = re.compile(r"(?:\A|\n)Human:")


def characters(text: str) -> Iterator[str]:
    """Yield what is odd about the characters of a text."""
    if not text.isascii():
        if "\ufffd" in text:
            yield "replacement"
        if MOJIBAKE.search(text):
            yield "mojibake"
        if CONTROL.search(text):
            yield "control"
    elif len(text.encode().translate(None, CONTROL_BYTES)) < len(text):  # many times as fast as the pattern
        yield "control"
    if "&" in text and ENTITY.search(text) and not IS_ABOUT_HTML.search(text):
        yield "entities"


def holds_marks(text: str) -> bool:
    """Tell whether a text holds the role marks of a chat template, whichever model's."""
    if ("<|" in text or "_of_turn>" in text or "<｜" in text) and MARKS.search(text):
        return True
    return (  # other templates, by two marks that their texts always hold
        ("[INST]" in text and "[/INST]" in text)
        or ("### Instruction:" in text and "### Response:" in text)
        or ("### Human:" in text and "### Assistant:" in text)
        or ("\nAssistant:" in text and HUMAN.search(text) is not None)
        or ("USER:" in text and "ASSISTANT:" in text)
    )
