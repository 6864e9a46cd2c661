"""The two heads against float64 autograd of the plain formula: values, gradients, masks, dtypes, chunks."""

from __future__ import annotations

import importlib.util
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from bll_sweeps.errors import UsageError
from bll_sweeps.grid.axes import Objective
from bll_sweeps.objectives import heads
from bll_sweeps.objectives import objective_loss as objective_loss_module
from bll_sweeps.objectives.catalogue import NLL, main_catalogue
from bll_sweeps.objectives.chunks import IGNORE
from bll_sweeps.objectives.family import kept, value
from bll_sweeps.objectives.heads import Head, check_head, naive_loss
from bll_sweeps.objectives.heads import head as head_named
from bll_sweeps.objectives.objective_loss import Base, objective_loss
from bll_sweeps.objectives.token_logp import token_logp, token_logp_and_entropy

EXTRA = {
    "alpha_zero": Objective(name="alpha_zero", family="power", alpha=0.0),
    "alpha_tiny": Objective(name="alpha_tiny", family="power", alpha=1e-6),
    "alpha_20": Objective(name="alpha_20", family="power", alpha=20.0),
    "convexity": Objective(name="convexity", family="convexity", alpha=2.0),
    "unlikelihood_above": Objective(name="unlikelihood_above", family="unlikelihood", keep="above", threshold=0.1),
    "unlikelihood_below": Objective(name="unlikelihood_below", family="unlikelihood", keep="below", threshold=0.1),
    "nothing_kept": Objective(name="nothing_kept", family="nll", keep="above", threshold=1.0),
}
OBJECTIVES = {**main_catalogue(), **EXTRA}
every_objective = pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES.keys())


