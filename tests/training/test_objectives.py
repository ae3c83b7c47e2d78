"""Unlikelihood training: gradients, what each objective moves, resuming, settings."""

import copy
from types import SimpleNamespace

import pytest
import torch
from transformers import set_seed

from seq2seq_dialog.data.batching import IGNORE
from seq2seq_dialog.errors import UsageError
from seq2seq_dialog.evaluation.diversity import repetition
from seq2seq_dialog.method_settings import OBJECTIVES
from seq2seq_dialog.train_arguments import parse
from seq2seq_dialog.training.evaluating import token_nll
from seq2seq_dialog.training.objectives import ObjectiveTrainer, ends_of_repeated, overuse
from seq2seq_dialog.training.sampling import decode_bare
from seq2seq_dialog.training.trainer import DialogueTrainer
from seq2seq_dialog.training_settings import DialogueTrainingArguments

PHRASE = "I don't know."
ALL = dict.fromkeys(OBJECTIVES, 1.0)


@pytest.fixture
def features(features, tokenizer):
    """Thirty pairs, a third of which have the stock phrase for a reply."""
    features = features.select(range(30))
    columns = features.to_dict()
    ids = [*tokenizer(PHRASE, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    for place in range(0, 30, 3):
        columns["response"][place], columns["labels"][place] = PHRASE, ids
        columns["target_length"][place] = len(ids)
    return type(features).from_dict(columns)


def make_trainer(model, tokenizer, features, folder, objectives, **settings):
    defaults = {"output_dir": str(folder), "tokens_per_batch": 512, "max_steps": 4}
    defaults |= {"logging_steps": 1, "eval_strategy": "no", "save_strategy": "no"}
    defaults |= {"warmup_steps": 0, "disable_tqdm": True, "use_cpu": True}
    set_seed(42)
    args = DialogueTrainingArguments(**(defaults | settings))
    return ObjectiveTrainer(
        model, args, tokenizer, objectives, train_dataset=features, eval_dataset=features
    )


@pytest.fixture
def trainer(model, tokenizer, features, tmp_path):
    return make_trainer(model, tokenizer, features, tmp_path, ALL)


# The formulas


def by_hand(trainer, name, logits, labels, context):
    """Sum an objective over a reply, token by token."""
    special, total = trainer.processing_class.all_special_ids, 0
    p, seen = logits.softmax(-1), set()
    for t, token in enumerate(labels):
        if token == IGNORE:
            break
        candidates = {}
        if name == "repetition":
            candidates = dict.fromkeys(set(labels[:t]) - {token}, 1.0)
        elif name == "context_copy":
            candidates = dict.fromkeys(set(context) - {token}, 1.0)
        elif name == "vocabulary":
            likeliest = int(p[t].argmax())
            weight = overuse(trainer._used, trainer._human)[likeliest].item()
            candidates = {likeliest: weight} if likeliest != token else {}
        elif name == "stock_phrases":
            candidates = {token: 1.0}
        elif name == "sequence_repetition":
            ngram = tuple(labels[t - 2 : t + 1]) if t > 1 else None
            candidates = {token: 1.0} if ngram in seen and ngram else {}
            seen.add(ngram)
        for candidate, weight in candidates.items():
            if candidate not in special:
                total = total - weight * torch.log(1 - p[t, candidate])
    return total


@pytest.mark.parametrize("name", OBJECTIVES)
def test_value_and_gradient_are_those_of_the_formula(trainer, name):
    torch.manual_seed(4)
    labels = torch.tensor([[7, 8, 9, 7, 8, 9, 5, 1], [6, 6, 6, 6, 1, -100, -100, -100]])
    trainer._contexts = torch.tensor([[7, 20, 20, 1, 0], [6, 21, 22, 23, 1]])
    logits = torch.randn(2, 8, 512, requires_grad=True)
    if name == "vocabulary":
        with torch.no_grad():  # what is likeliest is used far more than people do
            logits[:, :, 30] += 9
            logits[0, 1, 8] += 99
            trainer._used[30], trainer._used[8], trainer._used[31] = 50, 50, 100
            trainer._human[30] = 3
    part = trainer._functions[name](logits, labels)
    assert part.shape == labels.shape and not part[labels == IGNORE].any()
    rows = zip(logits, labels.tolist(), trainer._contexts.tolist(), strict=True)
    expected = sum(by_hand(trainer, name, *row) for row in rows)
    assert part.sum().item() == pytest.approx(expected.item(), rel=1e-4) and expected > 0
    (got,) = torch.autograd.grad(part.sum(), logits, retain_graph=True)
    (wanted,) = torch.autograd.grad(expected, logits)
    torch.testing.assert_close(got, wanted, atol=1e-6, rtol=1e-3)


def test_the_loss_is_the_weighted_sum_and_its_parts_are_logged(trainer):
    trainer.objectives = {"repetition": 2.0, "stock_phrases": 0.5}
    trainer._parts = ["human", "stock_phrases"]
    human, phrase = (
        torch.tensor([[7, 8, 7, 1], [9, 1, -100, -100]]),
        torch.tensor([[3, 4, 5, 1]] * 2),
    )
    logits = torch.randn(4, 4, 512)
    labels = torch.cat([human, phrase])
    loss = trainer._mean_loss(SimpleNamespace(logits=logits), labels, torch.tensor(12.0))
    nll = torch.nn.functional.cross_entropy(
        logits[:2].flatten(0, 1), human.flatten(), reduction="sum"
    )
    parts = [trainer._repetition(logits[:2], human), trainer._stock_phrases(logits[2:], phrase)]
    expected = nll + 2 * parts[0].sum() + 0.5 * parts[1].sum()
    assert loss.item() == pytest.approx(expected.item() / 12, rel=1e-5)
    means = trainer._means.take(trainer.accelerator)
    assert means == {
        "human_loss": pytest.approx(nll.item() / 6),
        "repetition_loss": pytest.approx(parts[0].sum().item() / 6),
        "stock_phrases_loss": pytest.approx(parts[1].sum().item() / 6),
    }


def test_a_context_answered_by_the_phrase_itself_gets_no_other(trainer):
    human = trainer.data_collator([trainer.train_dataset[i] for i in range(6)])["labels"]
    drawn = trainer._draw_phrases(human)
    assert [bool((row == IGNORE).all()) for row in drawn] == [True, False, False] * 2


def test_the_ends_of_repeated_ngrams():
    replies = torch.tensor([[1, 2, 3, 1, 2, 3, 4], [5, 5, 5, 5, -100, -100, -100]])
    marked = ends_of_repeated(replies, 3).int().tolist()
    assert marked == [[0, 0, 0, 0, 0, 1, 0], [0, 0, 0, 1, 0, 0, 0]]
    assert not ends_of_repeated(replies[:, :2], 3).any()


# What they move

SHORT = {"max_steps": 40, "learning_rate": 1e-2, "lr_scheduler_type": "constant"}


def trained(model, tokenizer, features, folder, objectives):
    """Train a model on a toy corpus; return what it says, in figures of which each should fall."""
    trainer = make_trainer(copy.deepcopy(model), tokenizer, features, folder, objectives, **SHORT)
    trainer.train()
    batch = trainer._prepare_inputs(trainer.data_collator(list(features)))
    special = {IGNORE, *tokenizer.all_special_ids}
    replies = [
        [token for token in reply if token not in special]
        for reply in decode_bare(trainer, batch, temperature=0).tolist()
    ]
    copied = [
        len(set(reply) & set(context)) / max(1, len(set(reply)))
        for reply, context in zip(replies, features["input_ids"], strict=True)
    ]
    labels = batch.pop("labels")
    with torch.no_grad():
        likeliest = trainer.model.eval()(**batch).logits.argmax(-1)[labels != IGNORE]
        phrase = torch.tensor([features[0]["labels"]]).repeat(len(features), 1)
        batch["decoder_input_ids"] = trainer._shift(labels=phrase)
        nll = token_nll(trainer.model(**batch).logits, phrase).sum(1)  # (pairs,)
    _, used = likeliest.unique(return_counts=True)
    repeated = sum(len(reply) - len(set(reply)) for reply in replies)
    return {
        "repetition": repeated / max(1, sum(map(len, replies))),
        "context_copy": sum(copied) / len(copied),
        "vocabulary": used.max().item() / used.sum().item(),  # of the token that is used most
        "sequence_repetition": repetition([" ".join(map(str, reply)) for reply in replies]),
        "stock_phrases": (-nll.mean() / phrase.shape[1]).exp().item(),  # its likelihood
    }


@pytest.fixture(scope="module")
def without(request):
    """What the figures are without an objective, measured once."""
    return {}


WEIGHTS = {"vocabulary": 50.0, "context_copy": 40.0}


@pytest.mark.slow
@pytest.mark.parametrize("name", OBJECTIVES)
def test_each_moves_its_figure(model, tokenizer, features, tmp_path, without, name):
    if not without:
        without |= trained(model, tokenizer, features, tmp_path / "plain", {})
    weight = WEIGHTS.get(name, 2.0)
    figures = trained(model, tokenizer, features, tmp_path / name, {name: weight})
    assert figures[name] < 0.95 * without[name], (without, figures)


# The run


def test_resumed_equals_uninterrupted_and_the_evaluation_is_pure_likelihood(
    model, tokenizer, features, tmp_path
):
    def run(folder, resume=None):
        trainer = make_trainer(
            copy.deepcopy(model), tokenizer, features, folder, ALL,
            save_strategy="steps", save_steps=2, gradient_accumulation_steps=2,
        )  # fmt: skip
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    whole = run(tmp_path / "whole")
    resumed = run(tmp_path / "resumed", str(tmp_path / "whole" / "checkpoint-2"))
    weights = resumed.model.state_dict()
    assert all(x.equal(weights[name]) for name, x in whole.model.state_dict().items())
    assert whole._used.equal(resumed._used) and whole._used.sum() > 0
    log = whole.state.log_history[0]
    assert {f"{name}_loss" for name in OBJECTIVES} <= log.keys() and log["human_loss"] > 0
    plain = DialogueTrainer(whole.model, whole.args, tokenizer, eval_dataset=features)
    assert whole.evaluate()["eval_loss"] == plain.evaluate()["eval_loss"]


def test_phrases_that_are_not_there_are_refused(model, tokenizer, features, tmp_path):
    with pytest.raises(UsageError, match="stock_phrases needs replies that are said at least twi"):
        make_trainer(model, tokenizer, features.select([1, 2]), tmp_path, {"stock_phrases": 1.0})


START = ["--model_name_or_path", "m"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--objectives", "{repetitions: 1}"], "has 'repetitions'.* Did you mean 'repetition'"),
        (["--objectives.repetition", "-1"], "objectives gives repetition -1; it must be at least"),
        (["--objectives.repetition", "yes"], "objectives gives repetition True; it must be a num"),
        (["--objectives", "repetition"], "objectives is 'repetition'; it must be a mapping"),
        (
            ["--objectives.vocabulary", "9", "--streaming", "true", "--max_steps", "9"],
            "streaming does not work with objectives: replies are counted first",
        ),
        (["--objectives.repetition", "1", "--dpo", "true"], "dpo does not work with objectives"),
        (["--objectives.repetition", "1", "--adversarial", "true"], "adversarial does not work"),
        (["--objectives.repetition", "1", "--tokens_per_batch", "auto"], "auto does not work with"),
    ],
)  # fmt: skip
def test_wrong_settings_are_refused(flags, message):
    with pytest.raises(UsageError, match=message):
        parse([*START, *flags])


def test_weights_of_0_are_off():
    settings = parse([*START, "--objectives", "{repetition: 0, context_copy: 0.5}"])
    assert settings.objectives.objective_weights() == {"context_copy": 0.5}
    assert settings.as_config()["objectives"] == {"repetition": 0, "context_copy": 0.5}
    off = parse([*START, "--objectives.repetition", "0"])
    assert not off.objectives.is_on and "objectives" not in off.as_config()
