"""`bll advise`: the cell asked about, prior strength measured once, what it prints, and how it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bll_sweeps.cli import run
from bll_sweeps.cluster.advise import as_axes
from bll_sweeps.errors import ConfigError, UsageError
from bll_sweeps.grid.schema.config import conf_dir
from tests.analysis_store import POINTS, StoreBuilder
from tests.grids import cells


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store that knows the prior strength of lab-a on lab-spell, and nothing else."""
    monkeypatch.setitem(POINTS, ("lab-a", "lab-spell"), POINTS["lab-a", "spell"])
    builder = StoreBuilder(tmp_path)
    (one,) = cells("objective=base", "backbone=lab-a", "benchmark=lab-spell")
    assert one.pretrain is not None
    for job in (one.pretrain, one.prior):
        builder.spec(job)
    builder._pretrain(one.pretrain, one)
    builder._prior(one.prior, one)
    return tmp_path


def test_a_domain_is_asked_about_through_a_benchmark_of_it() -> None:
    composed, setting = as_axes(["domain=lab-spell", "backbone=lab-a", "objective=nll,p", "seed=1"], [conf_dir()])
    assert composed == ["objective=base,nll,p", "benchmark=lab-spell", "backbone=lab-a", "seed=1"]
    assert setting == ["backbone=lab-a", "benchmark=lab-spell", "seed=1"]
    assert as_axes(["domain=math", "backbone=x"], [conf_dir()])[1] == ["backbone=x", "benchmark=aime24"]
    assert as_axes(["benchmark=math500", "backbone=x"], [conf_dir()])[1] == ["backbone=x", "benchmark=math500"]


def test_what_is_missing_or_unknown_is_said_with_the_choices() -> None:
    with pytest.raises(UsageError, match="backbone=None is missing"):
        as_axes(["domain=lab-spell"], [conf_dir()])
    with pytest.raises(UsageError, match=r"domain=None is missing \(choose from figfont, lab-add"):
        as_axes(["backbone=lab-a"], [conf_dir()])
    with pytest.raises(UsageError, match="domain='lab-spel' is unknown; did you mean 'lab-spell'"):
        as_axes(["backbone=lab-a", "domain=lab-spel"], [conf_dir()])
    with pytest.raises(ConfigError, match="backbone='lab-a,lab-b' must be one"):
        as_axes(["backbone=lab-a,lab-b", "domain=lab-spell"], [conf_dir()])


def test_a_known_prior_strength_is_read_and_placed(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        run(["advise", "backbone=lab-a", "domain=lab-spell", "objective=nll,p", "--no-run", "--root", str(root)]) == 0
    )
    text = capsys.readouterr().out
    assert text.startswith("lab-a on lab-spell: prior strength .99")
    assert "model-strong" in text and "evidence: none in this store" in text
    assert "the paper, model-strong: p above nll at 4 of 4 settings" in text
    assert "bll launch objective=nll,p backbone=lab-a benchmark=lab-spell seed=0,1,2" in text
    assert not (root / "sweeps").exists()  # nothing was launched


def test_json_is_all_that_is_printed(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["advise", "backbone=lab-a", "domain=lab-spell", "--json", "--root", str(root)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["backbone"], told["region"], told["favoured"]) == ("lab-a", "MS", "")


def test_only_reading_refuses_what_is_not_measured(root: Path) -> None:
    with pytest.raises(UsageError, match="prior strength of backbone=lab-b on domain=lab-spell is not in"):
        run(["advise", "backbone=lab-b", "domain=lab-spell", "--no-run", "--root", str(root)])
    with pytest.raises(UsageError, match="objective"):
        run(["advise", "backbone=lab-a", "domain=lab-spell", "objective=nll,q", "--no-run", "--root", str(root)])
    with pytest.raises(UsageError, match="measures on this machine"):
        run(["advise", "backbone=lab-a", "domain=lab-spell", "hydra/launcher=slurm", "--root", str(root)])
    with pytest.raises(UsageError, match="has no meaning with --validate"):
        run(["advise", "--validate", "backbone=lab-a", "--root", str(root)])


def test_validation_of_a_store_without_comparisons_says_so(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["advise", "--validate", "--root", str(root)]) == 0
    assert "no setting has been compared" in capsys.readouterr().out


@pytest.mark.slow
def test_an_unknown_prior_strength_is_measured_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    asked = ["advise", "backbone=lab-tiny", "domain=lab-tiny", "--json", "--root", str(tmp_path)]
    assert run(asked) == 0
    first = capfd.readouterr()
    assert 0 < json.loads(first.out)["prior"]["mean"] < 0.2
    assert "2/2 jobs done" in first.err
    kinds = sorted(path.name.partition("-")[0] for path in (tmp_path / "jobs").iterdir())
    assert kinds == ["pretrain", "prior"]
    assert run([*asked, "--no-run"]) == 0
    again = capfd.readouterr()
    assert (again.out, again.err) == (first.out, "")
