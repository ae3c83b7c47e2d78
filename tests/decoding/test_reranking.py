"""Replies chosen among candidates: what each criterion is, and that it moves the choice."""

import math
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from sacrebleu.metrics import CHRF
from transformers import set_seed

from seq2seq_dialog import train
from seq2seq_dialog.data.corpus import exchange_sides
from seq2seq_dialog.decoding.generation_config import generation_config
from seq2seq_dialog.errors import UsageError
from seq2seq_dialog.models import artifact
from seq2seq_dialog.portable import reranking
from seq2seq_dialog.portable.context import encode_context
from seq2seq_dialog.portable.guidance import ContextFreeGuidance
from seq2seq_dialog.portable.options import EXTRA_OPTIONS
from seq2seq_dialog.portable.pipeline import DialoguePipeline
from seq2seq_dialog.portable.reranking import is_reply, letters, mean_chrf, rank
from seq2seq_dialog.run_folder import read_json
from seq2seq_dialog.serve.chat import change_setting, describe_candidates
from seq2seq_dialog.serve.inference import (
    Conversation,
    candidates,
    generate_response,
    generate_responses,
)
from seq2seq_dialog.settings import DecodingArguments
from seq2seq_dialog.train_arguments import parse
from seq2seq_dialog.training.evaluating import encode_sources, generate_replies

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
    expected, others = {}, ["Is it far?", "Where have you been all day?"]
    elsewhere = [encode_context(other, tokenizer) for other in others]
    for ids in pool_ids(model, tokenizer):
        text = tokenizer.decode(ids, skip_special_tokens=True).strip()
        with_context, without = (log_likelihood(model, x, ids) for x in (source, nothing))
        after_others = torch.stack([log_likelihood(model, x, ids) for x in elsewhere]).mean(0)
        expected[text] = {
            "likelihood": with_context.mean(),
            "likelihood_sum": with_context.sum(),
            "context_free": -without.mean(),
            "context_free_sum": -without.sum(),
            "other_contexts": -after_others.mean(),
            "other_contexts_sum": -after_others.sum(),
        }
    weights = dict.fromkeys(expected[text], 1.0)
    found = sampled(model, tokenizer, weights, other_contexts=others)
    assert len({len(ids) for ids in pool_ids(model, tokenizer)}) > 1  # padding is between them
    assert {each.text for each in found} == expected.keys() - {""}
    for each in found:
        parts = expected[each.text]
        assert each.parts == pytest.approx({k: float(v) for k, v in parts.items()}, abs=1e-4)
        assert each.score == pytest.approx(math.fsum(each.parts.values()))
    assert [each.score for each in found] == sorted((e.score for e in found), reverse=True)


def test_each_weight_moves_the_choice(model, tokenizer):
    """The best by a criterion alone is the worst by its negative."""
    for name in ("likelihood", "context_free_sum", "mbr", "echo", "length"):
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


def test_candidates_are_sampled_without_the_beams_that_are_saved(model, tokenizer):
    contexts, replies = ["Hi!", CONTEXT], []
    for beams in (1, 4):
        model.generation_config.num_beams = beams
        set_seed(5)
        replies.append(generate_responses(contexts, model, tokenizer, **SAMPLING))
        replies[-1] += [each.text for each in sampled(model, tokenizer, {"mbr": 1})]
        set_seed(5)
        replies[-1].append(describe_candidates("Hi!", model, tokenizer, {"do_sample": True}))
    assert replies[0] == replies[1]
    model.generation_config.update(do_sample=True, candidates=6, max_new_tokens=8)  # of a recipe
    inputs = torch.tensor([encode_context(CONTEXT, tokenizer)])
    inputs = {"input_ids": inputs, "attention_mask": torch.ones_like(inputs)}
    assert generate_replies(model, tokenizer, inputs, seed=1, sharded=False)[0][0]


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
        ({"rerank": {"stock": 1}}, "has no stock_phrases saved"),
        ({"rerank": {"other_contexts_sum": 1}}, "has no other_contexts saved"),
        ({"guidance_weight": -1}, "guidance_weight is -1; it must be at least 0"),
        (SAMPLING | {"num_return_sequences": 9}, "candidates are 6: raise"),
    ],
)
def test_what_cannot_be_is_refused(options, message, model, tokenizer):
    with pytest.raises(ValueError, match=message):
        generate_responses(["Hi!"], model, tokenizer, **options)


