"""How a comparison of runs writes settings."""

from __future__ import annotations

import pytest

from trainers.report.comparison import _short


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (True, "on"),
        (False, "off"),
        (None, "–"),
        (0, "0"),
        (1, "1"),
        (1.0, "1.0"),
        ([1], "[1]"),
        ("x" * 50, "x" * 39 + "…"),
    ],
)
def test_numbers_are_not_switches(value, words):
    assert _short(value) == words
