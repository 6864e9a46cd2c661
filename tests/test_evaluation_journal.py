"""The journal: what was whole comes back, what was torn or damaged does not."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from bll_sweeps.evaluation.journal import Generation, digest, opened

BATCHES = {
    digest(i): [Generation(f"text {i}\n", False), Generation("é", True), Generation("", False)] for i in range(4)
}


def write(path: Path) -> None:
    with opened(path) as journal:
        for key, texts in BATCHES.items():
            journal.append(key, texts)


def test_a_journal_gives_back_its_batches(tmp_path: Path) -> None:
    write(tmp_path / "a")
    with opened(tmp_path / "b", [tmp_path / "missing", tmp_path / "a"]) as journal:
        assert all(journal.get(key) == texts for key, texts in BATCHES.items())
        assert journal.get(digest("another")) is None


@given(st.data())
def test_a_journal_cut_anywhere_gives_back_the_whole_lines_and_goes_on(tmp_path_factory, data: st.DataObject) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path_factory.mktemp("journal") / "j"
    write(path)
    text = path.read_bytes()
    cut = data.draw(st.integers(0, len(text)))
    path.write_bytes(text[:cut])
    whole = sum(end <= cut for end in (i for i, byte in enumerate(text) if byte == ord("\n")))
    with opened(path) as journal:
        assert sum(journal.get(key) is not None for key in BATCHES) == whole
        for key, texts in BATCHES.items():
            if journal.get(key) is None:
                journal.append(key, texts)
    with opened(path) as journal:
        assert all(journal.get(key) == texts for key, texts in BATCHES.items())


def test_a_damaged_line_counts_as_absent(tmp_path: Path) -> None:
    write(tmp_path / "j")
    text = (tmp_path / "j").read_text()
    (tmp_path / "j").write_text(text.replace("text 2", "text 7") + 'null\n[]\n{"key": 1}\n')
    with opened(tmp_path / "j") as journal:
        assert [key for key in BATCHES if journal.get(key) is None] == [digest(2)]
