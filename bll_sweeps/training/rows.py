"""The rows that a domain trains on, before tokenization. No torch: the lab generates rows, training consumes
them.
"""

from __future__ import annotations

from typing import NamedTuple


class Row(NamedTuple):
    """One demonstration. `answer` is what is trained on; `clean_answer` differs from it under label noise."""

    question: str
    answer: str
    clean_answer: str

    @property
    def noisy(self) -> bool:
        return self.answer != self.clean_answer
