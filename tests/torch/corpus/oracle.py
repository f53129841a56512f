"""Whether what was made of a row is what must be trained: every rule that is held, and which one is broken."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.torch.corpus.kinds import Message
from tests.torch.corpus.reference import Model, Piece, Written, answers_of, pieces_of


@dataclass
class Sequence:
    """Tokens as they would be trained."""

    ids: list[int]
    is_target: list[bool]
    asked: int  # tokens before the answer that evaluation asks for; -1: none
    prompt_ids: list[int] | None  # what evaluation generates from, if not these

    @property
    def runs(self) -> list[tuple[int, int]]:
        """First token of each run of targets, and the one behind it."""
        marks = [False, *self.is_target, False]
        starts = [i for i in range(len(self.ids)) if marks[i + 1] and not marks[i]]
        ends = [i for i in range(1, len(self.ids) + 1) if marks[i] and not marks[i + 1]]
        return list(zip(starts, ends, strict=True))


@dataclass
class Outcome:
    """What became of a row, and what is wrong with that."""

    sequences: list[Sequence]
    refusal: str = ""
    said: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    prompt: str = ""  # text before the last answer
    targets: str = ""  # text of the last answer's targets


def judge(
    model: Model,
    messages: list[Message],
    tools: list[object],
    forms: list[Written],
    outcome: Outcome,
    stops: set[int],
) -> None:
    """Note every fault of an outcome. `forms` is the conversation as the template writes it, `stops` end generation."""
    answers = answers_of(messages)
    # A template may drop the reasoning of answers that are context only: generation does not see it either.
    pieces = [piece for piece in pieces_of(messages, tools) if piece.what != "reasoning" or piece.message in answers]
    good = [form for form in forms if not form.errors]
    if outcome.refusal:
        outcome.faults += refusal_faults(outcome.refusal, forms, pieces, messages, list(model.family.stops))
        return
    if not good:
        outcome.faults.append(f"trained although the template refuses it ({forms[0].errors[0]})")
        return
    trained: list[int] = []
    for sequence in outcome.sequences:
        found, faults, notes = match(model, sequence, good, pieces, stops)
        outcome.faults += faults
        outcome.notes += notes
        trained += found
    for number in answers:
        if trained.count(number) != 1:
            outcome.faults.append(f"message {number} is a target {trained.count(number)} times")
    text = "\n".join(spaced(model.text(sequence.ids)) for sequence in outcome.sequences)
    for piece in pieces:
        if spaced(piece.text) not in text:
            told = any(name_of(piece, messages) in line for line in outcome.said)
            place = outcome.notes if told else outcome.faults
            place.append(f"lost: {piece.what} of {name_of(piece, messages)}")


def squeezed(text: str) -> str:
    """Return a text without white space: SentencePiece tokenizers do not say where marks have some around them."""
    return "".join(text.split())


def spaced(text: str) -> str:
    """Return a text with single spaces."""
    return " ".join(text.split())


def names_of(piece: Piece, messages: list[Message]) -> set[str]:
    """Return the words of which a refusal says one if it means this piece."""
    others = {
        "tools": "tools",
        "call": "tool calls",
        "reasoning": "reasoning",
        "content": f"message {piece.message + 1};",
    }
    return {name_of(piece, messages), others[piece.what]}


def name_of(piece: Piece, messages: list[Message]) -> str:
    """Return the name of a piece's message in refusals: its role, or the key."""
    if piece.what == "tools":
        return "tools"
    message = messages[piece.message]
    if piece.what == "call":
        return "tool_calls"
    keys = [key for key in ("reasoning_content", "thinking") if message.get(key)]
    return keys[0] if piece.what == "reasoning" and keys else str(message["role"])


# Accepted rows


def match(
    model: Model, sequence: Sequence, forms: list[Written], pieces: list[Piece], stops: set[int]
) -> tuple[list[int], list[str], list[str]]:
    """Return the answers that are targets in a sequence, its faults, and what is unusual but right.

    Of the forms in which the conversation can be written, the one with the fewest faults is meant.
    """
    tried = []
    for form in forms:
        for last in form.texts:
            tried.append(match_one(model, sequence, form, last, pieces, stops))
    return min(tried, key=lambda result: (len(result[1]), -len(result[0]), len(result[2])))


