"""The lines that show progress where there is no terminal."""

import pytest

from pipeline import progress as progress_module
from pipeline.progress import progress


def test_a_log_has_a_line_at_the_start_and_the_rate_later(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    time = 100.0
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: time)
    with progress("evaluate mine-0", 50, done=2) as bar:
        assert capsys.readouterr().out == "evaluate mine-0: 2/50\n"
        time += 10
        bar.advance(4)
        assert capsys.readouterr().out == ""
        time += 10
        bar.advance(4, "loss 1.5")
        assert capsys.readouterr().out == "evaluate mine-0: 10/50  0.4 per second  loss 1.5\n"
        bar.advance(40)
        assert capsys.readouterr().out == "evaluate mine-0: 50/50  2.4 per second\n"
