"""A run is trained with the chat template that it began with, whatever becomes of CHAT_TEMPLATE's file."""

import signal

import transformers

from sft.run.directory import Run

from .project import TIMEOUT_S, small, wait_until
from .test_stop_and_resume import UNENDING

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}<assistant>{{ m.content }}{{ eos_token }}"
    "{% else %}<user>In short: {{ m.content }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def test_a_run_keeps_its_chat_template(project):
    file = project.path / "mine.jinja"
    file.write_text(TEMPLATE)
    run = Run(project.path / "runs" / "own-template")
    settings = small(RUN_NAME=run.name, CHAT_TEMPLATE=file.name, **UNENDING)
    process = project.start("train", **settings)
    wait_until(lambda: run.state().step >= 3, process, run)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, output
    assert run.chat_template.read_text() == TEMPLATE

    file.write_text(TEMPLATE.replace("In short", "In French"))
    step = run.saved_step()
    resumed = project.inv("make", "resume", f"NAME={run.name}", "MAX_HOURS=0.002")
    assert resumed.returncode == 0 and f"resuming runs/{run.name} after step {step}" in resumed.stdout, resumed.stdout
    file.unlink()  # tests/e2e/test_opening.py resumes without it
    assert run.chat_template.read_text() == TEMPLATE

    again = project.inv("train", "--from", run.name, RUN_NAME="again-template", MAX_STEPS=2, MAX_HOURS=0, SAVE_STEPS=0)
    assert again.returncode == 0, again.stdout
    kept = f"runs/{run.name}/chat_template.jinja"
    assert f"differs: CHAT_TEMPLATE was mine.jinja, is {kept}" in again.stdout
    final = Run(project.path / "runs" / "again-template").final
    question = [{"role": "user", "content": "1 + 1?"}]
    asked = transformers.AutoTokenizer.from_pretrained(final).apply_chat_template(
        question, tokenize=False, add_generation_prompt=True
    )
    assert asked == "<s><user>In short: 1 + 1?<assistant>"

    refused = project.inv("train", **settings | {"RUN_NAME": "new", "CHAT_TEMPLATE": "other.jinja"})
    assert refused.returncode == 2 and "CHAT_TEMPLATE=other.jinja: no such file, and not one of chatml, plain;" in (
        refused.stdout
    )