def match_one(
    model: Model, sequence: Sequence, form: Written, last: int, pieces: list[Piece], stops: set[int]
) -> tuple[list[int], list[str], list[str]]:
    """Compare a sequence with one form, written up to the answer `last`."""
    faults: list[str] = []
    notes: list[str] = []
    runs = sequence.runs
    if not runs:
        return [], ["has no target"], []
    body = sequence.ids[: runs[-1][1]]
    text, prompt = form.texts[last], form.prompts[last]
    whole = tokens_of(model, text)
    if not begins(whole, body, stops):
        places = sorted(len(start) for start in form.prompts.values() if text.startswith(start))
        bare = text.rstrip()  # an end mark may stand in for white space that ends a turn
        if any(begins(cut_tokens(model, text, cuts), body, stops) for cuts in (places, places[-1:])) or (
            begins(cut_tokens(model, bare, places[-1:]), body, stops) and len(body) > len(tokens_of(model, bare))
        ):
            notes.append("cut where an answer begins")
        else:
            lost = [piece for piece in pieces if piece.message == last and piece.text not in text]
            start = tokens_of(model, prompt)
            is_open = re.search(r"<think>\s*$", prompt) and "</think>" not in text[len(prompt) :]
            actual = model.text(body)
            edges = [len(before) for before in form.prompts.values() if actual.startswith(before)]
            is_cut = actual.startswith(prompt) and body == cut_tokens(model, actual, edges)
            if (not text.startswith(prompt) or lost or is_open) and (body[: len(start)] == start or is_cut):
                notes.append("generation prompt and answer")
                text = actual if is_cut else prompt + model.text(body[len(start) :])
                lead = text[len(prompt) :].partition(own_words(pieces, last))[0].strip()
                if lead and lead in prompt[-len(lead) - 20 :]:
                    faults.append(f"b: {shown(lead)} is a target, though generation starts behind it")
            else:
                faults.append(f"a: other tokens than the whole text has ({difference(model, body, whole)})")
                text = actual
    found = []
    position = 0
    for begin, end in runs:
        run = model.text(sequence.ids[begin:end])
        held = sorted({piece.message for piece in pieces if piece.message >= 0 and piece.text in run})
        if follow_directly(held, form):
            found += held
            continue
        if len(held) != 1:
            faults.append(f"b, d: a run of targets holds words of messages {held}: {shown(run)}")
            continue
        number = held[0]
        found.append(number)
        if number not in form.prompts:
            faults.append(f"d: words of message {number} are targets: {shown(run)}")
            continue
        if sequence.ids[end - 1] not in stops:
            faults.append(f"c: the last target of message {number} ends no generation: {shown(run)}")
        wanted, before = form.prompts[number], sequence.ids[:begin]
        if tokens_of(model, wanted) != before and spaced(model.text(before)) != spaced(wanted):
            faults.append(f"f: message {number} does not follow its generation prompt")
        if (
            sequence.asked >= 0
            and number == last
            and (sequence.prompt_ids or sequence.ids[: sequence.asked]) != tokens_of(model, wanted)
        ):
            faults.append(f"f: evaluation does not start from the generation prompt of message {number}")
        for piece in pieces:
            if piece.message == number and squeezed(piece.text) not in squeezed(run):
                faults.append(f"b: {piece.what} of message {number} is not among its targets: {shown(run)}")
        expected, position = expected_run(model, text, form, number, pieces, stops, position)
        if expected is None:
            faults += strange_tail(run, text, pieces, number, stops, model)
        if expected is not None and squeezed(run) != squeezed(expected):
            faults.append(f"b: targets {shown(run)} instead of {shown(expected)}")
    return found, faults, notes


def own_words(pieces: list[Piece], number: int) -> str:
    """Return the first words of a message."""
    return next(piece.text for piece in pieces if piece.message == number)


def follow_directly(numbers: list[int], form: Written) -> bool:
    """Tell whether answers follow each other with nothing between them that is not generated."""
    return len(numbers) > 1 and all(
        number in form.prompts and (not previous or form.prompts[number] == form.texts[previous])
        for previous, number in itertools.pairwise([0, *numbers])
    )


def begins(whole: list[int], body: list[int], stops: set[int]) -> bool:
    """Tell whether a text's tokens begin with those of a sequence, apart from an end mark that was appended."""
    return body == whole[: len(body)] or (body[-1] in stops and body[:-1] == whole[: len(body) - 1])


def cut_tokens(model: Model, text: str, places: list[int]) -> list[int]:
    """Return the tokens of a text, of which none spans one of the `places`: generation starts there."""
    ids = tokens_of(model, text)
    edges = [0]
    for place in sorted(places):
        before = tokens_of(model, text[:place])
        if ids[: len(before)] != before:
            edges.append(place)
    parts = [text[start:end] for start, end in itertools.pairwise([*edges, len(text)])]
    return [
        token for number, part in enumerate(parts) for token in (model.ids(part) if number else tokens_of(model, part))
    ]


def strange_tail(run: str, text: str, pieces: list[Piece], number: int, stops: set[int], model: Model) -> Iterator[str]:
    """Yield a fault if targets end otherwise than as the template ends the text, with an end mark behind it."""
    last = max((piece.text for piece in pieces if piece.message == number), key=run.rfind)
    marks = [str(model.tokenizer.convert_ids_to_tokens(stop)) for stop in stops]
    tail = squeezed(run.rpartition(last)[2])
    written = squeezed(text.rpartition(last)[2])
    for mark in marks:
        written, tail = written.removesuffix(squeezed(mark)), tail.removesuffix(squeezed(mark))
    if tail != written:
        yield f"b: targets end in {shown(tail)} instead of {shown(written)}: {shown(run)}"


def tokens_of(model: Model, text: str) -> list[int]:
    """Return the tokens of a text, BOS once."""
    ids = model.ids(text)
    return ids[1:] if ids[:2] == [model.tokenizer.bos_token_id] * 2 else ids


