"""One spelling for texts that mean the same: characters, white space, LaTeX and Markdown."""

from __future__ import annotations

import functools
import re
import unicodedata

PASSES = 50  # of rewriting LaTeX, from the inside out: deeper nesting stays as it is
DASHES = "\u2010\u2011\u2012\u2013\u2212"  # hyphens, the en dash and the minus sign
ONE_CHARACTER = str.maketrans(dict.fromkeys(DASHES, "-") | dict(zip("⁄∕‘’“”ʼ", "//''\"\"'", strict=True)))
INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufe0e\ufe0f\ufeff]")
RAISED, LOWERED = re.compile("[⁰¹²³⁴-⁹⁺⁻]+"), re.compile("[₀-₉]+")
AFTER_DIGIT = re.compile("(?<=[0-9])(?=[¼-¾⅐-⅞↉])")
OTHER_DIGIT = re.compile(r"[^\D0-9]")
EMPHASIS = re.compile(r"(?<![\w*`])(\*{1,3}|_{1,3}|`)(?=[^\s*_`])([^\n]{0,200}?[^\s*_`])\1(?![\w*`])")
WRAPPED = re.compile(r"(\*\*|[*`\"']|\$\$?)(.+)\1", re.DOTALL)

# LaTeX: what is replaced everywhere, in this order.
SYMBOLS = [
    (re.compile(pattern), to)
    for pattern, to in [
        (r"\{,\}|,\\!", ","),  # thousands separators
        (r"\\(?:left|right|[bB]igg?[lr]?|displaystyle|!)(?![a-zA-Z])", ""),
        (r"(?<!\\)\\[,;: ()\[\]]|\\q?quad(?![a-zA-Z])|(?<!\\)~", " "),
        (r"\^?\{?\\(?:circ|degree)(?![a-zA-Z])\}?", "°"),
        (r"\\(?:times)(?![a-zA-Z])", "×"),
        (r"\\(?:cdot)(?![a-zA-Z])", "·"),
        (r"\\(?:leq?)(?![a-zA-Z])", "≤"),
        (r"\\(?:geq?)(?![a-zA-Z])", "≥"),
        (r"\\(?:neq?)(?![a-zA-Z])", "≠"),
        (r"\\(?:pm)(?![a-zA-Z])", "±"),
        (r"\\(?:pi)(?![a-zA-Z])", "π"),
        (r"\\(?:infty)(?![a-zA-Z])", "∞"),
        (r"\\([%$#&_{}])", r"\1"),
    ]
]
ARGUMENT = r"\s*(?:\{([^{}]*)\}|([0-9a-zA-Z]))"
FRACTION = re.compile(r"\\[dtc]?frac" + ARGUMENT + ARGUMENT)
ROOT = re.compile(r"\\sqrt" + ARGUMENT)
POWER = re.compile(r"([\^_])\{([^{}]*)\}")
# What needs no brackets: e^{2x} is not e^2x, and √{2x} is not √2x, but x_{max} is x_max.
ONE, NAME = re.compile(r"-?(?:\d+(?:[.,]\d+)*|\w)|"), re.compile(r"-?[\w.,]+|")
WRITING = re.compile(
    r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mathit|mathsf|mbox|operatorname|boxed|fbox)\s*\{([^{}]*)\}"
)


def usual(text: str) -> str:
    """Return a text with one form of each character: NFKC, digits 0-9, one minus sign, straight quotes.

    What NFKC would turn into another number is written out before: `10²` becomes `10^2`, `2½` becomes `2 1/2`.
    """
    if text.isascii():
        return text
    text = LOWERED.sub(r"_\g<0>", RAISED.sub(r"^\g<0>", text))
    text = unicodedata.normalize("NFKC", AFTER_DIGIT.sub(" ", text)).translate(ONE_CHARACTER)
    text = OTHER_DIGIT.sub(lambda found: str(unicodedata.decimal(found[0])), text)
    return INVISIBLE.sub("", text)


def key(text: str) -> str:
    """Return what a text is compared by: `usual` characters, without case, extra white space and what encloses it."""
    return " ".join(trimmed(usual(text)).split()).casefold()


def trimmed(text: str) -> str:
    """Return a text without the quotes, dollar signs or Markdown around all of it, and without a final full stop."""
    text = text.strip()
    while True:
        inner = text if text.endswith("..") else text.rstrip(".。")
        wrapped = WRAPPED.fullmatch(inner)
        if wrapped and wrapped[1] not in wrapped[2]:
            inner = wrapped[2]
        inner = inner.strip()
        if inner in ("", text):
            return text
        text = inner


@functools.lru_cache(maxsize=256)  # a reference and an answer are read in several ways
def plain(text: str) -> str:
    """Return a text in `usual` characters without Markdown and LaTeX: `$\\frac{1}{2}$` becomes `1/2`."""
    text = EMPHASIS.sub(r"\2", usual(text))
    if "\\" in text or "{" in text:
        text = without_latex(text)
    return trimmed(text)


def without_latex(text: str) -> str:
    """Return a text with LaTeX's commands written as plain text, as far as answers usually have them."""
    for pattern, to in SYMBOLS:
        text = pattern.sub(to, text)
    for _ in range(PASSES):
        before = text
        text = WRITING.sub(r"\1", text)
        text = ROOT.sub(lambda found: "√" + grouped(found[1] or found[2] or "", ONE), text)
        text = POWER.sub(lambda found: found[1] + grouped(found[2], ONE if found[1] == "^" else NAME), text)
        text = FRACTION.sub(fraction, text)
        if text == before:
            break
    return text


def fraction(found: re.Match[str]) -> str:
    """Return a LaTeX fraction as `a/b`; in brackets where it is multiplied, after a space in a mixed number."""
    above, below = (grouped(found[i] or found[i + 1] or "") for i in (1, 3))
    before, after = found.string[: found.start()].rstrip()[-1:], found.string[found.end() :][:1]
    if before.isdigit():
        return f" {above}/{below}"
    if before.isalpha() or after.isalnum() or after in ("(", "^", "√", "\\"):
        return f"({above}/{below})"
    return f"{above}/{below}"


def grouped(text: str, alone: re.Pattern[str] = NAME) -> str:
    """Return the inside of LaTeX's braces, in brackets unless it is one name or number, as `alone` matches them."""
    text = text.strip()
    return text if alone.fullmatch(text) else f"({text})"
