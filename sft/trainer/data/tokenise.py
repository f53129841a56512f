"""From a row to tokens: the chat template, which tokens are targets, and where a long row is cut."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from sft import resources
from sft.errors import DataError, shown
from sft.rows import forms
from sft.rows.bad_rows import BadRows
from sft.rows.files import ReadRow
from sft.settings.fields import Settings
from sft.trainer.data.rows import TokenisedRow

CHUNK_ROWS = 1000  # a worker process takes so many at a time
# The template of Llama 3.1 and later prints today's date unless it is given one: a model trained on Monday would see
# another prompt on Tuesday. This is the template's own default date.
TEMPLATE_DATE = "26 Jul 2024"

worker: Tokeniser  # one in each process, made by start_worker


def tokenised(read: Iterable[ReadRow], model: Path, settings: Settings, bad: BadRows) -> Iterator[TokenisedRow]:
    """Yield tokenised rows, in order. Rows that cannot be used are added to `bad` instead.

    `model` is the folder of the tokenizer. Only a few chunks of rows are in memory at a time.
    """
    for row in rows_and_errors(read, model, settings):
        if isinstance(row, DataError):
            bad.add(row)
        else:
            yield row


def rows_and_errors(read: Iterable[ReadRow], model: Path, settings: Settings) -> Iterator[TokenisedRow | DataError]:
    """Yield each row tokenised, or its error, in order. Many rows are spread over all cores."""
    rows = iter(read)
    chunks = iter(lambda: list(itertools.islice(rows, CHUNK_ROWS)), [])
    first = next(chunks, [])
    workers = resources.cores()
    if workers == 1 or len(first) < CHUNK_ROWS:
        start_worker(model, settings)
        for chunk in itertools.chain([first], chunks):
            yield from work(chunk)
        return
    pool = ProcessPoolExecutor(
        workers, mp_context=get_context("fork"), initializer=start_worker, initargs=(model, settings)
    )
    try:
        waiting: deque[Future[list[TokenisedRow | DataError]]] = deque()
        for chunk in itertools.chain([first], chunks):
            waiting.append(pool.submit(work, chunk))
            if len(waiting) > 2 * workers:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def start_worker(model: Path, settings: Settings) -> None:
    """Load this process's tokenizer, once for all its chunks."""
    global worker
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(model, trust_remote_code=settings.trust_remote_code)
    worker = Tokeniser(tokenizer, settings)


def work(chunk: list[ReadRow]) -> list[TokenisedRow | DataError]:
    """Tokenise a chunk of rows in this process."""
    return worker.rows(chunk)