def problem(seed: int, rows: int = 40, spread: float = 3.0, masked: float = 0.3) -> tuple[Tensor, Tensor, Tensor]:
    """float64 hidden [N, 12], weight [17, 12], targets [N]: p from next to 0 to next to 1 as `spread` grows."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(rows, 12, dtype=torch.float64, generator=generator)
    weight = torch.randn(17, 12, dtype=torch.float64, generator=generator) * spread / 3
    target = torch.randint(0, 17, (rows,), generator=generator)
    # Half of the targets are the likeliest token.
    likely = torch.rand(rows, generator=generator) < 0.5
    target = torch.where(likely, (hidden @ weight.T).argmax(-1), target)
    target[torch.rand(rows, generator=generator) < masked] = IGNORE
    return hidden.requires_grad_(), weight.requires_grad_(), target


def exact_problem(seed: int, rows: int, scale: float, masked: float) -> tuple[Tensor, Tensor, Tensor]:
    """As `problem`, with logits k * scale, |k| <= 108: products of whole numbers and a power of two, which every dtype
    holds exactly, so that no error of the gradient can be put down to rounding of the logits.
    """
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randint(-1, 2, (rows, 12), generator=generator).double()
    weight = torch.randint(-9, 10, (17, 12), generator=generator).double() * scale
    target = torch.randint(0, 17, (rows,), generator=generator)
    likely = torch.rand(rows, generator=generator) < 0.5
    target = torch.where(likely, (hidden @ weight.T).argmax(-1), target)
    target[torch.rand(rows, generator=generator) < masked] = IGNORE
    return hidden.requires_grad_(), weight.requires_grad_(), target


def naive(
    hidden: Tensor, weight: Tensor, target: Tensor, objective: Objective, denominator: float
) -> tuple[Tensor, Tensor]:
    """The loss as one would write it, with every logit in float64, for autograd; and log p of the seen tokens."""
    seen = target != IGNORE
    logp = torch.log_softmax(hidden @ weight.T, -1)[seen].gather(1, target[seen][:, None])[:, 0]
    return value(objective, logp).sum() / denominator, logp


def gradients(loss: Tensor, *of: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss, of, retain_graph=True)


def assert_same(found, expected, rtol: float) -> None:
    """Equal relative to the largest entry, or to 1: autograd of expm1 is p off by an ulp of 1, ours is not."""
    for a, b in zip(found, expected, strict=True):
        assert (a.double() - b).abs().max() <= rtol * b.abs().max() + 1e-15


@every_objective
@pytest.mark.parametrize("spread", [0.3, 3.0, 30.0])
def test_loss_and_gradients_equal_float64_autograd_of_the_formula(objective, spread):
    hidden, weight, target = problem(1, spread=spread)
    expected, logp = naive(hidden, weight, target, objective, 23)
    for chunk in (0, 7):
        loss, found = objective_loss(hidden, weight, target, objective, 23, chunk)
        assert loss.dtype == torch.float64 and not found.requires_grad
        torch.testing.assert_close(loss, expected, rtol=1e-11, atol=1e-13)
        torch.testing.assert_close(found[target != IGNORE], logp, rtol=1e-11, atol=1e-14)
        assert (found[target == IGNORE] == 0).all()
        assert_same(gradients(loss, hidden, weight), gradients(expected, hidden, weight), 1e-11)


@every_objective
def test_the_differentiable_logp_gives_every_objective_by_the_chain_rule(objective):
    hidden, weight, target = problem(2)
    expected, _ = naive(hidden, weight, target, objective, 9)
    seen = target != IGNORE
    for chunk in (0, 5):
        loss = value(objective, token_logp(hidden, weight, target, chunk)[seen]).sum() / 9
        torch.testing.assert_close(loss, expected, rtol=1e-11, atol=1e-13)
        assert_same(gradients(loss, hidden, weight), gradients(expected, hidden, weight), 1e-11)


@every_objective
def test_float32_stays_within_rounding_of_float64(objective):
    hidden, weight, target = problem(3)
    single = [t.detach().float().requires_grad_() for t in (hidden, weight)]
    double = [t.detach().double().requires_grad_() for t in single]
    loss, logp = objective_loss(*single, target, objective, 31)
    expected, _ = naive(*double, target, objective, 31)
    assert loss.dtype == logp.dtype == torch.float32
    torch.testing.assert_close(loss.double(), expected, rtol=2e-5, atol=1e-7)
    assert_same(gradients(loss, *single), gradients(expected, *double), 5e-5)


@settings(max_examples=40)
@given(
    name=st.sampled_from(sorted(OBJECTIVES)),
    seed=st.integers(0, 10_000),
    rows=st.integers(1, 30),
    spread=st.floats(0.01, 100),
    masked=st.floats(0, 1),
    chunk=st.integers(0, 12),
)
def test_any_problem_in_any_chunks_gives_the_gradient_of_the_formula(name, seed, rows, spread, masked, chunk):
    hidden, weight, target = problem(seed, rows, spread, masked)
    denominator = max(1, int((target != IGNORE).sum()))
    loss, _ = objective_loss(hidden, weight, target, OBJECTIVES[name], denominator, chunk)
    expected, _ = naive(hidden, weight, target, OBJECTIVES[name], denominator)
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-12)
    # Autograd of the formula loses p = 1 against epsilon: an ulp of 1 divided by 1e-3, times the spread.
    for a, b in zip(gradients(loss, hidden, weight), gradients(expected, hidden, weight), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)


@every_objective
def test_all_masked_or_no_tokens_give_loss_zero_and_zero_gradients(objective):
    hidden, weight, target = problem(4)
    for h, t in ((hidden, torch.full_like(target, IGNORE)), (hidden[:0], target[:0])):
        loss, _ = objective_loss(h, weight, t, objective, 0)
        assert loss.item() == 0
        assert all(not g.any() for g in gradients(loss, h, weight))
        assert not any(g.any() for g in gradients(token_logp(h, weight, t).sum(), h, weight))


@every_objective
def test_p_next_to_0_and_to_1_gives_finite_loss_and_gradients(objective):
    weight = torch.eye(4).requires_grad_()
    hidden = torch.tensor([[1e4, 0, 0, 0], [1e4, 0, 0, 0], [30.0, 0, 0, 0]]).requires_grad_()
    loss, logp = objective_loss(hidden, weight, torch.tensor([0, 1, 0]), objective, 3)
    assert logp.tolist() == [0.0, -1e4, pytest.approx(-2.8e-13, abs=3e-13)]
    assert loss.isfinite() and all(g.isfinite().all() for g in gradients(loss, hidden, weight))


@pytest.mark.parametrize("keep", ["above", "below"])
def test_dropped_rows_get_no_gradient_and_the_kept_ones_the_same_as_alone(keep):
    hidden, weight, target = problem(5, masked=0)
    objective = Objective(name="t", family="nll", keep=keep, threshold=0.2)
    loss, logp = objective_loss(hidden, weight, target, objective, 10, chunk=6)
    stays = kept(objective, logp)
    assert 0 < stays.sum() < len(stays)
    alone, _ = objective_loss(hidden[stays], weight, target[stays], Objective(name="nll", family="nll"), 10)
    d_hidden, d_weight = gradients(loss, hidden, weight)
    assert not d_hidden[~stays].any()
    assert_same((d_hidden, d_weight), gradients(alone, hidden, weight), 1e-13)


class Products(TorchDispatchMode):
    """Counts the rows [., V] that enter matrix products, and the largest tensor that is made."""

    def __init__(self, vocabulary: int):
        super().__init__()
        self.rows, self.largest, self._vocabulary = 0, 0, vocabulary

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        tensors = [one for one in (*args, out) if isinstance(one, Tensor)]
        if "mm" in func.__name__:
            others = [size for one in tensors for size in one.shape if size not in (self._vocabulary, 12)]
            assert len(set(others)) == 1, (func, [one.shape for one in tensors])
            self.rows += others[0]
        self.largest = max(self.largest, *(one.numel() for one in tensors), 0)
        return out


def test_masked_rows_enter_no_product_and_dropped_ones_none_of_the_gradient() -> None:
    """And of 400 rows no more than a chunk's logits are there at once."""
    hidden, weight, target = problem(5, masked=0.4)
    above = Objective(name="t", family="nll", keep="above", threshold=0.2)
    seen = int((target != IGNORE).sum())
    stays = int(kept(above, token_logp(hidden, weight, target))[target != IGNORE].sum())
    assert 0 < stays < seen < len(target)
    with Products(len(weight)) as own:
        objective_loss(hidden, weight, target, above, 10, chunk=6)[0].backward()
    assert own.rows == seen + 2 * stays
    with Products(len(weight)) as again:
        logp = token_logp(hidden, weight, target, chunk=6)
        value(above, logp[target != IGNORE]).sum().backward()
    assert again.rows == seen + 3 * stays
    many = problem(5, rows=400, masked=0.0)
    for head_ in (
        lambda: objective_loss(*many, above, 10, chunk=6)[0].backward(),
        lambda: token_logp(*many, chunk=6).sum().backward(),
    ):
        with Products(len(weight)) as large:
            head_()
        assert large.largest == 400 * 12 < 400 * len(weight)


