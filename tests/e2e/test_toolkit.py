"""Whether docker can give cards to containers, as two of its programs answer."""

import pytest

from sft.host.launch import compose_checks

ENGINE = '#!/bin/sh\necho \'{{"runc":{{"path":"runc"}}{more}}}\'\n'


@pytest.mark.parametrize(
    ("more", "hook", "level", "found"),
    [
        ("", False, "failure", "docker has no nvidia runtime"),
        ("", True, "ok", "docker has no nvidia runtime, and needs none: nvidia-container-runtime-hook is installed"),
        (',"nvidia":{"path":"nvidia-container-runtime"}', False, "ok", "docker has the nvidia runtime"),
    ],
)
def test_the_runtime_or_the_hook_that_the_engine_looks_for(tmp_path, monkeypatch, more, hook, level, found):
    (tmp_path / "docker").write_text(ENGINE.format(more=more))
    (tmp_path / "docker").chmod(0o755)
    if hook:
        (tmp_path / compose_checks.HOOK).write_text("#!/bin/sh\n")
        (tmp_path / compose_checks.HOOK).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    check = compose_checks.toolkit()
    assert (check.level, check.found) == (level, found)
