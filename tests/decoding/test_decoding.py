"""Decoding without the rows that have ended: the tokens of `generate`, with less work."""

import pytest
import torch
from transformers import BartConfig, BartForConditionalGeneration, set_seed

from benchmarks.answering import end_naturally
from seq2seq_dialog.decoding.batch_loop import decode, sample
from seq2seq_dialog.decoding.beam_loop import search

LENGTHS = torch.tensor([2, 3, 3, 4, 5, 7, 9, 12, 17, 31])


@pytest.fixture
def bart():
    set_seed(1)
    config = BartConfig(
        vocab_size=512,
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        max_position_embeddings=40,
    )
    return BartForConditionalGeneration(config)


@pytest.fixture
def rnn(make_rnn):
    return make_rnn(attention="multiplicative")


@pytest.fixture
def sources():
    lengths = torch.randint(3, 20, (40,), generator=torch.Generator().manual_seed(0))
    mask = (torch.arange(20) < lengths[:, None]).long()
    ids = torch.randint(5, 500, (40, 20), generator=torch.Generator().manual_seed(1))
    return {"input_ids": ids * mask, "attention_mask": mask}


def trimmed(ids, end, pad):
    """Tokens up to the end, of each row."""
    rows = []
    for row in ids.tolist():
        stop = row.index(end, 1) + 1 if end in row[1:] else len(row)
        assert set(row[stop:]) <= {pad, end}  # generate() fills up with either
        rows.append(row[:stop])
    return rows


@pytest.mark.parametrize("kind", ["model", "bart", "rnn"])
@pytest.mark.parametrize(
    "options", [{}, {"no_repeat_ngram_size": 2, "repetition_penalty": 1.3}, {"min_new_tokens": 6}]
)
def test_greedy_tokens_are_those_of_generate(kind, options, sources, request):
    model = request.getfixturevalue(kind).eval()
    end_naturally(model, LENGTHS)
    options = {"max_new_tokens": 24, "do_sample": False, "num_beams": 1} | options
    config = model.generation_config
    config.pad_token_id, config.eos_token_id = model.config.pad_token_id, model.config.eos_token_id
    rows = []
    model.register_forward_pre_hook(
        lambda module, args, inputs: rows.append(len(inputs["decoder_input_ids"])), with_kwargs=True
    )
    expected = model.generate(**sources, **options)
    usual, rows[:] = sum(rows), []
    decoded = model.generate(**sources, **options, custom_generate=decode)
    ends = config.eos_token_id, config.pad_token_id
    assert trimmed(decoded, *ends) == trimmed(expected, *ends)
    if "min_new_tokens" not in options:
        assert len({len(row) for row in trimmed(decoded, *ends)}) > 5  # they do end
        assert sum(rows) < 0.7 * usual


def test_samples_follow_the_seed(model, sources):
    end_naturally(model.eval(), LENGTHS)
    options = {"max_new_tokens": 12, "do_sample": True, "top_k": 50, "custom_generate": decode}

    def sample(seed):
        torch.manual_seed(seed)
        return model.generate(**sources, **options).tolist()

    assert sample(1) == sample(1) != sample(2)


@pytest.mark.parametrize("kind", ["model", "rnn"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"early_stopping": True, "no_repeat_ngram_size": 2},
        {"early_stopping": "never", "length_penalty": 0.1},
        {"length_penalty": -0.5, "num_return_sequences": 3, "repetition_penalty": 1.3},
        {"min_new_tokens": 6},
    ],
    ids=str,
)
def test_the_tokens_of_beams_are_those_of_generate(kind, options, sources, request):
    model = request.getfixturevalue(kind).eval()
    if kind == "model":  # its replies depend on the source, and end now and then
        for parameter in model.parameters():
            parameter.data.normal_(0, 0.3)
    ends = model.config.eos_token_id, model.config.pad_token_id
    model.get_output_embeddings().weight.data[ends[0]] *= 3
    options = {"max_new_tokens": 24, "do_sample": False, "num_beams": 4} | options
    rows = []
    model.register_forward_pre_hook(
        lambda module, args, inputs: rows.append(len(inputs["decoder_input_ids"])), with_kwargs=True
    )
    expected = model.generate(**sources, **options)
    usual, rows[:] = sum(rows), []
    decoded = model.generate(**sources, **options, custom_generate=search)
    found = trimmed(decoded, *ends)
    assert found == trimmed(expected, *ends)
    assert len({tuple(row) for row in found}) > 20 and len({len(row) for row in found}) > 3
    assert sum(rows) < 0.9 * usual


@pytest.mark.parametrize("kind", ["model", "bart", "rnn"])
def test_samples_by_numbers_do_not_depend_on_the_batch(kind, sources, request):
    model = request.getfixturevalue(kind).eval()
    config = model.generation_config
    config.pad_token_id, config.eos_token_id = model.config.pad_token_id, model.config.eos_token_id
    options = {"max_new_tokens": 8, "do_sample": True, "top_k": 50, "custom_generate": decode}
    draws = torch.rand(40, 8, generator=torch.Generator().manual_seed(2))
    whole = model.generate(**sources, **options, draws=draws)
    part = {name: value[7:12] for name, value in sources.items()}
    ends = config.eos_token_id, config.pad_token_id
    few = model.generate(**part, **options, draws=draws[7:12])
    assert trimmed(few, *ends) == trimmed(whole, *ends)[7:12]
    assert len(whole.unique()) > 30


@pytest.mark.parametrize(
    ("draw", "token"), [(0.0, 1), (0.24, 1), (0.26, 3), (0.74, 3), (0.76, 4), (1 - 2**-24, 4)]
)
def test_a_draw_is_a_point_of_the_cumulative_distribution(draw, token):
    probabilities = torch.tensor([[0.0, 0.25, 0.0, 0.5, 0.25, 0.0]])
    assert sample(probabilities, torch.tensor([draw])).item() == token