@pytest.mark.parametrize("way", ["own", "again", "naive"])
def test_a_master_copy_of_the_embedding_gets_a_gradient_in_its_own_precision(way: str) -> None:
    """As of the same weights in bfloat16, less the rounding of the gradient to that."""
    hidden, weight, target = exact_problem(6, 30, 0.25, 0.3)
    narrow, master = hidden.detach().bfloat16().requires_grad_(), weight.detach().float().requires_grad_()

    def loss(table: Tensor) -> Tensor:
        if way == "again":
            return -token_logp(narrow, table, target, chunk=7).sum() / 11
        if way == "own":
            return objective_loss(narrow, table, target, NLL, 11, chunk=7)[0]
        return naive_loss(narrow, table, target, NLL, 11)[0]

    wide = torch.autograd.grad(loss(master), (narrow, master))
    assert [one.dtype for one in wide] == [torch.bfloat16, torch.float32]
    copy = master.detach().bfloat16().requires_grad_()
    short = torch.autograd.grad(loss(copy), (narrow, copy))
    assert torch.equal(wide[0], short[0])
    assert torch.equal(wide[1].bfloat16(), short[1])
    assert way == "naive" or not torch.equal(wide[1], short[1].float())


def test_the_upstream_gradient_scales_both_gradients_and_only_what_is_wanted_is_computed():
    hidden, weight, target = problem(6)
    loss, _ = objective_loss(hidden, weight, target, OBJECTIVES["p"], 5)
    tripled, _ = objective_loss(hidden, weight, target, OBJECTIVES["p"], 5)
    assert_same(gradients(3 * tripled, hidden, weight), [3 * g for g in gradients(loss, hidden, weight)], 1e-14)
    frozen, _ = objective_loss(hidden, weight.detach(), target, OBJECTIVES["p"], 5)
    (d_hidden,) = gradients(frozen, hidden)
    assert d_hidden.shape == hidden.shape
    with torch.no_grad():
        assert not objective_loss(hidden, weight, target, OBJECTIVES["p"], 5)[0].requires_grad


