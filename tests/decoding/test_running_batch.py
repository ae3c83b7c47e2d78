"""Batches that rows join and leave: each reply is the one that it is alone."""

import pytest
import torch
from helpers.corpus import sample_dialogues
from helpers.servers import lively_model

from seq2seq_dialog.decoding.running_batch import JOINABLE, RunningBatch
from seq2seq_dialog.portable.context import encode_context
from seq2seq_dialog.serve.inference import generate_response

CONTEXTS = [turns[:2] for turns in sample_dialogues(6)]
GREEDY = {"num_beams": 1, "do_sample": False, "num_return_sequences": 1}
SAMPLED = {"num_beams": 1, "do_sample": True, "num_return_sequences": 1, "no_repeat_ngram_size": 2}


def begin(model, tokenizer, row, options):
    ids = torch.tensor([encode_context(CONTEXTS[row], tokenizer)])
    draws = None
    if options["do_sample"]:
        draws = torch.rand(1, 12, generator=torch.Generator().manual_seed(row))
    return RunningBatch.begin(model, [row], ids, torch.ones_like(ids), draws, **options)


def reply_together(model, tokenizer, options, pause):
    """Reply to all contexts; a row joins each `pause` steps."""
    replies, ended, batch, step = [[] for _ in CONTEXTS], set(), None, 0
    rows = list(range(len(CONTEXTS)))

    def advance(batch):
        for row, token_id, reason in batch.step():
            replies[row].append(token_id)
            if reason is not None:
                ended.add(row)
        batch.keep(lambda row: row not in ended)

    while rows or batch.rows:
        if rows and step % pause == 0:
            new = begin(model, tokenizer, rows.pop(0), options(len(rows)))
            advance(new)
            if batch is None or not batch.rows:
                batch = new
            elif new.rows:
                batch.join(new)
        if batch.rows:
            advance(batch)
        step += 1
    return replies


@pytest.fixture(params=["t5", "lstm", "fed"])
def some_model(request, make_rnn):
    if request.param == "t5":
        return lively_model()
    fed = {"attention": "multiplicative", "input_feeding": True}
    return make_rnn(cell="lstm", attention="none") if request.param == "lstm" else make_rnn(**fed)


def test_rows_that_join_and_leave_get_the_replies_of_single_calls(some_model, tokenizer):
    expected = [generate_response(c, some_model, tokenizer, **GREEDY) for c in CONTEXTS]
    assert some_model.config.model_type in JOINABLE
    for pause in (1, 5):
        replies = reply_together(some_model, tokenizer, lambda _: GREEDY, pause)
        texts = [text.strip() for text in tokenizer.batch_decode(replies, skip_special_tokens=True)]
        assert texts == expected


def test_each_row_is_decoded_by_its_own_options(some_model, tokenizer):
    """Every other row is sampled, each by draws of its own."""

    def options(number):
        return SAMPLED if number % 2 else GREEDY

    together = reply_together(some_model, tokenizer, options, 2)
    alone = reply_together(some_model, tokenizer, options, 100)
    assert together == alone
    assert together != reply_together(some_model, tokenizer, lambda _: GREEDY, 2)
