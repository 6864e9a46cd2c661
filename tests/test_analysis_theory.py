"""The theory: gradient shapes, rates of risk reduction against the simulated flow, where objectives trade places."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from analysis.theory.base_model import BaseModel, strong, tempered, weak
from analysis.theory.flow import initial_rate, rates, risk_paths, risk_reduction, simulated_rate, velocity
from analysis.theory.shapes import MAIN, curvature, gradient_shape, peak, proposition_3_2
from analysis.theory.theorem import (
    LEMMA_E7_GAIN,
    LEMMA_E7_LOSS,
    Trade,
    prior_conditions,
    slack,
    theorem_holds,
    trade,
    trade_map,
)
from bll_sweeps.errors import ConfigError
from bll_sweeps.grid.axes import Objective
from bll_sweeps.objectives import family
from bll_sweeps.objectives.catalogue import main_catalogue

ALPHAS = st.floats(0.0, 12.0)
NOISES = st.floats(0.0, 1.0)


def power(alpha: float) -> Objective:
    return Objective(name=f"power-{alpha}", family="power", alpha=alpha)


objectives = st.one_of(
    st.sampled_from(sorted(MAIN)).map(MAIN.__getitem__),
    ALPHAS.map(power),
    st.builds(lambda e: Objective(name="unlikelihood", family="unlikelihood", epsilon=e), st.floats(1e-3, 1.0)),
)


@st.composite
def base_models(draw: st.DrawFn) -> BaseModel:
    """Any population of up to four kinds of context, over 4 to 60 labels; both ends are among them."""
    fixed = draw(st.sampled_from(["weak", "strong", "tempered", "any"]))
    vocabulary = draw(st.integers(4, 60))
    if fixed == "weak":
        return weak(vocabulary)
    if fixed != "any":
        model = strong(vocabulary, draw(st.floats(0.7, 1.0)))
        return model if fixed == "strong" else tempered(model, draw(st.floats(0.0, 1.0)))
    kinds = draw(st.lists(st.tuples(*[st.floats(0.01, 0.98)] * 2, st.floats(0.05, 1.0)), min_size=1, max_size=4))
    true_N, among_N, common_N = np.array(kinds).T
    return BaseModel(true_N, (1 - true_N) * among_N, common_N / common_N.sum(), vocabulary)


# --- gradient shapes --------------------------------------------------------------------------------------------


def test_the_main_objectives_are_those_of_the_catalogue() -> None:
    assert main_catalogue() == MAIN


@given(objectives, st.lists(st.floats(-6, 6), min_size=2, max_size=8), st.data())
def test_the_gradient_of_a_softmax_has_the_shape_of_lemma_3_1(
    objective: Objective, logits: list[float], data: st.DataObject
) -> None:
    """Central differences of f(softmax(z)[y]) against W_f, and against the flow's velocity for all logits."""
    z_V = np.array(logits)
    label = data.draw(st.integers(0, len(logits) - 1))

    def loss(z: np.ndarray) -> float:
        return float(family.value(objective, z[label] - np.logaddexp.reduce(z)))

    p = math.exp(z_V[label] - np.logaddexp.reduce(z_V))
    assume(objective.keep == "all" or abs(p - objective.threshold) > 1e-3)
    h = 1e-4
    slope_V = np.array([(loss(z_V + h * e) - loss(z_V - h * e)) / (2 * h) for e in np.eye(len(logits))])
    velocity_V = velocity(objective, z_V[None], np.array([label]))[0]
    assert -slope_V == pytest.approx(velocity_V, rel=1e-4, abs=1e-6)
    assert velocity_V[label] == pytest.approx(gradient_shape(objective, p), rel=1e-9, abs=1e-12)


@given(st.floats(0.05, 20.0))
def test_the_peak_of_the_alpha_family_is_at_alpha_over_one_plus_alpha(alpha: float) -> None:
    assert peak(power(alpha)) == pytest.approx(alpha / (1 + alpha), abs=2e-5)


