"""What may follow a number without changing it: units and things that are counted, each in one spelling."""

from __future__ import annotations

import re

SPELLINGS = {
    "%": "percent pct", "°": "degree deg", "/": "per",
    "$": "us$ dollar usd buck", "cent": "¢ ct", "€": "euro eur", "£": "pound gbp lb lbs", "¥": "yen jpy yuan cny 円 元",
    "₹": "rupee inr rs", "₩": "won krw", "₽": "ruble rub",
    "mm": "millimeter millimetre", "cm": "centimeter centimetre", "m": "meter metre", "km": "kilometer kilometre kms",
    "inch": "in", "foot": "ft feet", "yard": "yd", "mile": "mi",
    "mg": "milligram", "g": "gram gr", "kg": "kilogram kilo kgs", "ton": "tonne", "ounce": "oz",
    "ml": "milliliter millilitre", "l": "liter litre", "gallon": "gal",
    "ms": "millisecond", "s": "second sec secs", "minute": "min mins", "h": "hour hr hrs", "day": "days", "week": "wk",
    "month": "mo", "year": "yr yrs", "am": "a.m", "pm": "p.m",
    "c": "celsius", "f": "fahrenheit", "k": "kelvin", "n": "newton", "j": "joule", "w": "watt", "v": "volt",
    "square": "sq squared ^2", "cubic": "cu cubed ^3",
    "person": "people", "child": "children", "man": "men", "woman": "women",
}  # fmt: skip
ONE_SPELLING = {spelling: unit for unit, spellings in SPELLINGS.items() for spelling in spellings.split()}
IN_FULL = {"mph": ["mile", "/", "h"], "kph": ["km", "/", "h"], "kmh": ["km", "/", "h"]}
DECISIVE = {"/", "square", "cubic"}  # a square metre is no metre, a kilometre per hour no kilometre

LETTERS = "mgshlLVWNJCFK"  # the letters that are units by themselves; others are variables
# What follows a number, and makes something else of it.
NOT_UNITS = set(
    "or and not no to plus minus times half halves squared cubed factorial pi mod over than more less fewer above below"
    " hundred thousand million billion trillion sqrt sin cos tan log ln if".split()
)
# Words for thousands and millions in other languages, and how English shortens them: `5 тысяч` is not 5.
LARGE = set(
    "thousands millions billions trillions mln bn lakh lakhs crore crores hundert tausend mio million millionen mrd"
    " milliarde milliarden mille milliers milliard milliards mil millón millones milhão milhões mila milioni"
    " miliardi duizend miljoen miljard tusen тыс тысяча тысячи тысяч млн миллион миллиона миллионов млрд миллиард"
    " миллиарда миллиардов milyon milyar nghìn ngàn triệu tỷ ribu juta miliar ألف آلاف مليون مليار".split()
)
# 5万円 is 50,000 yen, but 5千克 are 5 kilograms.
LARGE_CHARACTER = re.compile("[万萬億亿兆仟佰]|[十百千](?![克米瓦卡焦帕赫分])|[백천만억](?=$|[원명개])")
FOLLOWING = re.compile(
    r"(?:[^\W\d_]++(?:\^[23](?!\d))?|[%°$€£¥₹₩₽¢\s()]|(?<=\w)[-/'·.](?=\w)|[.,](?=\s|$)|[;:]$|/(?=\s?[a-z]))*"
)
THOUSANDS = re.compile(r"[kK]\b")  # without a space: 5K is 5,000, and 5 K are kelvins
WORD = re.compile(r"a\.m|p\.m|us\$|[^\W\d_]+|\^[23]|[%°$€£¥₹₩₽¢/]")
LETTER = re.compile(r"\s*([A-Za-zα-ωπ])(?![^\W\d_']|'\w)")  # a letter by itself, right after the number


def read(text: str) -> frozenset[str] | None:
    """Return the words of a unit; none if there is no text, None if the text is something else."""
    if not FOLLOWING.fullmatch(text):
        return None
    words = WORD.findall(text.lower())
    letter = LETTER.match(text)
    if NOT_UNITS.intersection(words) or (letter and letter[1] not in LETTERS):
        return None
    if LARGE.intersection(words) or any(map(LARGE_CHARACTER.match, words)) or THOUSANDS.match(text):
        return None
    return frozenset(part for word in words for part in IN_FULL.get(word, [one_spelling(word)]))


def one_spelling(word: str) -> str:
    """Return the one spelling of a word: that of its unit, or else its stem, which the plural has too."""
    for form in (word, word.removesuffix("s"), word.removesuffix("es")):
        if form in SPELLINGS or form in ONE_SPELLING:
            return ONE_SPELLING.get(form, form)
    return re.sub("(?<=...)(?:ies|es|(?<!s)s|e|y)$", "", word)


def agree(left: frozenset[str], right: frozenset[str]) -> bool:
    """Tell whether two units do not contradict each other: `red apples` and `apples` agree, `km` and `m` do not."""
    if not left or not right:
        return True
    return left & DECISIVE == right & DECISIVE and (left <= right or right <= left)
