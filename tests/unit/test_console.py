"""What people see on a terminal."""

from __future__ import annotations

import pytest

from cdc.cli.console import Reporter


def test_sections_of_the_configuration_are_no_markup(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # as if it were a terminal
    Reporter("capture")("check [log] url, and the topic [/x]")
    assert "check [log] url, and the topic [/x]" in capsys.readouterr().err