def test_bfloat16_inputs_get_a_float32_softmax():
    # In bfloat16 these p would round to exactly 1, and their gradient to 0.
    hidden = torch.tensor([[7.0, 0, 0]], dtype=torch.bfloat16, requires_grad=True)
    weight = torch.eye(3, dtype=torch.bfloat16, requires_grad=True)
    target = torch.tensor([0])
    loss, logp = objective_loss(hidden, weight, target, OBJECTIVES["nll"], 1)
    assert loss.dtype == logp.dtype == token_logp(hidden, weight, target).dtype == torch.float32
    assert logp.item() == pytest.approx(-1.822e-3, rel=1e-3)
    for grads in (
        gradients(loss, hidden, weight),
        gradients(-token_logp(hidden, weight, target).sum(), hidden, weight),
    ):
        assert all(g.dtype == torch.bfloat16 and g.any() for g in grads)


def test_the_two_ways_of_writing_1_minus_p_share_their_gradient():
    """-p p.detach()^-1 log p, reweighting nll by a detached p (dynamic fine-tuning), is the gradient of 1 - p."""
    hidden, weight, target = problem(7, masked=0)
    loss, _ = objective_loss(hidden, weight, target, OBJECTIVES["p"], 1)
    logp = token_logp(hidden, weight, target)
    reweighted = -(logp.detach().exp() * logp).sum()
    assert_same(gradients(loss, hidden, weight), gradients(reweighted, hidden, weight), 1e-12)


def test_a_negative_denominator_is_refused():
    hidden, weight, target = problem(8)
    with pytest.raises(ValueError, match="denominator"):
        objective_loss(hidden, weight, target, OBJECTIVES["p"], -1)


# --- losses of more than log p ---------------------------------------------------------------------------------------

RELATIVES = {
    "dft": Objective(name="dft", family="formula", formula="-p * logp", weight="p"),
    "focal": Objective(name="focal", family="formula", formula="-(1 - p)**g * logp", parameters={"g": 2.0}),
    "focal_half": Objective(name="focal_half", family="formula", formula="-(1 - p + 1e-3)**0.5 * logp"),
    "eaft": Objective(
        name="eaft", family="formula", formula="-entropy**a * logp", parameters={"a": 1.0}, entropy_top=5
    ),
    "asft": Objective(name="asft", family="formula", formula="-p * logp", weight="p", anchor=0.1),
    "smoothed": Objective(name="smoothed", family="nll", smoothing=0.1),
    "smoothed_above": Objective(name="smoothed_above", family="power", smoothing=0.3, keep="above", threshold=0.2),
    "rising": Objective(name="rising", family="formula", formula="logp", smoothing=0.5),
    "anchored_below": Objective(name="anchored_below", family="nll", anchor=0.5, keep="below", threshold=0.2),
}
every_relative = pytest.mark.parametrize("objective", RELATIVES.values(), ids=RELATIVES.keys())


