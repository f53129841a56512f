"""The template of a run: which one it is, its variables and dates pinned, and every fault of it in one line."""

import datetime
import json

import pytest
import transformers

from sft.errors import SettingsError
from sft.settings.load import load
from sft.trainer.data import chat_template, probe
from sft.trainer.data.template_variables import DATE, pinned

from .chat_templates import CHATML, CHATML_MARKS, SWITCHES_THINKING, chat, tokeniser, trained, with_template

RECURSION = "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}"
NO_PROMPT = "{% if add_generation_prompt %}{{ raise_exception('no prompt') }}{% endif %}"
MESSAGES = [{"role": "user", "content": "Q?"}, {"role": "assistant", "content": "A"}]
ROW = chat("Q?", "A")


def refusal(tokenizer, template, **settings):
    """Return the one line with which a template is refused."""
    with pytest.raises(SettingsError) as caught:
        tokeniser(with_template(tokenizer, template, CHATML_MARKS), **settings)
    (line,) = str(caught.value).splitlines()
    return line


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("a\n{% for x in %}", "is not valid Jinja (line 2: Expected an expression, got 'end of statement block')"),
        ("{{ 1 + 'a' }}", "does not take a question and its answer: it refuses it (unsupported operand type(s) for +"),
        ("{% for x in none %}{% endfor %}", "does not take a question and its answer: it refuses it ('NoneType'"),
        (
            "{{ raise_exception('only\nsystems') }}",
            "does not take a question and its answer: it refuses it (only systems)",
        ),
        (RECURSION, "does not take a question and its answer: it refuses it (maximum recursion depth exceeded)"),
        ("{% include 'x' %}", "does not take a question and its answer: it refuses it (no loader"),
        (NO_PROMPT + CHATML, "writes no generation prompt behind a question: it refuses it (no prompt)"),
        ("<html>Not found</html>", "leaves out the question and the answer"),
        ("{{ messages[-1].content }}", "leaves out the question"),
    ],
)
def test_a_template_that_cannot_be_used_is_refused_by_the_name_of_its_setting(tokenizer, tmp_path, template, said):
    model = "MODEL_NAME=meta-llama/Llama-3.2-1B-Instruct: its chat template "
    line = refusal(tokenizer, template)
    assert line.startswith(model + said) and line.endswith("; set CHAT_TEMPLATE to another one")
    file = tmp_path / "mine.jinja"
    file.write_text(template)
    line = refusal(tokenizer, CHATML, chat_template=str(file))
    assert line.startswith(f"CHAT_TEMPLATE={file}: {said}") and line.endswith("; fix it, or choose another one")


def test_a_file_takes_the_place_of_the_models_template(tokenizer, tmp_path):
    file = tmp_path / "mine.jinja"
    file.write_text("\ufeff" + CHATML.replace("im_end", "end"))
    found = tokeniser(with_template(tokenizer, CHATML, (*CHATML_MARKS, "<|end|>")), chat_template=str(file))
    assert found.probe.template.source == "the file mine.jinja" and found.probe.ending.mark == "<|end|>"
    assert trained(found, ROW) == ["<|im_start|>user\nQ?<|end|>\n<|im_start|>assistant\n⟦A<|end|>⟧"]


def test_a_runs_own_copy_counts_whatever_became_of_the_file(tokenizer, tmp_path):
    kept = tmp_path / "kept.jinja"
    kept.write_text(CHATML)
    settings = load(None, chat_template=str(tmp_path / "gone.jinja"))
    found = chat_template.of(with_template(tokenizer, None, CHATML_MARKS), settings, kept)
    assert found.render(MESSAGES).startswith("<|im_start|>user\nQ?")


def test_one_of_the_models_named_templates_is_chosen(tokenizer):
    named = {"rag": CHATML, "tool_use": "{{ messages }}"}
    assert "has the chat templates rag, tool_use, and none is the default; choose one" in refusal(tokenizer, named)
    found = tokeniser(with_template(tokenizer, named, CHATML_MARKS), chat_template="rag")
    assert found.probe.template.source == "the model's rag"
    said = "CHAT_TEMPLATE=rga: no such file, and not one of rag, tool_use, chatml, plain; check the path"
    assert refusal(tokenizer, named, chat_template="rga") == said