def expected_run(
    model: Model, text: str, form: Written, number: int, pieces: list[Piece], stops: set[int], position: int
) -> tuple[str | None, int]:
    """Return the text of an answer's targets, and the place in `text` behind it.

    It begins behind what generation starts from, and ends with the first text behind the answer's last word that ends
    generation; without one before the next message, with what was appended (then None: it is checked as a token).
    """
    own = [piece.text for piece in pieces if piece.message == number]
    start = common(text, form.prompts[number])
    places = [text.find(word, max(position, start)) for word in own]
    if min(places) < 0:
        return None, position
    first, last = min(places), max(place + len(word) for place, word in zip(places, own, strict=True))
    later = [text.find(piece.text, last) for piece in pieces if piece.message == number + 1]
    limit = min([place for place in later if place >= 0], default=len(text))
    marks = [str(model.tokenizer.convert_ids_to_tokens(stop)) for stop in stops]
    ends = [place + len(mark) for mark in marks if 0 <= (place := text.find(mark, last)) < limit]
    if not ends:
        return None, last
    return text[min(start, first) : min(ends)], min(ends)


def common(one: str | list[int], other: str | list[int]) -> int:
    """Return how many of their first elements two texts or lists have in common."""
    length = min(len(one), len(other))
    return next((place for place in range(length) if one[place] != other[place]), length)


def difference(model: Model, ids: list[int], other: list[int]) -> str:
    """Return where two rows of tokens part."""
    same = common(ids, other)
    return f"{shown(model.text(ids[same : same + 6]))} for {shown(model.text(other[same : same + 6]))}"


def shown(text: str) -> str:
    """Return a short form of a text, in one line."""
    return repr(text if len(text) < 90 else f"{text[:40]} … {text[-40:]}")


# Refused rows


def refusal_faults(
    refusal: str, forms: list[Written], pieces: list[Piece], messages: list[Message], marks: list[str]
) -> Iterator[str]:
    """Yield what is wrong with a refusal: it was not needed, or it does not give the true reason."""
    good = [form for form in forms if not form.errors and form.is_usual]
    if "MODEL_NAME=" in refusal:
        return  # a template that takes no plain question and answer: the reason is checked with that kind
    if not good:
        reasons = {error for form in forms for error in form.errors}
        parts = [piece for piece in pieces if piece.what != "content"]
        if any(name in refusal for piece in parts for name in names_of(piece, messages)):
            return  # it has more than one reason
        if "takes no system message" in refusal and messages[0]["role"] == "system":
            return
        if "writes no tool calls" in refusal and any(message.get("tool_calls") for message in messages):
            return
        if not any(heart(reason) in spaced(refusal) for reason in reasons):
            yield f"the refusal does not give the template's reason {reasons}: {refusal}"
        return
    lost = min((losses(form, pieces, marks) for form in good), key=len)
    if "no generation prompt" in refusal and any(has_no_prompt(form) for form in good):
        return
    if "generation prompt ends reasoning" in refusal and any(ends_reasoning(form) for form in good):
        return  # generation could not begin these answers
    if not lost:
        yield f"refused without need: {refusal}"
    elif not any(name in refusal for piece in lost for name in names_of(piece, messages)):
        names = sorted({name_of(piece, messages) for piece in lost})
        yield f"the refusal does not name what is lost ({', '.join(names)}): {refusal}"


def has_no_prompt(form: Written) -> bool:
    """Tell whether an answer that follows another one has no generation prompt, though the template opens its turn."""
    found = list(form.texts)
    return any(number - 1 in found and form.prompts[number] == form.texts[number - 1] for number in found)


def ends_reasoning(form: Written) -> bool:
    """Tell whether generation starts behind a block of reasoning that is ended already."""
    return any(re.search(r"(</\S*think\S*>|\[/THINK\])\s*$", prompt) for prompt in form.prompts.values())


def heart(reason: str) -> str:
    """Return the beginning of a reason: refusals shorten them."""
    return spaced(re.sub(r"^\W+", "", reason))[:40]


def behind_end(form: Written, number: int, pieces: list[Piece], marks: list[str]) -> Iterator[Piece]:
    """Yield the pieces of an answer that stand behind its end mark."""
    text = form.texts[number]
    start = common(text, form.prompts[number])
    places = sorted((text.find(piece.text, start), piece.text) for piece in pieces if piece.message == number)
    for (before, words), (place, later) in itertools.pairwise(places):
        if any(mark in text[before + len(words) : place] for mark in marks):
            yield from (piece for piece in pieces if piece.message == number and piece.text == later)


def losses(form: Written, pieces: list[Piece], marks: list[str]) -> list[Piece]:
    """Return the pieces that are in none of the texts that could be trained."""
    text = "\n".join(map(spaced, form.texts.values()))
    found = [piece for number in form.texts for piece in behind_end(form, number, pieces, marks)]
    for piece in pieces:
        own = form.texts.get(piece.message)
        place = text if own is None else spaced(own[common(own, form.prompts[piece.message]) :])
        if spaced(piece.text) not in place:
            found.append(piece)
    return found