def written_out(hidden: Tensor, weight: Tensor, target: Tensor, base: Base, name: str) -> Tensor:
    """The losses as their papers write them, in float64, for autograd; the sum over seen tokens."""
    seen = target != IGNORE
    every = torch.log_softmax(hidden @ weight.T, -1)[seen]
    logp = every.gather(1, target[seen][:, None])[:, 0]
    p = logp.exp()
    anchor = torch.log_softmax(base.hidden_ND[seen] @ base.weight_VD.T, -1)
    kl = (anchor.exp() * (anchor - every)).sum(1)
    top = torch.softmax(every.detach().topk(5, dim=1).values, 1)
    entropy = -(top * top.log()).nan_to_num().sum(1) / torch.tensor(5.0, dtype=torch.float64).log()
    smooth = -every.mean(1)
    per_token = {
        "dft": -p.detach() * logp,
        "focal": -((1 - p) ** 2) * logp,
        "focal_half": -((1 - p + 1e-3) ** 0.5) * logp,
        "eaft": -entropy * logp,
        "asft": -p.detach() * logp + 0.1 * kl,
        "smoothed": -0.9 * logp + 0.1 * smooth,
        "smoothed_above": torch.where(p >= 0.2, 0.7 * (1 - p) + 0.3 * smooth, 0.0),
        "rising": 0.5 * logp + 0.5 * smooth,
        "anchored_below": torch.where(p <= 0.2, -logp, 0.0) + 0.5 * kl,
    }
    return per_token[name].sum()


@every_relative
@pytest.mark.parametrize("head", [objective_loss, naive_loss], ids=["own", "naive"])
def test_relatives_are_what_their_papers_write(objective: Objective, head: Head) -> None:
    hidden, weight, target = problem(3)
    base_hidden, base_weight, _ = problem(4)
    base = Base(base_hidden.detach(), base_weight.detach())
    expected = written_out(hidden, weight, target, base, objective.name) / 31
    loss, _ = head(hidden, weight, target, objective, 31, base=base)
    torch.testing.assert_close(loss, expected, rtol=1e-11, atol=1e-13)
    assert_same(gradients(loss, hidden, weight), gradients(expected, hidden, weight), 1e-10)


EVERY = {**OBJECTIVES, **RELATIVES}


@pytest.mark.parametrize("objective", EVERY.values(), ids=EVERY.keys())
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale", [2.0**-6, 2.0**-2, 2.0, 2.0**7])
def test_every_gradient_is_as_near_to_float64_as_the_naive_one(
    objective: Objective, dtype: torch.dtype, scale: float
) -> None:
    """In one chunk, and in several, whose parts are added up."""
    for chunk in (0, 7):
        assert_as_exact_as_naive(objective, dtype, *exact_problem(5, 30, scale, 0.3), chunk=chunk)


@pytest.mark.parametrize("objective", EVERY.values(), ids=EVERY.keys())
@pytest.mark.parametrize("spread", [0.3, 3.0])
def test_every_gradient_of_logits_that_are_rounded(objective: Objective, spread: float) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        assert_as_exact_as_naive(objective, dtype, *problem(5, rows=30, spread=spread), chunk=7, rounding=spread)


@given(
    seed=st.integers(0, 99),
    rows=st.integers(1, 40),
    masked=st.sampled_from([0.0, 0.4, 1.0]),
    scale=st.sampled_from([2.0**-9, 2.0**-4, 1.0, 2.0**3, 2.0**10]),
    name=st.sampled_from(sorted(EVERY)),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    chunk=st.sampled_from([0, 1, 7]),
)
@settings(max_examples=300, derandomize=True)
def test_gradients_in_the_precisions_that_are_used(
    seed: int, rows: int, masked: float, scale: float, name: str, dtype: torch.dtype, chunk: int
) -> None:
    """From all masked and p next to 0 or 1 to huge logits, chunks that do not divide, one token."""
    assert_as_exact_as_naive(EVERY[name], dtype, *exact_problem(seed, rows, scale, masked), chunk=chunk)