def test_rows_with_tools_take_the_models_template_for_tools(tokenizer):
    named = {"default": CHATML, "tool_use": "{{ tools | tojson }}" + CHATML}
    found = tokeniser(with_template(tokenizer, named, CHATML_MARKS))
    assert found.probe.template.source == "the model's own"
    tool = {"type": "function", "function": {"name": "find", "parameters": {"type": "object", "properties": {}}}}
    with_tools, without = trained(found, ROW | {"tools": [tool]}), trained(found, ROW)
    assert with_tools[0].startswith('[{"type": "function"') and with_tools[0].endswith(without[0])


def test_chatml_is_refused_on_a_tokenizer_without_its_marks(tokenizer):
    with pytest.raises(SettingsError, match=r"CHAT_TEMPLATE=chatml: the tokenizer of \S+ has no <\|im_start\|> and no"):
        tokeniser(tokenizer, chat_template="chatml")
    found = tokeniser(with_template(tokenizer, None, CHATML_MARKS), chat_template="chatml")
    text = "<s><|im_start|>user\nQ?<|im_end|>\n<|im_start|>assistant\n⟦A<|im_end|>⟧"
    assert trained(found, ROW) == [text] and found.probe.added_stops == ["<|im_end|>"]


# Variables


def test_an_argument_steers_the_template(tokenizer):
    thinking = with_template(tokenizer, SWITCHES_THINKING, CHATML_MARKS)
    on, off = ({"chat_template_arguments": f'{{"enable_thinking": {value}}}'} for value in ("true", "false"))
    assert trained(tokeniser(thinking, **on), ROW)[0].endswith("assistant\n⟦<think>\n\n</think>\n\nA<|im_end|>⟧")
    assert trained(tokeniser(thinking, **off), ROW)[0].endswith("assistant\n<think>\n\n</think>\n\n⟦A<|im_end|>⟧")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("enable_thinkng", "the chat template does not read 'enable_thinkng'; write enable_thinking"),
        ("unheard_of", "the chat template does not read 'unheard_of'; leave it out"),
        ("assistant", "the chat template does not read 'assistant'; leave it out"),  # a word of its text
        ("role", "the chat template does not read 'role'; leave it out"),  # a key of a message
        ("message", "the chat template does not read 'message'; leave it out"),  # of a loop
        ("for", "the chat template does not read 'for'; leave it out"),
        ("a b", "'a b' is not a variable that can be set; leave it out"),
        *((name, f"'{name}' is not a variable that can be set; leave it out") for name in (
            "messages", "tools", "documents", "add_generation_prompt", "bos_token", "eos_token", "range", "namespace",
            "raise_exception", "strftime_now",
        )),
    ],
)  # fmt: skip
def test_an_argument_that_would_do_nothing_is_refused(tokenizer, name, said):
    arguments = json.dumps({name: 1})
    line = refusal(tokenizer, SWITCHES_THINKING, chat_template_arguments=arguments)
    assert line == f"CHAT_TEMPLATE_ARGUMENTS={arguments}: {said}"


@pytest.mark.parametrize(
    "text", ["[1]", "{", '{"a": NaN}', '{"a": 1e999}', '{"a": 1, "a": 2}', r'{"a": "\ud800"}', "x"]
)
def test_arguments_are_a_json_object(text):
    with pytest.raises(SettingsError, match="CHAT_TEMPLATE_ARGUMENTS=.*: is not a JSON object such as"):
        load(None, chat_template_arguments=text)


def rendered(template, **variables):
    """Render a template as every program with transformers does."""
    texts, _ = transformers.utils.chat_template_utils.render_jinja_template(
        [[{"role": "user", "content": "Q?"}]], chat_template=template, **variables
    )
    return texts[0]


