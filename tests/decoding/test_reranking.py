"""Replies chosen among candidates: what each criterion is, and that it moves the choice."""

import math

import pytest
import torch
from sacrebleu.metrics import CHRF
from transformers import set_seed

from seq2seq_dialog.portable.context import encode_context
from seq2seq_dialog.portable.reranking import CRITERIA, letters, mean_chrf, rank
from seq2seq_dialog.serve.inference import candidates, generate_response, generate_responses

CONTEXT = ["Hello there!", "Can you help me?"]
SAMPLING = {"do_sample": True, "candidates": 6, "max_new_tokens": 8}


@pytest.fixture
def model(model):
    """A model whose replies depend on the context, and end now and then."""
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.3)
    model.get_output_embeddings().weight.data[model.config.eos_token_id] *= 3
    return model.eval()


def sampled(model, tokenizer, weights, **options):
    set_seed(3)
    return candidates(CONTEXT, model, tokenizer, rerank=weights, **SAMPLING | options)


def log_likelihood(model, source, target) -> torch.Tensor:
    """Plainly: the log-probability of each token of one target after one source."""
    loss = model(input_ids=torch.tensor([source]), labels=torch.tensor([target])).logits
    return loss.log_softmax(-1)[0, range(len(target)), target]


def pool_ids(model, tokenizer) -> list[list[int]]:
    """The tokens of the candidates, without what `sampled` does with them."""
    set_seed(3)
    source = torch.tensor([encode_context(CONTEXT, tokenizer)])
    options = {name: value for name, value in SAMPLING.items() if name != "candidates"}
    ids = model.generate(source, num_return_sequences=SAMPLING["candidates"], **options)
    end = model.config.eos_token_id
    rows = [row[1:] for row in ids.tolist()]
    return [row[: row.index(end) + 1] if end in row else row for row in rows]


@torch.no_grad()
def test_likelihoods_are_those_of_a_plain_recomputation(model, tokenizer):
    source, nothing = encode_context(CONTEXT, tokenizer), [tokenizer.eos_token_id]
    expected = {}
    for ids in pool_ids(model, tokenizer):
        text = tokenizer.decode(ids, skip_special_tokens=True).strip()
        with_context, without = (log_likelihood(model, x, ids) for x in (source, nothing))
        expected[text] = {
            "likelihood": with_context.mean(),
            "likelihood_sum": with_context.sum(),
            "context_free": -without.mean(),
            "context_free_sum": -without.sum(),
        }
    found = sampled(model, tokenizer, dict.fromkeys(expected[text], 1.0))
    assert len({len(ids) for ids in pool_ids(model, tokenizer)}) > 1  # padding is between them
    assert {each.text for each in found} == expected.keys() - {""}
    for each in found:
        parts = expected[each.text]
        assert each.parts == pytest.approx({k: float(v) for k, v in parts.items()}, abs=1e-4)
        assert each.score == pytest.approx(math.fsum(each.parts.values()))
    assert [each.score for each in found] == sorted((e.score for e in found), reverse=True)


def test_each_weight_moves_the_choice(model, tokenizer):
    """The best by a criterion alone is the worst by its negative."""
    for name in CRITERIA.keys() - {"reverse", "reverse_sum", "stock"}:
        best, *_, worst = sampled(model, tokenizer, {name: 1.0})
        first, *_, last = sampled(model, tokenizer, {name: -2.0})
        assert first.parts[name] == pytest.approx(-2 * worst.parts[name], abs=1e-5), name
        assert last.parts[name] == pytest.approx(-2 * best.parts[name], abs=1e-5)
        assert best.score > worst.score


def test_chrf_is_that_of_sacrebleu():
    texts = ["I like tea.", "I like green tea!", "No", "", "tea tea tea", "I like tea."]
    chrf = CHRF()
    expected = [
        sum(chrf.sentence_score(text, [o]).score for j, o in enumerate(texts) if j != i) / 500
        for i, text in enumerate(texts)
    ]
    assert mean_chrf(texts).tolist() == pytest.approx(expected, abs=1e-5)
    assert mean_chrf(["alone"]).tolist() == [0]


def test_empty_and_repeated_candidates_come_last():
    assert rank(["", "a", "b", "a"], [9, 1, 2, 3]) == ([3, 2], [0, 1])
    assert letters("It's  I!") == "itsi"


def test_the_reply_is_the_best_candidate(model, tokenizer):
    weights = {"likelihood": 1, "context_free": 0.5}
    best = sampled(model, tokenizer, weights)[0].text
    set_seed(3)
    options = SAMPLING | {"rerank": weights}
    assert generate_response(CONTEXT, model, tokenizer, **options) == best
    (plain,) = candidates(CONTEXT, model, tokenizer)  # the model's own settings: greedy
    assert plain.text == generate_response(CONTEXT, model, tokenizer)


def test_a_batch_gives_the_replies_of_its_contexts_alone(model, tokenizer):
    contexts = ["Hi!", CONTEXT, "What is your name, and where do you live?"]
    options = SAMPLING | {"rerank": {"context_free_sum": 1, "mbr": 3, "echo": 1}}
    replies = []
    for size in (10**6, 1):
        set_seed(5)
        replies.append(
            generate_responses(contexts, model, tokenizer, tokens_per_batch=size, **options)
        )
    assert replies[0] == replies[1]
    set_seed(5)
    several = generate_responses(contexts, model, tokenizer, num_return_sequences=3, **options)
    assert [row[0] for row in several] == replies[0] and all(len(set(row)) == 3 for row in several)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rerank": {"likelyhood": 1}}, "rerank has 'likelyhood'; it can weigh likelihood,"),
        ({"rerank": {"mbr": "much"}}, "mbr: 'much'; a weight must be a finite number"),
        ({"rerank": {"mbr": math.nan}}, "mbr: nan; a weight must be a finite number"),
        ({"rerank": 3}, "rerank is 3; it must be weights, for example"),
        ({"candidates": 0}, "candidates is 0; it must be at least 1"),
        ({"candidates": 4}, "Greedy decoding gives one reply: set do_sample"),
        ({"candidates": 4, "num_beams": 2}, "2 beams give few: set do_sample"),
        ({"rerank": {"reverse": 1}}, "needs reverse_model"),
        (SAMPLING | {"num_return_sequences": 9}, "candidates are 6: raise"),
    ],
)
def test_what_cannot_be_is_refused(options, message, model, tokenizer):
    with pytest.raises(ValueError, match=message):
        generate_responses(["Hi!"], model, tokenizer, **options)
