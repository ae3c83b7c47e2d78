"""Batches by token budget."""

import numpy as np
import pytest

from seq2seq_dialog.data.batching import GRIDS, TokenBudgetSampler, _cut, evaluation_batches
from seq2seq_dialog.data.features import encode_rows
from seq2seq_dialog.data.rows import load_rows
from seq2seq_dialog.models.tokenizer import prepare_tokenizer
from seq2seq_dialog.settings import DataArguments
from seq2seq_dialog.training.trainer import lengths_of

rng = np.random.default_rng(0)
LENGTHS = np.stack([rng.gamma(2, 30, 3000) + 2, rng.gamma(2, 8, 3000) + 2], axis=1).astype(int)


def test_every_example_comes_once_an_epoch_whatever_the_number_of_processes():
    for world_size in (1, 2, 3, 8):
        samplers = [TokenBudgetSampler(LENGTHS, 2048, 1, r, world_size) for r in range(world_size)]
        assert len({len(list(sampler)) for sampler in samplers}) == 1
        assert len(samplers[0]) == len(list(samplers[0]))
        seen = [i for sampler in samplers for batch in sampler for i in batch]
        assert sorted(seen) == list(range(len(LENGTHS)))


def padding(lengths, sampler):
    """The share of padding in an epoch."""
    sizes = [lengths[batch] for batch in sampler]
    return 1 - lengths.sum() / sum(len(size) * size.max(0).sum() for size in sizes)


def test_batches_keep_the_budget_and_hardly_pad():
    for batch in TokenBudgetSampler(LENGTHS, 2048):
        size = LENGTHS[batch]
        assert len(batch) * size.max(0).sum() <= 2048 or len(batch) == 1
    assert padding(LENGTHS, TokenBudgetSampler(LENGTHS, 2048)) < 0.12


def test_many_examples_get_a_finer_grid_than_few():
    many = np.repeat(LENGTHS, 20, axis=0) + rng.integers(0, 8, (len(LENGTHS) * 20, 2))
    few, fine = TokenBudgetSampler(LENGTHS[:300], 2048), TokenBudgetSampler(many, 2048)
    assert (few.grid, fine.grid) == (GRIDS[0], GRIDS[-1])


@pytest.mark.slow
def test_an_epoch_of_dailydialog_has_less_than_four_per_cent_of_padding(shared_data, t5_tokenizer):
    args = DataArguments(data=str(shared_data / "dailydialog"))
    tokenizer = prepare_tokenizer(t5_tokenizer, args.max_source_length)
    lengths = lengths_of(encode_rows(load_rows(args)[0]["train"], tokenizer, args))
    assert len(lengths) == 76_052
    for budget in (2048, 4096):
        assert padding(lengths, TokenBudgetSampler(lengths, budget)) < 0.04


def test_batches_are_cut_where_one_more_example_would_not_fit():
    for budget in (30, 300, 2048):
        lengths, cuts = LENGTHS[np.lexsort(LENGTHS.T)], []
        batch = []
        for number, size in enumerate(lengths):
            batch.append(size)
            if len(batch) > 1 and len(batch) * np.max(batch, axis=0).sum() > budget:
                cuts.append(number)
                batch = [size]
        assert _cut(lengths, budget) == [*cuts, len(lengths)]


def test_an_example_over_the_budget_is_a_batch_of_its_own():
    batches = list(TokenBudgetSampler([(10, 10), (500, 20), (12, 8)], 100))
    assert [1] in batches and sorted(i for b in batches for i in b) == [0, 1, 2]


def test_order_depends_on_seed_and_epoch_alone():
    sampler, again = TokenBudgetSampler(LENGTHS, 2048, 5), TokenBudgetSampler(LENGTHS, 2048, 5)
    first = list(sampler)
    sampler.set_epoch(3)
    again.set_epoch(3)  # without the epochs before
    third = list(sampler)
    assert third == list(again) != first
    assert len(third) == len(first)  # Trainer relies on equally many steps an epoch
    assert list(TokenBudgetSampler(LENGTHS, 2048, 6)) != first


def test_examples_meet_others_from_epoch_to_epoch():
    sampler = TokenBudgetSampler(LENGTHS, 2048)
    first = {frozenset(batch) for batch in sampler}
    sampler.set_epoch(1)
    kept = [batch for batch in sampler if frozenset(batch) in first and len(batch) > 1]
    assert len(kept) < 0.1 * len(first)


def test_batches_come_in_no_order_of_length():
    widths = [LENGTHS[batch].max(0)[0] for batch in TokenBudgetSampler(LENGTHS, 2048)]
    assert abs(np.corrcoef(widths, np.arange(len(widths)))[0, 1]) < 0.2


@pytest.mark.parametrize(("examples", "world_size"), [(0, 1), (3, 4)])
def test_too_few_examples_are_refused(examples, world_size):
    with pytest.raises(ValueError, match=f"{examples} training examples are too few"):
        TokenBudgetSampler(LENGTHS[:examples], 2048, world_size=world_size)


def test_single_examples_that_do_not_divide_are_refused():
    with pytest.raises(
        ValueError, match=r"is not enough for all processes.* Raise tokens_per_batch"
    ):
        TokenBudgetSampler([(600, 10)] * 5, 100, world_size=2)


def test_evaluation_batches_hold_each_example_once_the_longest_first():
    batches = evaluation_batches(LENGTHS, 4096)
    assert sorted(i for batch in batches for i in batch) == list(range(len(LENGTHS)))
    widths = [LENGTHS[batch][:, 0].max() for batch in batches]
    assert widths == sorted(widths, reverse=True)