@pytest.mark.parametrize("margin", [12.0, 20.0, 40.0])
def test_a_p_next_to_1_keeps_its_digits_in_float32(margin: float) -> None:
    """Where a softmax in float32 is 1, and its logarithm 0: what is left to learn there is 1 - p."""
    hidden, weight = torch.ones(2, 1), torch.zeros(17, 1)
    weight[3] = margin
    exact = [tensor.double().requires_grad_() for tensor in (hidden, weight)]
    target = torch.tensor([3, 5])
    rest = 16 * math.exp(-margin)
    for hidden_, weight_ in ([hidden.requires_grad_(), weight.requires_grad_()], exact):
        loss, logp = objective_loss(hidden_, weight_, target, NLL, 1)
        logps = token_logp(hidden_, weight_, target)
        for found in (logp, logps.detach()):
            assert found[0].item() == pytest.approx(-math.log1p(rest), rel=1e-6)
            assert found[1].item() == pytest.approx(-margin - math.log1p(rest), rel=1e-6)
        for value_ in (loss, -logps.sum()):
            of_hidden, _ = gradients(value_, hidden_, weight_)
            assert of_hidden[0].item() == pytest.approx(-margin * rest / (1 + rest), rel=1e-6)


def assert_as_exact_as_naive(
    objective: Objective,
    dtype: torch.dtype,
    hidden: Tensor,
    weight: Tensor,
    target: Tensor,
    chunk: int = 0,
    rounding: float = 0.0,
) -> None:
    """Of inputs that are rounded to the dtype; errors are relative to the largest entry: no more than naive's, and some
    units of the last place. Both of ours: the gradient from the forward pass, and by the chain rule from the
    differentiable log p, where that has one. rounding: the logits' size where the dtype cannot hold them exactly, which
    strikes either in its own way: in log p it is an error of their size.
    """
    rounded = [tensor.detach().to(dtype).requires_grad_() for tensor in (hidden, weight)]
    exact = [tensor.detach().double().requires_grad_() for tensor in rounded]
    base, exact_base = (Base(*(tensor.detach().roll(1, 0) for tensor in of)) for of in (rounded, exact))
    wanted = torch.autograd.grad(naive_loss(*exact, target, objective, 7, base=exact_base)[0], exact)

    def error(loss: Tensor) -> float:
        """Below 1e-9, where even float64 loses 1 - p^alpha, an absolute one."""
        pairs = list(zip(torch.autograd.grad(loss, rounded), wanted, strict=True))
        assert all(torch.isfinite(a).all() for a, _ in pairs)
        return max(((a.double() - b).abs().max() / b.abs().max().clamp_min(1e-9)).item() for a, b in pairs)

    naives = error(naive_loss(*rounded, target, objective, 7, base=base)[0])
    units = (4 + 8 * rounding) * torch.finfo(dtype).eps
    # Autograd of 1 - p^alpha loses p^alpha below an ulp of 1: naive's error is then all there is, which allows nothing.
    most = min(naives, 0.1) + units
    assert error(objective_loss(*rounded, target, objective, 7, chunk=chunk, base=base)[0]) <= most
    if objective.family != "formula" and not (objective.smoothing or objective.anchor):
        seen = target != IGNORE
        logp = token_logp(*rounded, target, chunk=chunk)[seen]
        chained = error(value(objective, logp).sum() / 7)
        assert chained <= (naives + units if objective.family in ("power", "convexity") else most)


