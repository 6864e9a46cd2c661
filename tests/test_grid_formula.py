"""Formulas as text: what they may hold, their value and their derivative, in numpy, torch and plain floats."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bll_sweeps.errors import ConfigError
from bll_sweeps.grid.axes import Objective
from bll_sweeps.grid.axes.formula import Formula
from bll_sweeps.objectives.family import value, weight

LOGP = np.array([-20.0, -3.0, -0.7, -0.01, -1e-6])
FORMULAS = {
    "-(1 - p)**2 * logp": lambda logp: -((1 - logp.exp()) ** 2) * logp,
    "-q**g * logp": lambda logp: -((1 - logp.exp()) ** 1.5) * logp,
    "(1 - p**g) / g": lambda logp: (1 - (1.5 * logp).exp()) / 1.5,
    "log1p(q) + sqrt(q + 0.1)": lambda logp: torch.log1p(1 - logp.exp()) + (1.1 - logp.exp()).sqrt(),
    "exp(-p) - expm1(-q)": lambda logp: (-logp.exp()).exp() - torch.expm1(logp.exp() - 1),
    "where(p < 0.3, -logp, 1 - p)": lambda logp: torch.where(logp.exp() < 0.3, -logp, 1 - logp.exp()),
    "maximum(-logp, q) - minimum(p, 0.5)": lambda logp: (
        torch.maximum(-logp, 1 - logp.exp()) - logp.exp().clamp_max(0.5)
    ),
    "p**(1 + p) - 2**-p": lambda logp: logp.exp() ** (1 + logp.exp()) - 2 ** -logp.exp(),
    "-constant(p) * logp / (1 + g)": lambda logp: -logp.exp().detach() * logp / 2.5,
    "-entropy * logp": lambda logp: -0.25 * logp,
    "-log(p)": lambda logp: -logp,
    "(1 - p**0.5) / 0.5": lambda logp: (1 - (0.5 * logp).exp()) / 0.5,
    "log(q + 1e-3)": lambda logp: (1 - logp.exp() + 1e-3).log(),
}


@pytest.mark.parametrize("text", FORMULAS)
def test_value_and_weight_are_those_of_autograd(text: str) -> None:
    parameters = {"g": 1.5} if "g" in Formula(text, {"g": 1.5}).names else {}
    objective = Objective(name="own", family="formula", formula=text, parameters=parameters)
    logp = torch.tensor(LOGP, requires_grad=True)
    expected = FORMULAS[text](logp)
    (slope,) = torch.autograd.grad(expected.sum(), logp)
    for given_logp, entropy in ((LOGP, np.full(5, 0.25)), (logp.detach(), torch.full((5,), 0.25))):
        np.testing.assert_allclose(value(objective, given_logp, entropy), expected.detach(), rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(weight(objective, given_logp, entropy), -slope, rtol=1e-9, atol=1e-12)
    single = weight(objective, logp.detach().float(), torch.full((5,), 0.25))
    assert single.dtype == torch.float32
    np.testing.assert_allclose(single, -slope, rtol=1e-4, atol=1e-6)


@given(st.floats(-30, -1e-12), st.floats(0.01, 20))
def test_a_family_written_as_a_formula_is_the_family(logp: float, alpha: float) -> None:
    own = Objective(name="own", family="formula", formula="(1 - p**a) / a", parameters={"a": alpha})
    built_in = Objective(name="power", family="power", alpha=alpha)
    at = np.array([logp])
    assert value(own, at)[0] == pytest.approx(value(built_in, at)[0], rel=1e-9, abs=1e-9)
    assert weight(own, at)[0] == pytest.approx(weight(built_in, at)[0], rel=1e-9)


def test_1_minus_p_keeps_its_accuracy_next_to_1() -> None:
    objective = Objective(name="own", family="formula", formula="(1 - p)**2")
    assert value(objective, np.array([-1e-12]))[0] == pytest.approx(1e-24, rel=1e-9)


@pytest.mark.parametrize("text", ["-log(p)", "(1 - p**0.5) / 0.5", "-p * log(p)"])
def test_a_p_that_underflows_has_the_weight_of_its_log(text: str) -> None:
    objective = Objective(name="own", family="formula", formula=text)
    for logp in (-95.0, -120.0):
        found = weight(objective, torch.tensor([logp]))
        assert found.dtype == torch.float32 and found.isfinite().all()
    assert value(Objective(name="own", family="formula", formula="-log(p)"), torch.tensor([-120.0])).item() == 120.0


def test_spacing_is_no_other_objective_and_a_number_is() -> None:
    one = Objective(name="a", family="formula", formula="-(1-p)**g*logp", parameters={"g": 2.0})
    other = Objective(name="b", family="formula", formula="  -(1 - p) ** g * logp", parameters={"g": 2.0})
    assert one.identity() == other.identity()
    assert (
        one.identity()
        != Objective(name="a", family="formula", formula="-(1-p)**g*logp", parameters={"g": 3.0}).identity()
    )
    assert Objective(name="nll", family="nll").identity() == {"family": "nll"}


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"formula": ""}, "formula='' must say f"),
        ({"formula": "3"}, "formula='3' does not depend on p"),
        ({"formula": "-lgp"}, "has the name 'lgp': it is unknown; did you mean 'logp'"),
        ({"formula": "-(p"}, "is no formula"),
        ({"formula": "__import__('os').system('true')"}, "it may have numbers, names"),
        ({"formula": "().__class__"}, "it may have numbers, names"),
        ({"formula": "[p for p in q]"}, "it may have numbers, names"),
        ({"formula": "p if p else q"}, "it may have numbers, names"),
        ({"formula": "p < 0.5"}, "it may have numbers, names"),
        ({"formula": "sin(p)"}, "has the function 'sin'"),
        ({"formula": "minimum(p)"}, "gives minimum 1 arguments; it takes 2"),
        ({"formula": "where(p, 1, 2)"}, "must begin with a comparison"),
        ({"formula": "p * True"}, "is no number"),
        ({"formula": "p" + " + p" * 400}, "longer than 1000 characters"),
        ({"formula": "log(q)"}, "must be finite for p from 0 to 1.*it is not at p=1"),
        ({"formula": "1 / (p * p)"}, "it is not at p=0"),
        ({"formula": "sqrt(p)"}, "and its derivative too; it is not at p=0"),
        ({"formula": "-logp / entropy"}, "whatever the entropy; it is not at p=1"),
        ({"formula": "-logp / (1 - entropy)"}, "whatever the entropy; it is not at p=1"),
        (
            {"formula": "-logp", "anchor": 0.1, "keep": "above", "normaliser": "survivors"},
            "anchor=0.1 is over all tokens",
        ),
        ({"formula": "-q**0.5"}, "and its derivative too; it is not at p=1"),
        ({"formula": "-logp", "weight": "1 / q"}, "weight='1 / q' must be finite for p from 0 to 1; it is not at p=1"),
        ({"formula": "(-2)**0.5 * p"}, "must be finite"),
        ({"formula": "-logp", "parameters": {"g": 1.0}}, "parameters='g' are in neither"),
        ({"formula": "-logp * p", "parameters": {"p": 1.0}}, "has a parameter 'p', which is no free name"),
        ({"formula": "-logp * g", "parameters": {"g": math.inf}}, "has g=inf, which is not finite"),
    ],
)
def test_what_is_no_formula_is_named(given: dict[str, object], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        Objective(name="own", family="formula", **given)


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"formula": "1 / (p - 0.37)"}, "and its derivative too; it is not at p=0.37"),
        ({"formula": "1 / (p - 0.9995)"}, "it is not at p=1"),
        ({"formula": "p / (p - g) ** 2", "parameters": {"g": 0.613}}, "it is not at p=0.613"),
        ({"formula": "1 / (p*p - 2 * 0.613 * p + 0.613**2)"}, "it is not at p=0.613"),
        ({"formula": "1 / (p**2 - 0.003 * p + 0.000002)"}, "it is not at p=0.002"),
        ({"formula": "log((logp + 2) ** 2)"}, "it is not at p=0.135"),
        ({"formula": "log1p((logp + 2) ** 2 - 1)"}, "it is not at p=0.135"),
        ({"formula": "log((p - 0.5) * (p - 0.6))"}, "it is not at p=0.6"),
        ({"formula": "sqrt((p - 0.5)**2 - 0.0001)"}, "it is not at p=0.5"),
        ({"formula": "-logp", "weight": "p / (p - entropy / 2 - 0.1)"}, "whatever the entropy; it is not at p=0.6"),
    ],
)
def test_a_pole_is_found_wherever_it_lies(given: dict[str, object], problem: str) -> None:
    objective = Objective(name="own", family="formula", **given)
    with pytest.raises(ConfigError, match=problem):
        objective.check_poles()


@pytest.mark.parametrize(
    "formula",
    [
        "(p - 0.37) * logp",
        "(p - 0.37) / (p - 0.37) * p",
        "where(p > 0.5, 1 / (p - 0.4), p)",
        "minimum(p, 0.3) * 2",
        "maximum(0, p - 0.3) ** 1.5",
        "1 / (p**2 + 1e-6)",
        "-entropy ** 2 * logp",
        "exp(-1 / (p - 0.5) ** 2)",
    ],
)
def test_a_zero_that_is_no_pole_is_no_harm(formula: str) -> None:
    Objective(name="own", family="formula", formula=formula).check_poles()


@pytest.mark.parametrize(
    "given",
    [
        {"formula": "p"},
        {"weight": "p"},
        {"parameters": {"g": 1.0}},
        {"smoothing": 1.5},
        {"anchor": -1.0},
        {"entropy_top": 1},
    ],
)
def test_what_has_no_meaning_for_a_family_is_refused(given: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(given))):
        Objective(name="own", family="nll", **given)