@given(
    st.one_of(
        ALPHAS.map(power), st.floats(1e-3, 1.0).map(lambda e: Objective(family="unlikelihood", epsilon=e, name=""))
    )
)
@settings(max_examples=30)
def test_proposition_3_2_holds_where_f_is_convex_or_concave(objective: Objective) -> None:
    found = proposition_3_2(objective)
    if objective.family == "unlikelihood" or objective.alpha > 1.001:
        assert found.curvature == "concave"
    elif objective.alpha < 0.999:
        assert found.curvature == "convex"
    assert found.holds


def test_the_main_objectives_bend_as_their_formulas_say() -> None:
    assert {name: curvature(objective) for name, objective in MAIN.items()} == {
        "nll": "convex", "p": "linear", "p10": "concave", "p0.1": "convex", "p0.5": "convex", "p_above": "neither",
        "logp_above": "neither", "logp_below": "neither", "unlikelihood": "concave",
    }  # fmt: skip


def test_the_proposition_says_nothing_of_a_threshold() -> None:
    found = proposition_3_2(MAIN["logp_above"])
    assert (found.half, found.holds) == (None, None)
    assert found.peak == pytest.approx(0.2)


# --- base models ------------------------------------------------------------------------------------------------


@given(base_models())
def test_a_base_model_is_a_distribution(model: BaseModel) -> None:
    p_NV = model.probabilities()
    assert p_NV.shape == (len(model.weight_N), model.vocabulary)
    assert p_NV.sum(axis=1) == pytest.approx(np.ones(len(p_NV)))
    assert model.strength == pytest.approx(float(model.weight_N @ p_NV[:, 0]))


def test_the_ends_meet_the_assumptions_and_tempering_leads_from_one_to_the_other() -> None:
    for known in (0.7, 0.8, 1.0):
        assert all(one.holds for one in prior_conditions(strong(known=known)))
    assert not prior_conditions(weak())[0].holds
    assert tempered(strong(), 0).probabilities() == pytest.approx(np.full((3, 100), 0.01))
    assert tempered(strong(), 1).probabilities() == pytest.approx(strong().probabilities())
    strengths = [tempered(strong(), share).strength for share in np.linspace(0, 1, 20)]
    assert all(a < b for a, b in itertools.pairwise(strengths))


@pytest.mark.parametrize(
    ("make", "key"),
    [
        (lambda: strong(known=0.6), "known=0.6"),
        (lambda: tempered(weak(), 1.5), "share=1.5"),
        (lambda: weak(2), "vocabulary=2"),
        (lambda: BaseModel(np.array([0.9]), np.array([0.2]), np.ones(1)), "true_N="),
        (lambda: BaseModel(np.array([0.9]), np.array([0.0]), np.ones(1)), "wrong_N="),
        (lambda: BaseModel(np.array([0.9]), np.array([0.05]), np.array([0.7])), "weight_N="),
        (lambda: initial_rate(MAIN["p"], weak(), 1.2), "noise=1.2"),
        (lambda: theorem_holds(MAIN["p"], MAIN["nll"], 0.2, weak(), "strng"), "did you mean 'strong'"),  # type: ignore[arg-type]
    ],
)
def test_bad_values_are_named(make: object, key: str) -> None:
    with pytest.raises(ConfigError, match=key.replace(".", r"\.")):
        make()  # type: ignore[operator]


# --- the rate of risk reduction ---------------------------------------------------------------------------------


def crosses_nothing(objective: Objective, model: BaseModel) -> bool:
    """No label's p is near the objective's threshold, where the rate jumps."""
    p_M = np.concatenate([model.true_N, model.wrong_N])
    return objective.keep == "all" or bool((abs(p_M - objective.threshold) > 0.02).all())