def test_the_differentiable_logp_tells_how_unsure_the_model_is_too() -> None:
    hidden, weight, target = problem(9)
    logp, entropy = token_logp_and_entropy(hidden, weight, target, 5, chunk=7)
    every = torch.softmax((hidden @ weight.T).detach(), -1).topk(5, dim=1).values
    every = every / every.sum(1, keepdim=True)
    expected = -(every * every.log()).sum(1) / torch.tensor(5.0).double().log()
    torch.testing.assert_close(entropy, expected.where(target != IGNORE, 0.0))
    assert not entropy.requires_grad and torch.equal(logp, token_logp(hidden, weight, target, chunk=7))
    loss, _ = objective_loss(hidden, weight, target, RELATIVES["eaft"], 1)
    assert_same(gradients((-entropy * logp).sum(), hidden, weight), gradients(loss, hidden, weight), 1e-12)


@pytest.mark.parametrize("name", ["torch", "liger", "cut_cross_entropy"])
def test_a_foreign_head_gives_the_same_or_says_why_not(name: str) -> None:
    objective = main_catalogue()["p_above"]
    if name != "torch" and importlib.util.find_spec({"liger": "liger_kernel"}.get(name, name)) is None:
        with pytest.raises(UsageError, match=f"execution.head='{name}' cannot be used.*choose from own"):
            head_named(name, objective)
        return
    device = torch.device("cpu" if name == "torch" else "cuda")
    if device.type == "cuda" and not torch.cuda.is_available():
        pytest.skip(f"{name} is installed, but there is no GPU for it")
    hidden, weight, target = (tensor.detach().to(device) for tensor in problem(6))
    hidden, weight = hidden.requires_grad_(), weight.requires_grad_()
    inputs = [tensor.detach().float().requires_grad_() for tensor in (hidden, weight)]
    check_head(name, objective, device, torch.float32)
    loss, logp = head_named(name, objective)(*inputs, target, objective, 11)
    expected, found = naive_loss(hidden, weight, target, objective, 11)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(logp.double(), found, rtol=1e-4, atol=1e-5)
    assert_same(torch.autograd.grad(loss, inputs), gradients(expected, hidden, weight), 1e-4)


def test_our_own_head_is_checked_where_it_runs_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a product that adds in place is not what torch says it is."""
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        check_head("own", NLL, torch.device("cpu"), dtype)
    real = objective_loss_module.add_product
    monkeypatch.setattr(objective_loss_module, "add_product", lambda total, *of: real(total.zero_(), *of))
    with pytest.raises(UsageError, match=r"execution.head='own' gives wrong gradients here \(torch 2"):
        check_head("own", NLL, torch.device("cpu"), torch.float32)


def test_a_head_with_wrong_gradients_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Liger before 0.8.5 was: the mean of the upstream gradient instead of each token's own."""

    check_head("torch", NLL, torch.device("cpu"), torch.float32)
    right = heads._torch
    monkeypatch.setattr(heads, "_torch", lambda: (lambda nll: lambda *of: _unweighted(nll(*of)))(right()))
    with pytest.raises(UsageError, match=r"execution.head='torch' gives wrong gradients here \(torch 2"):
        check_head("torch", NLL, torch.device("cpu"), torch.float32)


class _unweighted_gradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, losses: Tensor) -> Tensor:
        return losses.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad.mean().expand_as(grad)


def _unweighted(losses: Tensor) -> Tensor:
    return _unweighted_gradient.apply(losses)


def test_a_foreign_head_refuses_what_it_cannot_compute() -> None:
    with pytest.raises(UsageError, match="smoothed needs more than log p of the target, which only own and naive"):
        head_named("torch", RELATIVES["smoothed"])


def test_an_anchor_needs_a_base_model() -> None:
    hidden, weight, target = problem(7)
    for head in (objective_loss, naive_loss):
        with pytest.raises(ValueError, match=r"objective.anchor=0.1 needs the base model"):
            head(hidden, weight, target, RELATIVES["asft"], 3)