@torch.no_grad()
def test_guidance_is_its_formula_and_the_same_on_every_way(model, tokenizer):
    source, ids = encode_context(CONTEXT, tokenizer), [5, 9]
    with_context, without = (
        model(input_ids=torch.tensor([each]), decoder_input_ids=torch.tensor([[0, *ids]])).logits[
            :, -1
        ]
        for each in (source, [tokenizer.eos_token_id])
    )
    expected = 1.5 * with_context.log_softmax(-1) - 0.5 * without.log_softmax(-1)
    expected[:, ids] = expected[:, ids].minimum(with_context.log_softmax(-1)[:, ids])  # said
    guidance = ContextFreeGuidance(model, tokenizer, 0.5, tokens=3)
    found = guidance(torch.tensor([[0, *ids]]), with_context)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert guidance(torch.tensor([[0, *ids, 4]]), with_context) is with_context  # the fourth
    contexts, options = ["Hi!", CONTEXT], {"guidance_weight": 0.8, "max_new_tokens": 8}
    guided = [generate_response(context, model, tokenizer, **options) for context in contexts]
    assert guided == generate_responses(contexts, model, tokenizer, **options)  # by our loop
    assert guided != [generate_response(c, model, tokenizer, max_new_tokens=8) for c in contexts]


@torch.no_grad()
@pytest.mark.parametrize("kind", ["t5", "rnn"])
def test_guidance_reads_each_token_once_wherever_rows_go(kind, model, tokenizer, make_rnn):
    model = model if kind == "t5" else make_rnn()
    guidance = ContextFreeGuidance(model, tokenizer, 0.5)
    read = []
    hook = lambda _, args, inputs: read.append(tuple(inputs["decoder_input_ids"].shape))  # noqa: E731
    model.register_forward_pre_hook(hook, with_kwargs=True)
    scores, favoured_again = torch.randn(4, 512), 0
    for rows, expected in (
        ([[0], [0], [0], [0]], (1, 1)),  # equal ones once
        ([[0, 7], [0, 5], [0, 5], [0, 5]], (2, 1)),
        ([[0, 5, 9], [0, 5, 4], [0, 7, 4], [0, 5, 4]], (3, 1)),  # moved
        ([[0, 7, 4, 6], [0, 5, 4, 6]], (2, 1)),  # some have left
        ([[0], [0]], (1, 1)),  # another batch
        ([[0, 5, 8], [0, 3, 8]], (2, 3)),  # others: all is read
    ):
        ids = torch.tensor(rows)
        found = guidance(ids, scores[: len(ids)])
        assert read[-1] == expected
        source = {"input_ids": torch.tensor([[tokenizer.eos_token_id]] * len(ids))}
        without = model(**source, decoder_input_ids=ids).logits[:, -1].log_softmax(-1)
        with_context = scores[: len(ids)].log_softmax(-1)
        gain = with_context - without
        # The first token, where a reply starts, is none that it has said.
        said = torch.zeros_like(gain).scatter(1, ids[:, 1:], 1).bool()
        favoured_again += int((said & (gain > 0)).sum())
        expected = with_context + 0.5 * torch.where(said, gain.clamp(max=0), gain)
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert favoured_again  # of a token that was said, what would make it likelier is left out


def test_the_pipeline_and_the_evaluation_choose_the_same_reply(model, tokenizer):
    weights, beams = {"likelihood": 1, "context_free": 1.5}, {"num_beams": 4, "max_new_tokens": 8}
    pipe = DialoguePipeline(model=model, tokenizer=tokenizer, device="cpu")
    for options in (SAMPLING, beams | {"candidates": 4, "guidance_weight": 0.3}):
        set_seed(3)
        reply = generate_response(CONTEXT, model, tokenizer, rerank=weights, **options)
        set_seed(3)
        # One context: of a list, its DataLoader would draw a number before.
        found = pipe("__eou__".join(CONTEXT), rerank=weights, **options)
        assert found == [{"generated_text": reply}]
    plain = generate_response(CONTEXT, model, tokenizer, **beams)
    args = DecodingArguments(**beams, candidates=4, rerank='{"context_free": 2, "echo": 1}')
    model.generation_config = generation_config(args, model)
    saved = generate_response(CONTEXT, model, tokenizer)  # by what is saved with the model
    assert saved != plain
    assert generate_response(CONTEXT, model, tokenizer, num_beams=3) != saved  # too few: not chosen
    ids = torch.tensor([encode_context(CONTEXT, tokenizer)] * 2)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    encoded = encode_sources(model.eval(), **inputs) | inputs
    replies, _ = generate_replies(model, tokenizer, encoded, 0, sharded=False)
    assert replies == [saved, saved]


