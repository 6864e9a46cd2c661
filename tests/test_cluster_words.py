"""Numbers as people say them."""

from __future__ import annotations

import pytest

from bll_sweeps.cluster.words import duration, plural, size


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (4.24, "4.2 s"),
        (25, "25 s"),
        (150, "2.5 min"),
        (3000, "50 min"),
        (12_240, "3.4 h"),
        (4e5, "111 h"),
    ],
)
def test_durations_are_short(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(("count", "text"), [(512, "512 bytes"), (1.2 * 2**30, "1.2 GiB"), (5e13, "45 TiB")])
def test_sizes_are_short(count: float, text: str) -> None:
    assert size(count) == text


def test_one_is_no_plural() -> None:
    assert [plural(n, "job") for n in (0, 1, 2)] == ["0 jobs", "1 job", "2 jobs"]