VALUES = [
    "é😀", "\n", "%}", "}}", "{# x #}", "{{ y }}", "{%", "'", '"', "\\", "\\n", "\u2028", "\x00", "a\tb", "%d", "",
    None, True, False, 0, -1.5e-7, 1e20, 10**30, [], [[]], {},
    {"a": {"b": [1, None, {}]}}, {"é%}": {"}}": "{{"}}, {"1": {"x": {}}},
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_a_pinned_variable_is_what_an_argument_would_be(value):
    template = (
        "{{ x | tojson }}|{{ x is string }}{% macro f() %}{{ x }}{% endmacro %}{% for i in [1] %}{{ f() }}{% endfor %}"
    )
    assert rendered(pinned(template, {"x": value})) == rendered(template, x=value)
    assert rendered(pinned(template, {"x": value}), x="others'") == rendered(template, x="others'")


@pytest.mark.parametrize(
    "start",
    ["", "\n", "\n\n", " ", "  \n", "\t", "{# c #}", "{# c #}\n", "  {# c #}\n", "\n{%- if true %}a{% endif %}",
     "\r\n", "  {% if true %}a{% endif %}\n", "{%- if true %}a{% endif %}", "{% raw %}{{ }}{% endraw %}", "{{ '' }}\n",
     "text\n", "{%+ if true %}b{% endif %}", "  {%+ if true %}b{% endif %}", "# x\n", "{%- set date_string = 'x' %}\n"],
)  # fmt: skip
def test_a_template_renders_as_before_behind_its_pinned_variables(start):
    template = start + "{{ x | default('D') }}|{{ strftime_now('%d') and '' }}{{ date_string and '' }}"
    assert rendered(pinned(template, {"x": "D"})) == rendered(template)


def test_a_template_that_is_pinned_stays_as_it_is_when_the_model_is_trained_again():
    once = pinned("{{ date_string }}{{ strftime_now('%Y') }}{{ x }}", {"x": [1]})
    assert pinned(once, {"x": [1]}) == once and rendered(pinned(once, {"x": [2]})).endswith("2024[2]")


# Dates


class Later(datetime.datetime):
    """A clock of another day."""

    @classmethod
    def now(cls, tz=None):
        return cls(2031, 12, 1, 23, 59, 59)


def test_dates_are_the_same_on_every_day(monkeypatch):
    template = (
        "{% macro today(style) %}{{ strftime_now(style) }}{% endmacro %}{% set now = strftime_now %}"
        "{% for style in ['%d %b %Y', '%Y-%m-%d'] %}{{ today(style) }}, {% endfor %}"
        "{{ strftime_now(format='%-d. %B') }}, {{ now('%A %I:%M %p') }}, "
        "{{ strftime_now('%R %^a %C%g %-e') }}, {{ date_string }}"
    )
    before = rendered(pinned(template, {}))
    monkeypatch.setattr(transformers.utils.chat_template_utils, "datetime", Later)
    assert rendered("{{ strftime_now('%Y') }}") == "2031"
    assert rendered(pinned(template, {})) == before
    assert before == "26 Jul 2024, 2024-07-26, 26. July, Friday 12:00 AM, 00:00 FRI 2024 26, 26 Jul 2024"
    assert DATE.isoformat() == "2024-07-26T00:00:00"


def test_another_date_can_be_chosen(tokenizer):
    dated = with_template(tokenizer, "{{ date_string }}" + CHATML, CHATML_MARKS)
    found = tokeniser(dated, chat_template_arguments='{"date_string": "1 May 2025"}')
    assert trained(found, ROW)[0].startswith("1 May 2025<|im_start|>user")


@pytest.mark.parametrize("template", [CHATML, "\n  {{ date_string }}" + SWITCHES_THINKING])
def test_whoever_loads_the_exported_tokenizer_asks_as_the_model_was_trained(tokenizer, tmp_path, template):
    dated = with_template(tokenizer, template + "{{ strftime_now('%d/%m') }}", CHATML_MARKS)
    found = tokeniser(dated, chat_template_arguments="{}" if template == CHATML else '{"enable_thinking": false}')
    facts = probe.facts(found.probe, {})
    dated.chat_template = facts.templates["default"]
    dated.save_pretrained(tmp_path)
    loaded = transformers.AutoTokenizer.from_pretrained(tmp_path)
    text = loaded.apply_chat_template(MESSAGES[:1], tokenize=False, add_generation_prompt=True)
    ((sequence,),) = found.rows([("a.jsonl:7", ROW)])
    prompt = sequence.prompt_ids or sequence.ids[: sequence.answer_start]
    assert loaded(text, add_special_tokens=False).input_ids == prompt