@dataclass
class Tokeniser:
    """Turns rows into tokens with a model's own tokenizer and chat template."""

    tokenizer: Any
    settings: Settings

    def rows(self, read: Iterable[ReadRow]) -> list[TokenisedRow | DataError]:
        """Return each row tokenised, or the error that names its place, in order."""
        found: dict[int, TokenisedRow | DataError] = {}  # by the row's number
        split: list[tuple[int, str, list[dict[str, object]], list[tuple[str, bool]]]] = []
        for number, (where, row) in enumerate(read):
            try:
                messages = forms.convert(row, where, self.settings).as_dicts()
                chat = self.tokenizer.chat_template
                pieces = self.chat_pieces(messages, where) if chat else self.plain_pieces(messages)
                split.append((number, where, messages, pieces))
            except DataError as error:
                found[number] = error
        # Each piece is tokenised by itself, so that no token spans the border between prompt and response: the tokens
        # before a response are exactly those that generation starts from.
        texts = list(dict.fromkeys(text for *_, pieces in split for text, _ in pieces if text))
        tokens = (
            dict(zip(texts, self.tokenizer(texts, add_special_tokens=False).input_ids, strict=True)) if texts else {}
        )
        for number, where, messages, pieces in split:
            try:
                found[number] = self.join([(tokens.get(text, []), target) for text, target in pieces], messages, where)
            except DataError as error:
                found[number] = error
        return [found[number] for number in sorted(found)]

    def join(self, parts: list[tuple[list[int], bool]], messages: list[dict[str, object]], where: str) -> TokenisedRow:
        """Join tokenised pieces, each with whether it is a target, to one row of at most MAX_LENGTH tokens."""
        ids: list[int] = []
        is_target: list[bool] = []
        for tokens, target in parts:
            ids += tokens
            is_target += [target] * len(tokens)
        bos = self.tokenizer.bos_token_id
        if not self.tokenizer.chat_template:
            start, end = self.plain_marks()
            ids, is_target = start + ids + end, [False] * len(start) + is_target + [True] * len(end)
        elif bos is not None and ids[:2] == [bos, bos]:  # some templates give two
            ids, is_target = ids[1:], is_target[1:]
        limit = self.settings.max_length
        is_cut = len(ids) > limit
        ids, is_target = ids[:limit], is_target[:limit]
        if not any(is_target[1:]):
            raise DataError(
                f"{where}: no target token is left within MAX_LENGTH={limit}; raise MAX_LENGTH or remove the row"
            )
        questions = [text_of(message) for message in messages if message["role"] != "assistant"]
        return TokenisedRow(ids, is_target, questions[-1] if questions else "", text_of(messages[-1]), is_cut)

    def chat_pieces(self, messages: list[dict[str, object]], where: str) -> list[tuple[str, bool]]:
        """Split the template's text into pieces (text, is target): the assistant's messages are the targets.

        Some templates rewrite earlier turns once a conversation goes on, for example drop their reasoning. Then only
        the last assistant message is a target: what the model would see of the others is not what it should write.
        """
        whole = self.template(messages, where)
        turns = [i for i, message in enumerate(messages) if i and message["role"] == "assistant" and message["content"]]
        for chosen in (turns, turns[-1:]):
            pieces: list[tuple[str, bool]] = []
            at = 0  # characters of `whole` in pieces
            for turn in chosen:
                before = self.template(messages[:turn], where, add_generation_prompt=True)
                after = self.template(messages[: turn + 1], where)
                if not (whole.startswith(after) and after.startswith(before) and len(before) >= at):
                    break
                pieces += [(whole[at : len(before)], False), (self.up_to_end(after[len(before) :]), True)]
                at = len(before) + len(pieces[-1][0])
            else:
                return pieces
        raise DataError(f"{where}: the chat template does not write this conversation; check the order of its roles")

    def up_to_end(self, text: str) -> str:
        """Cut off what the template writes after a response's end mark: the model should not generate it."""
        eos = self.tokenizer.eos_token
        return text[: text.rindex(eos) + len(eos)] if eos and eos in text else text

    def template(self, messages: list[dict[str, object]], where: str, add_generation_prompt: bool = False) -> str:
        """Return the conversation as the model's chat template writes it. Raises DataError if it refuses."""
        import jinja2

        try:
            return self.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=add_generation_prompt, date_string=TEMPLATE_DATE
            )
        except jinja2.TemplateError as error:
            what = f"the model's chat template refuses it ({shown(error)})"
            raise DataError(f"{where}: {what}; check the order of its roles") from None

    def plain_pieces(self, messages: list[dict[str, object]]) -> list[tuple[str, bool]]:
        """Return the pieces (text, is target) for a model without a chat template: each message on its own line."""
        pieces: list[tuple[str, bool]] = []
        for message in messages[:-1]:
            pieces.append((text_of(message) + "\n", False))
        pieces.append((text_of(messages[-1]), True))
        return pieces

    def plain_marks(self) -> tuple[list[int], list[int]]:
        """Return the tokens around a text without a template: BOS, if the tokenizer adds it, and EOS."""
        start = [self.tokenizer.bos_token_id]
        has_start = start != [None] and self.tokenizer("").input_ids[:1] == start
        return start if has_start else [], [self.tokenizer.eos_token_id]


def text_of(message: dict[str, object]) -> str:
    """Return the words of a message."""
    return str(message["content"] or "")