@given(objectives, base_models(), NOISES)
@settings(max_examples=60)
def test_the_simulated_rate_matches_the_analytic_one(objective: Objective, model: BaseModel, noise: float) -> None:
    assume(crosses_nothing(objective, model))
    analytic = initial_rate(objective, model, noise)
    assert simulated_rate(objective, model, noise) == pytest.approx(analytic, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("name", sorted(MAIN))
def test_the_simulated_rate_matches_at_both_ends(name: str) -> None:
    for model, noise in itertools.product((weak(), strong(), tempered(strong(), 0.5)), (0.0, 0.1, 0.4)):
        analytic = initial_rate(MAIN[name], model, noise)
        assert simulated_rate(MAIN[name], model, noise) == pytest.approx(analytic, rel=1e-6, abs=1e-12)


def test_one_context_by_hand() -> None:
    """V = 3, p = (.5, .3, .2): -p lowers the risk by p^2 (1 - 2p + sum p^2) on a true label."""
    model = BaseModel(np.array([0.5]), np.array([0.3]), np.ones(1), 3)
    squares = 0.25 + 0.09 + 0.04
    assert rates(MAIN["p"], model) == pytest.approx((0.25 * (1 - 1 + squares), 0.5 * 0.3 * (squares - 0.8)))
    assert rates(MAIN["nll"], model) == pytest.approx((0.5 * squares, 0.5 * (squares - 0.8)))


@given(objectives, base_models())
@settings(max_examples=20)
def test_true_labels_lower_the_risk_and_it_stays_a_risk(objective: Objective, model: BaseModel) -> None:
    paths = risk_paths(objective, model, np.linspace(0, 3, 4))
    assert rates(objective, model)[0] >= 0
    assert (np.diff(paths.clean_T) <= 1e-12).all()
    assert (paths.mixed(0.3) >= -1).all() and (paths.mixed(0.3) <= 0).all()


def test_halving_the_steps_changes_nothing_that_shows() -> None:
    for name, model in itertools.product(("nll", "p", "unlikelihood"), (weak(20), strong(20))):
        coarse, fine = (risk_reduction(MAIN[name], model, 0.3, 10.0, step) for step in (0.1, 0.05))
        assert coarse == pytest.approx(fine, abs=1e-6)


def test_in_the_long_run_every_label_is_learnt_also_the_wrong_ones() -> None:
    path = risk_paths(MAIN["nll"], strong(20), np.array([0.0, 200.0]))
    assert path.mixed(0.4)[-1] == pytest.approx(-0.6, abs=0.01)


# --- the theorem ------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(1e-3, 1.0), min_size=3, max_size=8))
def test_the_constants_of_lemma_e7_bound_every_distribution(weights: list[float]) -> None:
    p_V = np.array(weights) / sum(weights)
    mass, squares = p_V[0] + p_V[1], float((p_V**2).sum())
    assert p_V[0] * p_V[1] * (squares - mass) <= LEMMA_E7_GAIN + 1e-12
    if 0.55 <= mass <= 0.95:
        assert mass - squares >= LEMMA_E7_LOSS - 1e-12


def test_the_constants_of_lemma_e7_are_attained() -> None:
    a = (9 - math.sqrt(33)) / 24
    assert a * a * (2 * a * a + (1 - 2 * a) ** 2 - 2 * a) == pytest.approx(LEMMA_E7_GAIN, rel=1e-12)
    least = [mass - mass**2 - (1 - mass) ** 2 for mass in (0.55, 0.95)]
    assert least == pytest.approx([LEMMA_E7_LOSS] * 2)


def test_c_and_d_of_the_papers_pair() -> None:
    """-q (f2' - f1')(q) = 1 - q: the literal reading gives c/d = 20, which is not below 10 (docs/theory.md)."""
    assert slack(MAIN["p"], MAIN["nll"]) == pytest.approx((1.0, 0.05))
    assert slack(MAIN["p10"], MAIN["nll"]) == pytest.approx((1.0, 1 - 0.95**10))
    failed = [one.name for one in theorem_holds(MAIN["p"], MAIN["nll"], 0.3, strong()).conditions if not one.holds]
    assert failed == ["c/d < 10"]


@given(ALPHAS, ALPHAS, base_models())
@settings(max_examples=40)
def test_the_simulated_flows_trade_places_at_the_closed_form(alpha1: float, alpha2: float, model: BaseModel) -> None:
    f1, f2 = power(alpha1), power(alpha2)
    at = trade(f1, f2, model).noise
    assume(not math.isnan(at))
    slope = abs(trade(f1, f2, model).noisy - trade(f1, f2, model).clean)
    difference = simulated_rate(f1, model, at) - simulated_rate(f2, model, at)
    assert abs(difference) <= 1e-9 + 1e-6 * slope


def test_where_nothing_trades_places_there_is_no_line() -> None:
    assert math.isnan(trade(MAIN["p"], MAIN["p"], strong()).noise)
    assert math.isnan(Trade(0.1, 0.2).noise)
    assert Trade(-0.1, 0.3).noise == pytest.approx(0.25)


def simulated_order(f1: Objective, f2: Objective, model: BaseModel) -> tuple[float, float]:
    """The difference of the simulated rates for true and for wrong labels."""
    clean, noisy = (simulated_rate(f1, model, e) - simulated_rate(f2, model, e) for e in (0.0, 1.0))
    return clean, noisy


PAIRS = [("p", "nll"), ("p10", "nll"), ("p10", "p"), ("p10", "p0.5"), ("p", "p0.1")]


def test_the_order_is_as_the_theorem_says_wherever_its_conditions_hold() -> None:
    """On a grid noise x prior strength x pairs, by the simulation; and they do hold in places at both ends."""
    met = {"strong": 0, "weak": 0}
    for first, second in PAIRS:
        f1, f2 = MAIN[first], MAIN[second]
        for share in (0.0, 0.5, 0.9, 1.0):
            model = tempered(strong(12), share)
            clean, noisy = simulated_order(f1, f2, model)
            for noise in np.linspace(0, 1, 21):
                difference = (1 - noise) * clean + noise * noisy
                if theorem_holds(f1, f2, noise, model, "strong").holds:
                    met["strong"] += 1
                    assert difference >= -1e-10
                if theorem_holds(f1, f2, noise, model, "weak").holds:
                    met["weak"] += 1
                    assert difference <= 1e-10
    assert met["strong"] >= 50 and met["weak"] == 5 * 19  # above noise 11/12 a label says less than none


def test_below_the_noise_bound_the_order_is_the_other_one() -> None:
    model = strong()
    bound = trade(MAIN["p10"], MAIN["nll"], model).noise
    clean, noisy = simulated_order(MAIN["p10"], MAIN["nll"], model)
    for noise, sign in ((0.8 * bound, -1), (1.2 * bound, 1)):
        assert sign * ((1 - noise) * clean + noise * noisy) > 1e-4
        assert theorem_holds(MAIN["p10"], MAIN["nll"], noise, model).holds == (sign > 0)


def test_at_the_weak_end_they_trade_places_where_labels_say_nothing() -> None:
    assert trade(MAIN["p"], MAIN["nll"], weak(50)).noise == pytest.approx(1 - 1 / 50)


def test_the_map_has_the_signs_of_its_line_and_a_region_only_where_the_prior_is_strong() -> None:
    found = trade_map(MAIN["p"], MAIN["nll"], strong(), list(np.linspace(0, 1, 11)), [0.0, 0.5, 1.0])
    assert found.rate_SE.shape == found.holds_SE.shape == (3, 11)
    for row_E, at in zip(found.rate_SE, found.line_S, strict=True):
        assert (row_E[found.noise_E > at] > 0).all() and (row_E[found.noise_E < at] < 0).all()
    assert not found.holds_SE[:2].any() and found.holds_SE[2].any()
    assert (found.rate_SE[found.holds_SE] > 0).all()
    assert found.ratio == pytest.approx(20)
