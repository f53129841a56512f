"""Whether everything that a row says is in the texts that it is trained as: nothing is left out unnoticed."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from sft.errors import shown
from sft.rows.conversation import REASONING, Conversation, Message
from sft.rows.values import leaves
from sft.trainer.data.answers import Rendered, render
from sft.trainer.data.chat_template import Refused
from sft.trainer.data.probe import Probe

WITHOUT_TOOLS = "leave the tools out, or set CHAT_TEMPLATE to another one"
LINKS = ("tool_call_id", "id", "type", "index")  # they say what belongs together, which the order says too
RESULTS = ("tool", "function", "ipython")  # roles
SPOKEN = ("tool_calls", *REASONING)  # keys that an answer consists of: their words are looked for in its target


def check(conversation: Conversation, texts: list[Rendered], probe: Probe) -> None:
    """Raise Refused if the template leaves out a message, a part of an answer, a tool, or a key of a message."""
    spans = {span.message: (text.text, span) for text in texts for span in text.answers}
    whole = texts[-1].text
    for number, message in enumerate(conversation.messages):
        if number in spans:
            text, span = spans[number]
            if message.has_open_reasoning and (probe.thinking.reads_key or probe.thinking.prompt_opens):
                what = f"the reasoning in message {number + 1} is never closed, so it would be trained as the answer"
                raise Refused(what, "close it with </think> before the answer, or remove the row")
            check_answer(message, text[span.start : span.end], number)
        elif message.role in probe.dropped_roles and context_words(message).strip():
            raise Refused(f"it leaves out messages of the role {message.role}")
        elif lost := missing(context_words(message), whole):
            raise Refused(f"it leaves out {shown(repr(lost), 60)} of message {number + 1} (role {message.role})")
    for tool in conversation.tools:
        if lost := missing(tool_name(tool), whole):
            raise Refused(f"it leaves out the tools ({shown(lost, 60)})", WITHOUT_TOOLS)
    if conversation.tools:  # their names may be there because they are called
        without = render(conversation.messages, replace(conversation, tools=()), probe)
        if without == render(conversation.messages, conversation, probe):
            raise Refused("it leaves out the tools", WITHOUT_TOOLS)
    check_keys(conversation, whole, probe)
    check_order(conversation, probe)


def check_answer(message: Message, target: str, number: int) -> None:
    """Raise Refused if something of an answer is not in its target."""
    reasoning, words = message.split()
    for what, text in (("words", words), ("reasoning", reasoning)):
        if lost := missing(text, target):
            alone = "it writes tool calls alone: " if message.keys.get("tool_calls") else ""
            raise Refused(f"{alone}it leaves out {shown(repr(lost), 60)} of the {what} of message {number + 1}")
    for text in called(message):
        if lost := missing(text, target):
            raise Refused(f"it leaves out {shown(repr(lost), 60)} of the tool calls of message {number + 1}")


def check_keys(conversation: Conversation, whole: str, probe: Probe) -> None:
    """Raise Refused for a key that makes no difference to the text in the messages of a role."""
    functions = {name for message in conversation.messages for name in function_names(message)}
    keys = dict.fromkeys((message.role, key) for message in conversation.messages for key in message.keys)
    for role, key in keys:
        if key in LINKS or key in SPOKEN:
            continue
        mine = [message for message in conversation.messages if message.role == role]
        if key == "name" and all(is_function_name(message, functions) for message in mine):
            continue
        without = tuple(
            replace(message, keys={name: value for name, value in message.keys.items() if name != key})
            if message.role == role
            else message
            for message in conversation.messages
        )
        if render(without, conversation, probe) == render(conversation.messages, conversation, probe):
            remedy = "leave the key out, or set CHAT_TEMPLATE to another one"
            raise Refused(f"it does not use the key {shown(repr(key), 40)} of messages of the role {role}", remedy)


def check_order(conversation: Conversation, probe: Probe) -> None:
    """Raise Refused for results in another order than their calls, if the text does not say which belongs to which."""
    messages = conversation.messages
    for number, message in enumerate(messages):
        calls = message.keys.get("tool_calls")
        if not isinstance(calls, list) or len(calls) < 2:
            continue
        behind = itertools.takewhile(lambda one: one.role in RESULTS, messages[number + 1 :])
        results = list(itertools.islice(behind, len(calls)))
        links = {"tool_call_id": [call.get("id") for call in calls], "name": list(function_names(message))}
        have_ids = all("tool_call_id" in one.keys for one in results)
        key = "tool_call_id" if have_ids else "name"
        if not is_other_order([one.keys.get(key) for one in results], links[key]):
            continue
        # Each result as if it belonged to the call in its place: a template that writes ids or names shows it.
        linked = [
            replace(one, keys={**one.keys, **{key: link[place] for key, link in links.items() if key in one.keys}})
            for place, one in enumerate(results)
        ]
        changed = (*messages[: number + 1], *linked, *messages[number + 1 + len(linked) :])
        if render(changed, conversation, probe) == render(messages, conversation, probe):
            what = f"it does not write which call of message {number + 1} a result belongs to, and the results are in"
            raise Refused(f"{what} another order", "put them in the order of the calls, or set CHAT_TEMPLATE")


def is_other_order(given: list[object], calls: Sequence[object]) -> bool:
    """Tell whether results name their calls, each another one, and not in the calls' order."""
    found, wanted = ([str(link) for link in links] for links in (given, calls))
    are_different = None not in given and len({*found}) == len(found) and len({*wanted}) == len(wanted)
    return are_different and {*found} <= {*wanted} and found != wanted[: len(found)]


def is_function_name(message: Message, functions: set[str]) -> bool:
    """Tell whether a message has no name, or that of a function that was called, which says nothing new."""
    return "name" not in message.keys or (message.role in ("tool", "function") and message.keys["name"] in functions)


def context_words(message: Message) -> str:
    """Return what must be in the text of a message that is no target: templates drop the reasoning of earlier turns."""
    return message.split()[1] if message.role == "assistant" else message.content or ""


def missing(words: str, text: str) -> str:
    """Return the first word that is not in a text, or "".

    Templates trim texts, and some write them as JSON; so if the whole is not found, its words are looked for.
    """
    if words.strip() in text or json.dumps(words.strip(), ensure_ascii=False)[1:-1] in text:
        return ""
    found = re.findall(r"\w+", words) or [words.strip()]
    escaped = json.dumps(text)
    return next((word for word in found if word not in text and json.dumps(word)[1:-1] not in escaped), "")


def called(message: Message) -> Iterator[str]:
    """Yield the names and the texts in the arguments of a message's tool calls."""
    calls = message.keys.get("tool_calls")
    for call in calls if isinstance(calls, list) else []:
        yield from leaves({key: value for key, value in call.items() if key not in LINKS})


def function_names(message: Message) -> Iterator[str]:
    """Yield the names of the functions that a message calls."""
    calls = message.keys.get("tool_calls")
    for call in calls if isinstance(calls, list) else []:
        yield tool_name(call)


def tool_name(tool: Mapping[str, object]) -> str:
    """Return the name of a function, from its schema or a call of it."""
    function = tool.get("function", tool)
    return str(function.get("name", "")) if isinstance(function, Mapping) else ""