@torch.no_grad()
def test_a_reverse_model_reads_the_reply(model, tokenizer, saved):
    found = candidates(
        CONTEXT, model, tokenizer, rerank={"reverse_sum": 2.0}, reverse_model=str(saved), **SAMPLING
    )
    turn = [*tokenizer(CONTEXT[-1], add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    assert len(found) > 3
    for each in found[:2]:
        expected = log_likelihood(model, encode_context(each.text, tokenizer), turn).sum()
        assert each.score == pytest.approx(2 * float(expected), abs=1e-3)
    rows = Dataset.from_dict({"context": [["a", "b"], ["c"]], "response": ["d", "e"]})
    assert exchange_sides(rows).to_dict() == {"context": [["d"], ["e"]], "response": ["b", "c"]}


def keep(model, tokenizer, contexts, rerank) -> None:
    """Keep with a model what its run would."""
    rows = Dataset.from_dict({"context": contexts})
    settings = SimpleNamespace(decoding=DecodingArguments(rerank=rerank))
    train.keep_for_reranking(model, tokenizer, SimpleNamespace(rows={"train": rows}), settings)


def test_turns_of_other_dialogues_are_saved_where_they_are_weighed(model, tokenizer):
    contexts = [["Who is it?", f"It's number {i // 2}."] for i in range(20)]
    keep(model, tokenizer, contexts, '{"other_contexts": 0}')
    assert getattr(model.generation_config, "other_contexts", None) is None
    keep(model, tokenizer, contexts, '{"other_contexts_sum": 1}')
    assert model.generation_config.other_contexts == [f"It's number {i}." for i in (0, 3, 6, 9)]
    assert getattr(model.generation_config, "stock_phrases", None) is None
    few = sampled(model, tokenizer, {"other_contexts": 1.0})
    other = sampled(model, tokenizer, {"other_contexts": 1.0}, other_contexts=["Hm."])
    assert few[0].score != other[0].score


def test_stock_phrases_of_a_run_are_saved_and_avoided(model, tokenizer):
    keep(model, tokenizer, [CONTEXT] * 3, '{"stock": 5}')
    plain = generate_response(CONTEXT, model, tokenizer)
    assert model.generation_config.stock_phrases == [plain]
    said = sampled(model, tokenizer, {"likelihood": 1.0})
    phrases = [said[0].text.upper()]
    found = sampled(model, tokenizer, {"likelihood": 1.0, "stock": 50}, stock_phrases=phrases)
    assert [each.text for each in found[-1:]] == [said[0].text] and found[-1].parts["stock"] == -50


def test_a_stock_phrase_without_letters_makes_no_other_reply_a_stock_phrase():
    texts = [["...", "!", "OK!"]]
    values = reranking._text_criteria(texts, [["Hi"]], {"stock"}, ["👍", "ok"])
    assert values["stock"].tolist() == [[0, 0, -1]]


def test_settings_are_saved_with_the_model_and_kept_from_the_older_line(saved, model):
    args = DecodingArguments(do_sample=True, candidates=5, rerank='{"mbr": 1}')
    generation_config(args, model).save_pretrained(saved)
    artifact.finish(saved)
    kept = read_json(saved / "generation_config.json")
    assert kept["candidates"] == 5 and kept["rerank"] == {"mbr": 1}
    decoding = read_json(saved / "config.json")["task_specific_params"]["text2text-generation"]
    assert decoding["do_sample"] and not EXTRA_OPTIONS.keys() & decoding.keys()
    plain = generation_config(DecodingArguments(), model).to_dict()
    assert not EXTRA_OPTIONS.keys() & plain.keys()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--candidates", "4", "--num_beams", "2"], "2 beams give few"),
        (["--candidates", "4", "--rerank", "{mbr: x}"], "mbr: 'x'; a weight must be"),
        (["--candidates", "4", "--rerank.mbrr", "1"], "rerank has 'mbrr'; it can weigh"),
        (["--rerank", "{mbr: 1}"], "set candidates as well"),
        (["--candidates", "4", "--rerank.reverse", "1"], "needs reverse_model"),
        (["--reverse_model", "m"], "reverse_model has no effect without rerank by reverse"),
        (["--exchange_sides", "true", "--multireference", "m.json"], "Take one out"),
    ],
)
def test_settings_that_cannot_be_are_refused(flags, message):
    with pytest.raises(UsageError, match=message):
        parse(["demo", *flags])


def test_the_chat_sets_them(model, tokenizer):
    conversation = Conversation(model, tokenizer)
    assert "does not work: candidates is 4. Greedy" in change_setting("candidates=4", conversation)
    assert "effect after" in change_setting("rerank={mbr: 1}", conversation)
    assert change_setting("do_sample=true", conversation) == "do_sample=True"
    assert change_setting("candidates=4", conversation) == "candidates=4"
    assert "can weigh" in change_setting("rerank={br: 1}", conversation)
    assert conversation.generate_kwargs["rerank"] == {"mbr": 1} and conversation.say("Hi!")


def test_a_reply_ends_with_its_first_end_behind_the_start():
    ids = torch.tensor([[2, 5, 2, 1], [2, 5, 6, 7], [2, 2, 2, 2]])
    expected = [[True, True, False], [True, True, True], [True, False, False]]
    assert is_reply(ids, 2).tolist() == is_reply(ids, [2, 9]).tolist() == expected
