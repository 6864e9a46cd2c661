"""Which rows a step trains on, and that micro-batches hold exactly their supervised tokens."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_training_fit import small_model

from bll_sweeps.grid.axes import Recipe
from bll_sweeps.objectives.catalogue import NLL
from bll_sweeps.objectives.objective_loss import objective_loss
from bll_sweeps.training.model import head_weight, hidden_states
from bll_sweeps.training.packing import Batching, DataOrder, Sequences, best_fit


def recipe(batch_size: int, steps: int = 0, epochs: float = 1.0) -> Recipe:
    return Recipe(name="r", learning_rate=1e-3, batch_size=batch_size, steps=steps, epochs=epochs)


def all_steps(seed: int, rows: int, how: Recipe) -> list[np.ndarray]:
    order = DataOrder(seed, rows, how)
    return [order.rows(step) for step in range(how.total_steps(rows))]


@given(st.integers(0, 2**40), st.integers(1, 50), st.integers(1, 70), st.floats(0.1, 3.5, allow_nan=False))
def test_epochs_visit_every_row_equally_often_and_the_last_batch_is_what_is_left(seed, rows, batch, epochs):
    steps = all_steps(seed, rows, recipe(batch, epochs=epochs))
    assert all(len(step) == batch for step in steps[:-1]) and 1 <= len(steps[-1]) <= batch
    counts = np.bincount(np.concatenate(steps), minlength=rows)
    assert counts.sum() == max(1, np.ceil(epochs * rows)) and np.ptp(counts) <= 1


@given(st.integers(0, 100), st.integers(1, 30), st.integers(1, 40), st.integers(1, 20))
def test_a_count_of_steps_has_full_batches_across_the_ends_of_epochs(seed, rows, batch, steps):
    stream = np.concatenate(all_steps(seed, rows, recipe(batch, steps=steps)))
    assert len(stream) == steps * batch
    for epoch in range(len(stream) // rows):
        assert sorted(stream[epoch * rows : (epoch + 1) * rows]) == list(range(rows))


@pytest.mark.parametrize(("rows", "steps"), [(67_600, 264), (23_493, 91), (40_000, 156)])
def test_the_papers_recipe_takes_the_papers_steps(rows, steps):
    """Mathematics, medicine and figlet fonts, one epoch of batches of 256."""
    assert replace(recipe(256), drop_last=True).total_steps(rows) == steps
    assert recipe(256).total_steps(rows) == steps + 1


@given(st.integers(1, 60), st.integers(1, 70), st.floats(0.1, 3.5, allow_nan=False))
def test_without_the_last_batch_all_are_full_and_there_is_at_least_one(rows, batch, epochs):
    steps = all_steps(0, rows, replace(recipe(batch, epochs=epochs), drop_last=True))
    assert len(steps) == max(1, int(epochs * rows / batch))
    if epochs * rows >= batch:
        assert all(len(step) == batch for step in steps)
    else:
        assert 1 <= len(steps[0]) <= batch


def test_a_count_of_steps_goes_before_what_is_dropped():
    assert replace(recipe(16, steps=7), drop_last=True).total_steps(20) == 7


def test_rows_of_a_step_follow_from_the_seed_and_not_from_the_steps_asked_before():
    expected = all_steps(3, 10, recipe(4, steps=9))
    for step in (8, 0, 5):
        assert (DataOrder(3, 10, recipe(4, steps=9)).rows(step) == expected[step]).all()
    other = all_steps(4, 10, recipe(4, steps=9))
    assert any((a != b).any() for a, b in zip(expected, other, strict=True))


sequences = st.lists(st.integers(1, 9), min_size=2, max_size=10).flatmap(
    lambda ids: st.tuples(st.just(ids), st.integers(0, len(ids) - 1))
)


@given(st.lists(sequences, min_size=1, max_size=12), st.integers(0, 5), st.randoms(use_true_random=False))
def test_micro_batches_hold_each_supervised_token_once_under_its_context(pairs, size, random):
    packed = Sequences(pairs)
    rows = np.array([random.randrange(len(pairs)) for _ in range(7)])
    found = []
    for part, batch in packed.micro_batches(rows, Batching(rows=size)):
        assert 1 <= len(part) <= (size or len(rows)) and batch.inputs.shape[0] == len(part)
        width = batch.inputs.shape[1]
        assert width == max(len(pairs[row][0]) for row in part) - 1
        for position, target in zip(batch.positions.tolist(), batch.targets.tolist(), strict=True):
            row, column = divmod(position, width)
            found.append((part[row], tuple(batch.inputs[row, : column + 1].tolist()), target))
    expected = [
        (row, tuple(pairs[row][0][:k]), pairs[row][0][k])
        for row in rows
        for k in range(max(1, pairs[row][1]), len(pairs[row][0]))
    ]
    assert sorted(found) == sorted(expected)
    assert len(expected) == packed.supervised[rows].sum()
    assert packed.input_tokens(rows) == sum(len(pairs[row][0]) - 1 for row in rows)


@given(
    st.lists(sequences, min_size=1, max_size=12),
    st.integers(1, 40),
    st.booleans(),
    st.randoms(use_true_random=False),
)
def test_packed_lines_hold_each_supervised_token_once_under_its_own_context(pairs, tokens, one_line, random):
    packed = Sequences(pairs)
    rows = np.array([random.randrange(len(pairs)) for _ in range(7)])
    found, in_order = [], []
    for part, batch in packed.micro_batches(rows, Batching(packed=True, tokens=tokens, one_line=one_line)):
        longest = max(len(pairs[row][0]) - 1 for row in rows)
        assert batch.inputs.numel() <= max(tokens, longest)
        assert len(batch.inputs) == 1 or not one_line
        flat, places = batch.inputs.flatten().tolist(), batch.position_ids.flatten().tolist()
        assert (batch.position_ids[:, 0] == 0).all()
        for position, target in zip(batch.positions.tolist(), batch.targets.tolist(), strict=True):
            # A token's context are the tokens since the position ids last began anew, and nothing before them.
            context = flat[position - places[position] : position + 1]
            assert places[position - places[position] : position + 1] == list(range(len(context)))
            found.append((tuple(context), target))
        in_order += [(row, packed.supervised[row]) for row in part]
    expected = [
        (row, tuple(pairs[row][0][:k]), pairs[row][0][k])
        for row, _ in in_order
        for k in range(max(1, pairs[row][1]), len(pairs[row][0]))
    ]
    assert found == [(context, target) for _, context, target in expected]
    assert sorted(row for row, _ in in_order) == sorted(rows)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=60), st.integers(50, 120))
def test_bins_hold_everything_once_and_two_of_them_never_fit_into_one(lengths, capacity):
    bins = best_fit(lengths, capacity)
    assert sorted(number for one in bins for number in one) == list(range(len(lengths)))
    filled = sorted(sum(lengths[number] for number in one) for one in bins)
    assert filled[-1] <= capacity
    assert len(filled) == 1 or filled[0] + filled[1] > capacity


@pytest.mark.slow
@pytest.mark.parametrize("kernel", ["sdpa", "flex_attention", "eager"])
def test_every_attention_kernel_keeps_packed_sequences_apart(kernel):
    """On the CPU flex_attention has no backward pass; what it computes can be compared all the same."""
    model = small_model().eval().requires_grad_(False)
    rows = np.arange(5)
    packed = Sequences([(list(range(2, 2 + n)), 1) for n in (9, 4, 12, 6, 3)])
    ((_, alone),) = packed.micro_batches(rows, Batching())
    expected = hidden_states(model, alone)
    model.set_attn_implementation(kernel)
    ((part, line),) = packed.micro_batches(rows, Batching(packed=True, tokens=64, one_line=kernel == "flex_attention"))
    order = np.concatenate([np.arange(29)[np.repeat(rows, packed.supervised[rows]) == row] for row in part])
    assert len(order) == len(expected) == 29
    found, expected = hidden_states(model, line), expected[torch.from_numpy(order)]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    targets = alone.targets[torch.from_numpy(order)]
    assert torch.equal(line.targets, targets)
    losses = [objective_loss(hidden, head_weight(model), targets, NLL, len(targets))[0] for hidden in (found, expected)]
    torch.testing.assert_close(*losses, rtol=1e-5, atol=0.0)
