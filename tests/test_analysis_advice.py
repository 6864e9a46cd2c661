"""Advice: what counts as evidence, what it says of a setting, what would settle it, and its test by leaving out."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pandas as pd
import pytest

from analysis.advice.advise import advise, plain
from analysis.advice.evidence import Conditions, Evidence, conditions_of, prior_strength, read_evidence
from analysis.advice.judge import SURE, judge
from analysis.advice.paper import reported_in
from analysis.advice.text import advice_text, validation_text
from analysis.advice.validate import validate, validation_plain
from analysis.statistics.intervals import Interval
from bll_sweeps.cli import run
from bll_sweeps.errors import StoreError, UsageError
from bll_sweeps.grid.axes import Noise
from tests.analysis_store import StoreBuilder, lab_cells, lab_store

OBJECTIVES = ("base", "nll", "p", "logp_above")
STRONG, WEAK = Interval(0.97, 0.96, 0.98, 300), Interval(0.06, 0.05, 0.07, 300)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    lab_store(root, objectives=OBJECTIVES, questions=50)
    return root


@pytest.fixture(scope="module")
def evidence(root: Path) -> Evidence:
    return read_evidence(root)


def test_evidence_is_the_gains_of_every_setting_by_the_primary_decoding(evidence: Evidence) -> None:
    assert len(evidence.table) == 9 * 2
    assert evidence.table["decoding"].unique().tolist() == ["primary"]
    assert (evidence.objectives, evidence.sweeps, evidence.left_out) == (["p", "logp_above"], ["lab"], [])
    row = evidence.at("lab-c", "rot", "p")
    assert row is not None and row["gain"] < -0.2  # by sampling; by greedy decoding it would be -1


def test_another_noise_recipe_or_variant_is_left_out_and_named(tmp_path: Path) -> None:
    builder = lab_store(tmp_path, objectives=("nll", "p"), questions=20)
    noisy = lab_cells(("nll", "p"), (("lab-b", "rot"),), (Noise(kind="uniform", rate=0.4),), questions=20)
    (one, overrides), *_ = lab_cells(("p",), (("lab-a", "rot"),), questions=20)
    longer = dataclasses.replace(one, recipe=dataclasses.replace(one.recipe, steps=999), seed=7)
    rows = dataclasses.replace(one, seed=8)
    cells = [*noisy, (longer, [*overrides, "seed=7"]), (rows, [*overrides, "domain.rows=9", "seed=8"])]
    for cell, _ in cells:
        builder.finish(cell)
    builder.launch(cells, sweep="more")
    found = read_evidence(tmp_path)
    assert len(found.table) == 9
    assert found.left_out == [
        "another label noise (uniform 0.4): lab-b x rot",
        "another recipe (sft): lab-a x rot",
        "another variant (domain.rows=9): lab-a x rot",
    ]
    assert read_evidence(tmp_path, Conditions(("uniform", 0.4), found.conditions.recipe)).table[
        "backbone"
    ].tolist() == ["lab-b"]


def test_what_a_whole_sweep_set_is_a_variant_too_and_seeds_are_none(tmp_path: Path) -> None:
    builder = lab_store(tmp_path, objectives=("nll", "p"), questions=20)
    both = lab_cells(("nll", "p"), (("lab-a", "rot"),), seeds=(0, 1), questions=20)
    own = ["domain.rows=50", "domain.seed='${seed}'"]
    cells = [
        (dataclasses.replace(one, domain=dataclasses.replace(one.domain, rows=50)), [*overrides, *own])
        for one, overrides in both
    ]
    for cell, _ in cells:
        builder.finish(cell)
    builder.launch(cells, sweep="more")
    found = read_evidence(tmp_path)
    assert found.left_out == ["another variant (domain.rows=50): lab-a x rot"]
    row = found.at("lab-a", "rot", "p")
    assert row is not None and (row["sweep"], row["seeds"]) == ("lab", 1)
    recipe = dataclasses.asdict(cells[0][0].recipe)
    asked = read_evidence(tmp_path, conditions_of(("uniform", 0.2), recipe, ["backbone=lab-a", "domain.rows=50"]))
    assert set(asked.table["sweep"]) == {"more"} and len(asked.table) == 1
    assert asked.left_out[0].startswith("another variant (as configured): ")


def test_what_an_earlier_launch_had_otherwise_is_no_evidence(tmp_path: Path) -> None:
    """A sweep was launched again after its benchmark had changed: the cells of then are no majority."""
    builder = lab_store(tmp_path, objectives=("nll", "p"), questions=20)
    again = [
        (dataclasses.replace(one, benchmark=dataclasses.replace(one.benchmark, max_new_tokens=9)), overrides)
        for one, overrides in lab_cells(("nll", "p"), questions=20)
    ]
    for one, _ in again:
        builder.finish(one)
    builder.launch(again, number=2)
    found = read_evidence(tmp_path)
    assert found.conditions is not None and found.conditions.more == ()
    assert len(found.table) == 9 and [text.partition(":")[0] for text in found.left_out] == [
        "another variant (as of launch 1)"
    ]


def test_a_setting_of_several_sweeps_counts_once_with_the_most_seeds(tmp_path: Path) -> None:
    builder = lab_store(tmp_path, objectives=("nll", "p"), questions=20)
    more = lab_cells(("nll", "p"), (("lab-c", "spell"),), seeds=(0, 1, 2), questions=20)
    for cell, _ in more:
        builder.finish(cell)
    builder.launch(more, sweep="more")
    found = read_evidence(tmp_path)
    row = found.at("lab-c", "spell", "p")
    assert len(found.table) == 9
    assert row is not None and (row["seeds"], row["sweep"]) == (3, "more")
    assert read_evidence(tmp_path, sweeps=["lab"]).sweeps == ["lab"]
    with pytest.raises(UsageError, match="sweep='lob' is unknown; did you mean 'lab'"):
        read_evidence(tmp_path, sweeps=["lob"])


def test_a_recipe_is_the_same_whatever_it_is_called(evidence: Evidence) -> None:
    (one, _), *_ = lab_cells(("p",), (("lab-a", "rot"),))
    recipe = dataclasses.asdict(dataclasses.replace(one.recipe, name="other"))
    assert conditions_of(("uniform", 0.2), recipe) == evidence.conditions
    assert conditions_of(("none", 0.3), recipe) == conditions_of(("uniform", 0.0), recipe)


def test_a_new_setting_is_advised_by_its_prior_strength(evidence: Evidence) -> None:
    strong = advise(evidence, "new", "spell", STRONG, ["nll", "p"])
    weak = advise(evidence, "new", "spell", WEAK, ["p"])
    assert (strong.favoured, strong.leaning, strong.region) == ("p", "p", "MS")
    assert (weak.favoured, weak.leaning, weak.region) == ("nll", "nll", "MW")
    for one in (*strong.judgements, *weak.judgements):
        assert one.by == "predicted" and one.measured is None and one.predicted is not None
        assert one.predicted.settings == 9
        assert one.predicted.low < one.predicted.gain < one.predicted.high


def test_between_the_ends_the_evidence_does_not_decide_and_says_so(evidence: Evidence) -> None:
    advice = advise(
        evidence, "new", "spell", Interval(0.6, 0.59, 0.61, 300), ["p"], ["backbone=new", "benchmark=spell"]
    )
    assert advice.favoured == ""
    assert "advice: undecided, leaning to" in advice_text(advice)
    own, other = advice.settle
    assert own.command == "bll launch objective=nll,p backbone=new benchmark=spell seed=0,1,2"
    assert other.overrides[:2] == ["sweep=lab", "objective=nll,p"] and "the widest interval nearby" in other.why


def test_a_significant_measurement_at_the_setting_itself_decides(evidence: Evidence) -> None:
    """Also where its prior strength alone would favour -p; of one seed, which is said and for which more are asked."""
    mine = evidence.table["point"] == "lab-c · rot"
    strong = evidence.table.assign(prior=evidence.table["prior"].mask(mine, STRONG.mean))
    advice = advise(dataclasses.replace(evidence, table=strong), "lab-c", "rot", WEAK, ["p"], ["backbone=lab-c"])
    one = advice.judgements[0]
    assert one.predicted is not None and one.predicted.better > SURE
    assert (one.verdict, one.by, advice.favoured) == ("worse", "measured", "nll")
    assert "advice: nll (by what was measured; of one seed, another may say otherwise)" in advice_text(advice)
    assert [(launch.command, launch.why) for launch in advice.settle] == [
        (
            "bll launch sweep=lab objective=nll,p backbone=lab-c seed=0,1,2,3",
            "one seed does not tell what others give",
        )
    ]
    assert advise(dataclasses.replace(evidence, table=strong.assign(seeds=3)), "lab-c", "rot", WEAK, ["p"]).settle == []


def test_a_setting_of_the_evidence_has_its_prior_strength_there(evidence: Evidence) -> None:
    """Over all seeds, as its gains are, not that of the one prior job that was measured for the question."""
    row = evidence.at("lab-a", "spell", "p")
    assert row is not None
    several = dataclasses.replace(evidence, table=evidence.table.assign(seeds=3))
    advice = advise(several, "lab-a", "spell", WEAK, ["p"])
    assert (advice.prior.mean, advice.prior.low, advice.prior.high) == (
        row["prior"],
        row["prior_low"],
        row["prior_high"],
    )
    assert advice.region == "MS" and "over 3 seeds), model-strong" in advice_text(advice)
    (validated,) = validate(several, ["p"]).query("backbone == 'lab-a' and domain == 'spell'").to_dict("records")
    said = advice.judgements[0].predicted
    assert said is not None and (said.gain, said.better) == (validated["predicted"], validated["better"])
    assert advise(evidence, "new", "spell", WEAK, ["p"]).prior == WEAK


def test_launches_that_would_settle_it_keep_the_conditions_of_the_question(tmp_path: Path) -> None:
    noise = Noise(kind="uniform", rate=0.4)
    lab_store(tmp_path, objectives=("nll", "p"), noises=(noise,), questions=10)
    found = read_evidence(tmp_path)
    asked = ["backbone=new", "benchmark=spell", "domain.noise.kind=uniform", "domain.noise.rate=0.4", "seed=1"]
    advice = advise(found, "new", "spell", Interval(0.3, 0.2, 0.4, 300), ["p"], asked)
    others = [one.command for one in advice.settle if "backbone=new" not in one.command]
    assert others and all("domain.noise.kind=uniform domain.noise.rate=0.4" in command for command in others)


def test_a_setting_is_not_predicted_from_itself(evidence: Evidence) -> None:
    before = judge(evidence, "lab-c", "rot", WEAK, "p")
    mine = evidence.table["point"] == "lab-c · rot"
    moved = evidence.table.assign(
        gain=evidence.table["gain"].mask(mine, 0.9), prior=evidence.table["prior"].mask(mine, 0.9)
    )
    after = judge(dataclasses.replace(evidence, table=moved), "lab-c", "rot", WEAK, "p")
    assert before.predicted == after.predicted
    assert before.predicted is not None and before.predicted.settings == 8


def test_a_measurement_that_holds_zero_asks_for_more_seeds(tmp_path: Path) -> None:
    lab_store(tmp_path, objectives=("nll", "p"), points=(("lab-c", "spell"),), questions=10)
    advice = advise(read_evidence(tmp_path), "lab-c", "spell", WEAK, ["p"], ["backbone=lab-c", "benchmark=spell"])
    assert advice.judgements[0].measured is not None and not advice.judgements[0].measured.significant
    assert [one.command for one in advice.settle] == [
        "bll launch sweep=lab objective=nll,p backbone=lab-c benchmark=spell seed=0,1,2,3"
    ]
    assert advice.settle[0].why == "one seed does not tell what others give"


def test_evidence_that_lacks_an_objective_is_asked_for_nearest_first(tmp_path: Path) -> None:
    builder = lab_store(tmp_path, objectives=("nll",), questions=10)
    cells = lab_cells(("nll", "p"), questions=10)
    for cell, _ in cells:
        for job in cell.jobs():
            builder.spec(job)
    builder.launch(cells, number=2)
    advice = advise(read_evidence(tmp_path), "new", "spell", WEAK, ["p"])
    assert (advice.favoured, advice.leaning) == ("", "")
    assert "advice: none, there is no evidence" in advice_text(advice)
    lacking = [one for one in advice.settle if "lacks p or nll" in one.why]
    assert lacking[0].command == "bll launch sweep=lab objective=nll,p backbone=lab-a benchmark=add"
    assert len(lacking) == 3


def test_what_was_never_launched_is_left_out(tmp_path: Path) -> None:
    builder = lab_store(tmp_path, objectives=("nll",), questions=10)
    builder.launch(lab_cells(("nll", "p"), questions=10), number=2)
    assert (
        read_evidence(tmp_path).left_out[0].startswith("never launched, random weights, or without a readable spec: ")
    )


def test_an_empty_store_has_no_evidence_and_every_text_says_so(tmp_path: Path) -> None:
    none = read_evidence(tmp_path)
    advice = advise(none, "lab-a", "spell", STRONG)
    assert (advice.favoured, advice.leaning) == ("", "")
    assert "evidence: none" in advice_text(advice)
    assert validation_text(none, validate(none)) == "no setting has been compared with NLL by the primary decoding\n"


def test_the_paper_is_quoted_by_region() -> None:
    strong, weak = (reported_in(place, ["p"])[0] for place in ("MS", "MW"))
    assert (strong.settings, strong.above, weak.settings, weak.above) == (4, 4, 4, 0)
    assert strong.gain > 0.05 > 0 > weak.gain


def test_beyond_the_evidence_the_fit_only_bounds_the_gain_and_the_paper_leans(evidence: Evidence) -> None:
    """Below the weakest of settings that all gain, anything may be; above the strongest it is no less."""
    table = evidence.table[evidence.table["prior"] > 0.9]
    assert set(table["objective"]) == {"p", "logp_above"}
    spread = table.assign(prior=table.groupby("objective")["prior"].rank() / 20 + 0.4, gain=0.3, seed_sd=0.0)
    some = dataclasses.replace(evidence, table=pd.concat([spread, spread.assign(backbone="more")]))
    below, above = (judge(some, "new", "spell", Interval(p, p, p, 300), "p") for p in (0.05, 0.99))
    assert below.beyond and below.predicted is not None and math.isnan(below.predicted.better)
    assert (below.verdict, below.sure, below.predicted.low) == ("undecided", False, -1.0)
    assert below.paper is not None and below.foreseen == below.paper.gain < 0
    assert (above.verdict, above.by, above.foreseen) == ("better", "predicted", pytest.approx(0.3))
    assert above.predicted is not None and above.predicted.high == 1.0

    advice = advise(some, "new", "spell", Interval(0.05, 0.04, 0.06, 300), ["p"])
    assert (advice.favoured, advice.leaning) == ("", "nll")
    assert "prior strength beyond theirs, where they do not tell the sign; the paper leans" in advice_text(advice)
    nowhere = judge(some, "new", "spell", Interval(0.05, 0.04, 0.06, 300), "logp_below")
    assert nowhere.paper is None and math.isnan(nowhere.foreseen)


def test_each_setting_is_left_out_once_and_judged(evidence: Evidence) -> None:
    table = validate(evidence)
    assert len(table) == 18
    p = table[table["objective"] == "p"].set_index(["backbone", "domain"])
    assert p.loc[("lab-b", "rot"), "advice"] == "p" and p.loc[("lab-c", "rot"), "advice"] == "nll"
    assert (p["right"] == ((p["foreseen"] > 0) == (p["measured"] > 0))).all()
    assert 0 < p["right"].sum() < 9  # prior strength cannot know what is peculiar to a task
    text = validation_text(evidence, table)
    n = int(p["significant"].sum())
    told = f"p: {n} significant differences at {n} left-out settings; right on "
    told += f"{int(p['right'][p['significant']].sum())} of {n} ("
    assert f"\n{told}" in text and "fewer than" not in text
    assert text.count("pooled") == 2
    assert json.dumps(validation_plain(table))


def test_a_setting_with_two_objectives_counts_once_and_too_few_are_called_so(evidence: Evidence) -> None:
    table = validate(evidence)
    two = table[(table["backbone"] == "lab-b") & (table["domain"] == "rot")].assign(significant=True)
    assert len(two) == 2
    told = validation_text(evidence, two)
    assert "all: 2 significant differences at 1 left-out settings; right on " in told
    assert "fewer than 10: too few to tell how good the advice is" in told


def test_significant_differences_without_advice_are_not_passed_over(evidence: Evidence) -> None:
    """Four settings leave three others, which foretell nothing."""
    few = dataclasses.replace(evidence, table=evidence.table[evidence.table["backbone"] != "lab-c"].iloc[:8])
    table = validate(few, ["logp_above"]).assign(significant=True)
    assert 0 < len(table) < 5 and (table["advice"] == "").all()
    told = validation_text(few, table)
    assert f"logp_above: {len(table)} significant differences" in told and f"; {len(table)} without advice" in told
    assert "no left-out setting has" not in told


def test_advice_as_json_has_null_for_what_is_not_known(evidence: Evidence) -> None:
    told = json.loads(json.dumps(plain(advise(evidence, "new", "spell", WEAK, ["p", "p10"])), allow_nan=False))
    assert told["judgements"][1]["predicted"] is None
    assert told["judgements"][0]["crossover"]["settings"] == 9
    assert told["evidence"] == {"sweeps": ["lab"], "settings": 9, "left_out": []}


def test_prior_strength_is_read_from_its_job(root: Path, evidence: Evidence) -> None:
    (one, _), *_ = lab_cells(("base",), (("lab-a", "rot"),))
    row = evidence.at("lab-a", "rot", "p")
    found = prior_strength(root, one.prior.id)
    assert row is not None and (found.mean, found.low) == pytest.approx((row["prior"], row["prior_low"]))
    with pytest.raises(StoreError, match="prior-0 has no result"):
        prior_strength(root, "prior-0")


def test_seeds_with_backbones_of_their_own_are_placed_by_their_mean_prior(tmp_path: Path) -> None:
    builder = StoreBuilder(tmp_path, questions=20)
    cells = []
    for seed in (0, 1, 2):
        for one, overrides in lab_cells(("nll", "p"), (("lab-c", "spell"),), seeds=(seed,), questions=20):
            made = one.backbone.pretraining
            assert made is not None
            backbone = dataclasses.replace(one.backbone, pretraining=dataclasses.replace(made, seed=seed))
            cells.append((dataclasses.replace(one, backbone=backbone), overrides))
    for cell, _ in cells:
        builder.finish(cell)
    builder.launch(cells)
    row = read_evidence(tmp_path).at("lab-c", "spell", "p")
    own = [prior_strength(tmp_path, cell.prior.id).mean for cell, _ in cells[::2]]
    assert len(set(own)) == 3
    assert row is not None and row["prior"] == pytest.approx(math.fsum(own) / 3)


def test_the_command_validates_a_store(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["advise", "--validate", "sweep=lab", "objective=p", "--root", str(root)]) == 0
    told = capsys.readouterr().out
    assert "significant differences at" in told and "logp_above" not in told
    for wrong, named in (("sweep=lob", "did you mean 'lab'"), ("objective=q", "objective='q' is unknown")):
        with pytest.raises(UsageError, match=named):
            run(["advise", "--validate", wrong, "--root", str(root)])


def test_gains_measured_here_are_compared_with_each_other_and_not_with_predictions(evidence: Evidence) -> None:
    """The other one is better by its prediction, whose gain is larger than what was measured of the first."""
    row = evidence.at("lab-a", "spell", "p")
    assert row is not None
    mine = (evidence.table["backbone"] == "lab-a") & (evidence.table["domain"] == "spell")
    measured = {"p": (0.29, 0.01, 0.57), "logp_above": (0.23, -0.05, 0.51)}
    table = evidence.table.copy()
    for name, ends in measured.items():
        at = mine & (table["objective"] == name)
        table.loc[at, ["gain", "gain_low", "gain_high"]] = ends
    others = ~mine & (table["prior"] > 0.5)
    table.loc[others, "gain"] = table.loc[others, "objective"].map({"p": 0.3, "logp_above": 0.5}).fillna(0.0)
    advice = advise(dataclasses.replace(evidence, table=table), "lab-a", "spell", STRONG, ["p", "logp_above"])
    judged = {one.objective: one for one in advice.judgements}
    assert judged["p"].by == "measured" and judged["logp_above"].by == "predicted"
    assert judged["logp_above"].expected > judged["p"].expected
    assert advice.favoured == "p"
    assert "advice: p (by what was measured; " in advice_text(advice)
    assert "; above nll by less: logp_above (as predicted))" in advice_text(advice)


def test_the_answers_that_gains_are_of_are_named(evidence: Evidence) -> None:
    assert "gains are of answers sampled at T=1" in advice_text(advise(evidence, "new", "spell", WEAK, ["p"]))


def test_a_launch_that_adds_seeds_to_a_sweep_leaves_their_meaning_to_it(evidence: Evidence) -> None:
    table = evidence.table.assign(gain_low=-0.5, gain_high=0.5, sweep="lab-continuum")
    some = dataclasses.replace(evidence, table=table)
    asked = ["backbone=lab-c", "backbone.pretraining.seed=3", "domain.seed=3", "domain.noise.rate=0.2"]
    launches = advise(some, "lab-c", "rot", WEAK, ["p"], asked).settle
    assert launches
    for launch in launches:
        assert launch.overrides[0] == "sweep=lab-continuum" and "domain.noise.rate=0.2" in launch.overrides
        assert not [text for text in launch.overrides if ".seed=" in text]
