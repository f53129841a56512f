"""Chat templates of a small grammar, and conversations for them, drawn by hypothesis."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hypothesis import strategies as st

from tests.torch.corpus.kinds import TOOL, Message, Row

EOS, BOS, END = "</s>", "<s>", "<|end|>"
MARKS = ("<|system|>", "<|user|>", "<|assistant|>", "<|tool|>", END, "<think>", "</think>")


@dataclass(frozen=True)
class Grammar:
    """What a drawn template does."""

    has_bos: bool
    end: Literal["own", "eos", "eos after the last", "next role", "lines"]
    after_role: str
    after_end: str
    trims: bool
    system: Literal["role", "first user", "raises"]
    default_system: bool
    prompt_opens_thinking: bool
    drops_thinking: bool  # of the turns before the last question
    empty_thinking: bool  # of the last answer, if it has none
    writes_tools: bool
    alternates: bool  # or raises

    @property
    def stops(self) -> tuple[str, ...]:
        """The texts of the tokens at which a model with this template would stop."""
        marks = {"own": [END], "eos after the last": [END], "next role": ["<|user|>"]}
        return (EOS, *marks.get(self.end, []))

    @property
    def template(self) -> str:
        """The template's text."""
        content = "(m['content'] or '')" + ("|trim" if self.trims else "")
        ends = {
            "own": f"{END}{self.after_end}",
            "eos": f"{{{{ eos_token }}}}{self.after_end}",
            "eos after the last": f"{END}{self.after_end}{{% if loop.last %}}{{{{ eos_token }}}}{{% endif %}}",
            "next role": "",
            "lines": "\n",
        }
        end = ends[self.end]
        parts = ["{{ bos_token }}"] if self.has_bos else []
        if self.alternates:
            parts.append(
                "{% set ns = namespace(last='') %}{% for m in messages %}{% if m['role'] == ns.last %}"
                "{{ raise_exception('Roles must alternate.') }}{% endif %}{% set ns.last = m['role'] %}{% endfor %}"
            )
        if self.writes_tools:
            parts.append("{% if tools %}<|system|>{% for tool in tools %}{{ tool|tojson }}\n{% endfor %}{% endif %}")
        if self.default_system:
            parts.append("{% if messages[0]['role'] != 'system' %}<|system|>You are a helpful model.\n{% endif %}")
        parts.append("{% set found = namespace(system='', question=0) %}")
        parts.append(
            "{% for m in messages %}{% if m['role'] == 'user' %}{% set found.question = loop.index0 %}"
            "{% endif %}{% endfor %}"
        )
        system = {
            "role": f"<|system|>{self.after_role}{{{{ {content} }}}}{self.system_end}",
            "first user": f"{{% set found.system = {content} + '\\n' %}}",
            "raises": "{{ raise_exception('System role not supported') }}",
        }[self.system]
        thinking = "{% set said = " + content + " %}"
        if self.drops_thinking:
            thinking += (
                "{% if '</think>' in said and loop.index0 < found.question %}"
                "{% set said = said.split('</think>')[-1].lstrip('\\n') %}{% endif %}"
            )
        if self.empty_thinking:
            thinking += (
                "{% if loop.last and '<think>' not in said %}{% set said = '<think>\\n\\n</think>\\n\\n' + said %}"
                "{% endif %}"
            )
        calls = (
            "{% for c in m['tool_calls'] or [] %}<tool_call>{{ c['function']|tojson }}</tool_call>{% endfor %}"
            if self.writes_tools else ""
        )  # fmt: skip
        parts.append(
            "{% for m in messages %}"
            f"{{% if m['role'] == 'system' %}}{system}"
            f"{{% elif m['role'] == 'user' %}}<|user|>{self.after_role}{{{{ found.system }}}}{{{{ {content} }}}}"
            f"{{% set found.system = '' %}}{self.user_end}"
            f"{{% elif m['role'] == 'assistant' %}}<|assistant|>{self.after_role}{thinking}{{{{ said }}}}{calls}{end}"
            f"{{% else %}}<|tool|>{self.after_role}{{{{ {content} }}}}{self.user_end}"
            "{% endif %}{% endfor %}"
        )
        opens = "<think>\n" if self.prompt_opens_thinking else ""
        parts.append(f"{{% if add_generation_prompt %}}<|assistant|>{self.after_role}{opens}{{% endif %}}")
        return "".join(parts)

    @property
    def user_end(self) -> str:
        """What stands behind a question."""
        return "" if self.end == "next role" else "\n" if self.end in ("eos", "lines") else f"{END}{self.after_end}"

    @property
    def system_end(self) -> str:
        """What stands behind the system's words."""
        return self.user_end


GRAMMARS = st.builds(
    Grammar,
    has_bos=st.booleans(),
    end=st.sampled_from(["own", "eos", "eos after the last", "next role", "lines"]),
    after_role=st.sampled_from(["", "\n", " ", "\n\n"]),
    after_end=st.sampled_from(["", "\n", " "]),
    trims=st.booleans(),
    system=st.sampled_from(["role", "role", "first user", "raises"]),
    default_system=st.booleans(),
    prompt_opens_thinking=st.booleans(),
    drops_thinking=st.booleans(),
    empty_thinking=st.booleans(),
    writes_tools=st.booleans(),
    alternates=st.booleans(),
)

FILLERS = st.sampled_from(["", " ", "\n", "\n\n", "  ", "é", "数", "🙂", ".", "- a\n- b", "</", "{{ x }}", "5"])


@st.composite
def message(draw: st.DrawFn, number: int, role: str) -> Message:
    """Draw a message. Its words are those of no other one."""
    words = f"vor{number}n qual{number}t"
    made: Message = {"role": role, "content": f"{draw(FILLERS)}{words}{draw(FILLERS)}"}
    if role != "assistant":
        return made
    form = draw(st.sampled_from(["plain", "plain", "think", "key", "empty", "call", "context"]))
    if form == "think":
        made["content"] = f"<think>\nhm{number}h\n</think>\n\n{words}"
    elif form == "key":
        made["reasoning_content"] = f"hm{number}h"
    elif form == "empty":
        made["content"] = draw(st.sampled_from(["", " "]))
    elif form == "call":
        arguments = {"city": f"cit{number}y"}
        made["tool_calls"] = [{"type": "function", "function": {"name": f"fu{number}n", "arguments": arguments}}]
        made["content"] = draw(st.sampled_from([made["content"], None, ""]))
    elif form == "context":
        made["weight"] = 0
    return made


@st.composite
def rows(draw: st.DrawFn) -> Row:
    """Draw a row."""
    roles = draw(st.lists(st.sampled_from(["user", "assistant", "user", "assistant", "system", "tool"]), max_size=6))
    if draw(st.booleans()):
        roles = ["user", "assistant"] * (1 + len(roles) // 3)
    row: Row = {"messages": [draw(message(number, role)) for number, role in enumerate(roles)]}
    if draw(st.integers(0, 3)) == 0:
        row["tools"] = [TOOL]
    return row
