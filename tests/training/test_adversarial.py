"""Adversarial training: rewards, gradients, both networks, resuming, collapse."""

import copy
import functools
import json
import textwrap

import pytest
import torch
from helpers.adversaries import make_trainer
from helpers.corpus import ROOT
from helpers.runs import finish, start_two
from torch.nn import functional
from transformers.trainer_callback import TrainerCallback

from seq2seq_dialog.decoding.generation_config import generation_config
from seq2seq_dialog.errors import UsageError
from seq2seq_dialog.method_settings import AdversarialArguments
from seq2seq_dialog.portable.modeling_rnn import shift_right
from seq2seq_dialog.report.preview import measure
from seq2seq_dialog.settings import DecodingArguments
from seq2seq_dialog.train_arguments import parse
from seq2seq_dialog.training.adversarial import AdversarialTrainer
from seq2seq_dialog.training.discriminator import at_last_token, make_discriminator
from seq2seq_dialog.training.evaluating import token_nll
from seq2seq_dialog.training.judging import draw, judge_samples
from seq2seq_dialog.training.stopping import Diverged
from seq2seq_dialog.training.trainer import DialogueTrainer
from seq2seq_dialog.training.warm_up import warm_up


def parameters(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


@pytest.fixture
def generator(make_rnn):
    return make_rnn(initializer_range=0.1)


@pytest.fixture
def trainer(generator, tokenizer, features, tmp_path):
    return make_trainer(generator, tokenizer, features, tmp_path)


@pytest.fixture
def pretrained(saved):
    """`discriminator` that begins with a saved T5, by form."""
    return {
        form: json.dumps({"model_name_or_path": str(saved), "form": form})
        for form in ("ratio", "classifier")
    }


def inputs_of(trainer, count=4):
    inputs = trainer._prepare_inputs(
        trainer.data_collator([trainer.eval_dataset[i] for i in range(count)])
    )
    inputs.pop("decoder_input_ids")
    return inputs


@pytest.fixture(params=["recurrent", "classifier", "ratio"])
def form(request, pretrained):
    """The settings of each kind of discriminator."""
    known = request.param in pretrained
    return {"discriminator": pretrained[request.param]} if known else {}


@torch.no_grad()
def test_a_score_sees_the_context_and_the_reply_so_far_and_no_more(
    generator, tokenizer, features, tmp_path, form
):
    trainer = make_trainer(generator, tokenizer, features, tmp_path, form)
    discriminator, inputs = trainer.discriminator.eval(), inputs_of(trainer)
    replies = torch.randint(3, 500, (4, 6))
    contexts = inputs["input_ids"], inputs["attention_mask"]
    scores, baselines = discriminator(*contexts, replies)
    assert scores.shape == baselines.shape == (4, 6)
    changed = replies.clone()
    changed[:, 3] = 7
    other, _ = discriminator(*contexts, changed)
    assert other[:, :3].equal(scores[:, :3]) and not other[:, 3].equal(scores[:, 3])
    # The baseline of a token may not know that token, or the gradient would be biased.
    discriminator.baseline.weight.data.normal_()
    before, after = (discriminator(*contexts, ids)[1] for ids in (replies, changed))
    assert after[:, :4].equal(before[:, :4]) and not after[:, 4].equal(before[:, 4])
    elsewhere = discriminator(contexts[0].roll(1, 0), contexts[1].roll(1, 0), replies)[0]
    assert not elsewhere.allclose(scores)
    padded = functional.pad(replies, (0, 3), value=-100)
    torch.testing.assert_close(discriminator(*contexts, padded)[0][:, :6], scores)


def test_no_gradient_of_the_baseline_reaches_the_discriminator(
    generator, tokenizer, features, tmp_path, form
):
    trainer = make_trainer(generator, tokenizer, features, tmp_path, form)
    inputs = inputs_of(trainer)
    _, baselines = trainer.discriminator(
        inputs["input_ids"], inputs["attention_mask"], inputs["labels"]
    )
    baselines.sum().backward()
    moved = {name for name, p in trainer.discriminator.named_parameters() if p.grad is not None}
    assert moved == {"baseline.weight", "baseline.bias"}


@pytest.mark.parametrize("kind", ["rnn", "t5"])
@torch.no_grad()
def test_the_ratio_is_the_likelihood_under_the_one_less_that_under_the_other(
    make_rnn, model, tokenizer, features, tmp_path, kind
):
    generator, judge = make_rnn(cell="lstm"), make_rnn() if kind == "rnn" else model.eval()
    for folder in (judge, tokenizer):
        folder.save_pretrained(tmp_path / "judge")
    mapping = {"model_name_or_path": str(tmp_path / "judge"), "form": "ratio"}
    trainer = make_trainer(
        generator, tokenizer, features, tmp_path, {"discriminator": json.dumps(mapping)}
    )
    inputs, replies = inputs_of(trainer), torch.randint(3, 500, (4, 6))
    replies[1, 4:] = -100
    contexts = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    ids, expected = shift_right(replies, 0, 0), 0
    for network, sign in ((judge, 1), (generator, -1)):
        log_p = network(**contexts, decoder_input_ids=ids).logits.log_softmax(-1)
        log_p = log_p.gather(-1, replies.clamp(min=0)[..., None])[..., 0]
        expected = expected + sign * log_p.masked_fill(replies == -100, 0)
    scores, _ = trainer.judge(inputs, replies)
    torch.testing.assert_close(scores, expected.cumsum(1), atol=1e-4, rtol=1e-4)
    assert at_last_token(scores, replies)[1] == scores[1, 3] == scores[1, 5]
    assert at_last_token(scores, replies, 3).tolist() == scores[:, 2].tolist()
    assert at_last_token(scores, replies, 5)[:2].tolist() == [scores[0, 4], scores[1, 3]]


@pytest.mark.parametrize("of_prefixes", [True, False])
def test_a_classifier_learns_from_samples_and_from_replies_to_other_contexts(
    trainer, monkeypatch, of_prefixes
):
    inputs, classifier = inputs_of(trainer, 2), trainer.discriminator
    inputs["labels"] = torch.tensor([[3, 4, 1], [5, 1, -100]])
    sampled = torch.tensor([[6, 7], [1, -100]])
    scores = torch.tensor(
        [[1.0, 2, 3], [-1, 1, 0], [-1, 1, 0], [-2, 0, 0], [0.5, 1, 2], [-3, -1, 0]]
    )

    def forward(input_ids, attention_mask, replies):
        ids = inputs["input_ids"]
        assert input_ids.equal(torch.cat([ids, ids, ids.flip(0)]))
        assert replies[[0, 1, 4, 5]].equal(inputs["labels"].repeat(2, 1))
        assert replies[2:4, :2].equal(sampled)
        return scores, None

    monkeypatch.setattr(classifier, "forward", forward)
    loss, recognised = classifier.losses(inputs, sampled, of_prefixes)
    counted = [[1, 2, 3], [-1, 1], [-1, 1], [-2], [0.5, 1, 2], [-3, -1]]
    if not of_prefixes:
        counted = [row[-1:] for row in counted]
    signs = (-1, -1, 1, 1, 1, 1)  # of human replies, sampled ones, exchanged ones
    means = [
        functional.softplus(sign * torch.tensor(row, dtype=torch.float)).mean()
        for sign, row in zip(signs, counted, strict=True)
    ]
    human, *others = torch.stack(means).view(3, 2).mean(1)
    assert loss.item() == pytest.approx(((human + sum(others) / 2) / 2).item())
    expected = [1, 0.5, 0.5, 1] if of_prefixes else [1, 1, 0, 1]
    assert recognised.tolist() == pytest.approx(expected)
    monkeypatch.undo()
    alone = {name: x[:1] for name, x in inputs.items()}  # no other context to exchange with
    assert len(classifier.losses(alone, sampled[:1], of_prefixes)[1]) == 2


def test_a_discriminator_with_another_tokenizer_is_refused(
    generator, tokenizer, features, tmp_path, pretrained
):
    tokenizer.add_tokens(["<another>"])
    message = r"another tokenizer than the generator.*Train the generator with tokenizer_name_or"
    with pytest.raises(UsageError, match=message):
        make_trainer(
            generator, tokenizer, features, tmp_path, {"discriminator": pretrained["ratio"]}
        )


@pytest.mark.parametrize(
    "decoding",
    [{}, {"top_p": 0.05}, {"num_beams": 3}, {"no_repeat_ngram_size": 1}, {"temperature": 0.1}],
    ids=str,
)
def test_samples_follow_the_bare_generator_whatever_the_decoding_settings(
    generator, tokenizer, features, tmp_path, decoding
):
    args = DecodingArguments(max_new_tokens=12, do_sample="num_beams" not in decoding, **decoding)
    generator.generation_config = generation_config(args, generator)
    trainer = make_trainer(generator, tokenizer, features, tmp_path)
    inputs = {name: x[:1].repeat(400, 1) for name, x in inputs_of(trainer).items()}
    samples = trainer.sample(inputs)
    assert samples.shape[0] == 400 and samples.shape[1] == 12
    for row in samples.tolist():
        if 1 in row:
            assert set(row[row.index(1) + 1 :]) <= {-100}
    with torch.no_grad():
        start = torch.zeros(1, 1, dtype=torch.long)
        one = {name: inputs[name][:1] for name in ("input_ids", "attention_mask")}
        p = trainer.model(**one, decoder_input_ids=start).logits[0, 0].softmax(-1)
    # Tokens beyond the 50 likeliest come as often as they should.
    rare = p.argsort(descending=True)[50:]
    seen = torch.isin(samples[:, 0], rare).float().mean().item()
    assert seen == pytest.approx(p[rare].sum().item(), abs=0.08)
    repeated = sum(len(set(row)) < 12 for row in samples.tolist() if 1 not in row)
    assert repeated > 20
    assert generator.generation_config.num_beams == args.num_beams  # the saved ones do not change


def test_samples_are_likely_with_activation_checkpointing(model, tokenizer, features, tmp_path):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.5)
    nll = []
    for checkpointing in (False, True):
        trainer = make_trainer(
            model, tokenizer, features, tmp_path, activation_checkpointing=checkpointing
        )
        if checkpointing:
            model.activation_checkpointing_enable()
        model.train()
        inputs = {name: x[:1].repeat(300, 1) for name, x in inputs_of(trainer).items()}
        inputs["labels"] = trainer.sample(inputs)
        assert model.training
        labels = inputs.pop("labels")
        inputs["decoder_input_ids"] = shift_right(labels, 0, 0)
        with torch.no_grad():
            nll.append(
                token_nll(model.eval()(**inputs).logits, labels).sum() / (labels != -100).sum()
            )
    assert nll[1].item() == pytest.approx(nll[0].item(), rel=0.1)


def test_rewards_of_prefixes_and_sequences(trainer):
    inputs = inputs_of(trainer)
    samples = trainer.sample(inputs)
    scores = trainer.judge(inputs, samples)[0]
    assert trainer.rewards(inputs, samples, scores).equal(scores.sigmoid())
    trainer.adversarial.reward = "sequence"
    rewards = trainer.rewards(inputs, samples, scores)
    assert rewards.equal(at_last_token(scores.sigmoid(), samples)[:, None].expand_as(rewards))
    trainer.adversarial.reward = "log_ratio"
    samples, scores = torch.tensor([[3, 4, 1], [1, -100, -100]]), torch.tensor([[1.0, 3, 2]] * 2)
    assert trainer.rewards(inputs, samples, scores)[0].tolist() == [2, 1, -1]
    assert trainer.rewards(inputs, samples, scores)[1, 0] == 1


def test_rewards_of_rollouts(make_rnn, tokenizer, features, tmp_path):
    model = make_rnn()
    model.lm_head.weight.data.mul_(1e6)  # so sure that from each prefix there is one way on
    adversarial = {"reward": "rollouts", "rollouts": 3}
    trainer = make_trainer(model, tokenizer, features, tmp_path, adversarial)
    inputs = inputs_of(trainer)
    samples = torch.randint(3, 500, (4, 12))  # not what it would have said itself
    samples[1, 4], samples[1, 5:] = 1, -100
    scores = trainer.judge(inputs, samples)[0]
    rewards = trainer.rewards(inputs, samples, scores)
    for t in range(1, 13):
        ways = samples if t == 12 else trainer.sample(inputs, samples[:, :t].clamp(min=0))
        expected = at_last_token(trainer.judge(inputs, ways)[0].sigmoid(), ways)
        rows = [0, 2, 3] if t > 4 else [0, 1, 2, 3]
        torch.testing.assert_close(rewards[rows, t - 1], expected[rows])
    assert rewards[1, 4] == at_last_token(scores.sigmoid(), samples)[1]
    assert len(set(rewards[0].tolist())) > 6


def test_rollouts_are_averaged(trainer):
    inputs, samples = inputs_of(trainer), torch.full((4, 2), 5)
    trainer.adversarial.reward, trainer.adversarial.rollouts = "rollouts", 2
    trainer.sample = lambda inputs, prefixes, count: torch.arange(3, 11)[:, None].expand(8, 2)
    trainer.judge = lambda inputs, replies: (replies.float(), None)
    rewards = trainer.rewards(inputs, samples, torch.zeros(4, 2))
    each = torch.arange(3, 11).float().sigmoid()
    assert rewards[:, 0].tolist() == pytest.approx(each.view(4, 2).mean(1).tolist())


def test_the_gradient_is_that_of_the_formula(trainer):
    inputs, model = inputs_of(trainer), trainer.model
    trainer.discriminator.baseline.weight.data.normal_()
    trainer.discriminator_optimizer.param_groups[0]["lr"] = 0.0
    human, weight = inputs["labels"], trainer.adversarial.teacher_forcing_weight
    samples = torch.randint(3, 500, (4, 5))
    samples[0, 3:] = -100
    rewards, baselines = torch.rand(4, 5), trainer.judge(inputs, samples)[1].detach()
    assert baselines.std() > 0.1
    trainer.sample = lambda inputs: samples
    trainer.rewards = lambda inputs, samples, scores: rewards
    tokens = (human != -100).sum()
    trainer.training_step(model, dict(inputs), tokens)
    got = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    contexts = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    objective = 0
    both = (human, torch.full(human.shape, weight)), (samples, rewards - baselines)
    for labels, weights in both:
        logits = model(**contexts, decoder_input_ids=shift_right(labels, 0, 0)).logits
        logp = logits.log_softmax(-1).gather(-1, labels.clamp(min=0)[..., None])[..., 0]
        objective = objective + (weights * logp)[labels != -100].sum()
    (-objective / tokens).backward()
    for parameter, gradient in zip(model.parameters(), got, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, atol=1e-6, rtol=1e-4)


def test_the_baselines_learn_the_rewards(trainer):
    inputs = inputs_of(trainer)
    samples = trainer.sample(inputs)
    trainer.rewards = lambda inputs, samples, scores: torch.full(samples.shape, 0.9)
    trainer.discriminator_optimizer.param_groups[0]["lr"] = 0.05
    first = trainer.advantages(inputs, samples)
    for _ in range(60):
        advantages = trainer.advantages(inputs, samples)
    assert first.mean().item() == pytest.approx(0.9 - 0.5, abs=0.01)
    assert advantages.mean().item() == pytest.approx(0, abs=0.03)


def test_the_size_of_advantages_is_logged(generator, tokenizer, features, tmp_path):
    adversarial = {"discriminator_learning_rate": 0.0}
    trainer = make_trainer(generator, tokenizer, features, tmp_path, adversarial, max_steps=1)
    trainer.rewards = lambda inputs, samples, scores: torch.where(samples > 250, 0.9, -0.3)
    values = []
    advantages = trainer.advantages
    trainer.advantages = lambda inputs, samples: (
        values.extend(trainer.rewards(inputs, samples, None)[samples != -100].tolist()),
        advantages(inputs, samples),
    )[1]
    trainer.train()
    expected = sum((value - 0.5) ** 2 for value in values) / len(values)
    assert trainer.state.log_history[0]["advantage_rms"] == pytest.approx(expected**0.5)


@pytest.mark.parametrize("reward", ["prefixes", "rollouts", "sequence"])
@pytest.mark.parametrize("kind", ["rnn", "t5"])
def test_both_networks_move(generator, model, tokenizer, features, tmp_path, reward, kind):
    generator = generator if kind == "rnn" else model
    trainer = make_trainer(
        generator, tokenizer, features, tmp_path, {"reward": reward, "rollouts": 2}
    )
    networks = (generator, trainer.discriminator)
    before = [parameters(network) for network in networks]
    trainer.train()
    for network, old in zip(networks, before, strict=True):
        still = [name for name, tensor in network.state_dict().items() if old[name].equal(tensor)]
        assert still == []
    log = trainer.state.log_history[-2]
    assert 0 < log["reward"] < 1 and 0 <= log["discriminator_accuracy"] <= 1
    assert log["human_loss"] > 0 and log["discriminator_loss"] > 0


def test_a_ratio_leaves_its_model_as_it_is(generator, tokenizer, features, tmp_path, pretrained):
    adversarial = {"discriminator": pretrained["ratio"], "reward": "log_ratio"}
    trainer = make_trainer(generator, tokenizer, features, tmp_path, adversarial)
    networks = (generator, trainer.discriminator)
    before = [parameters(network) for network in networks]
    trainer.train()
    moved = [
        {name for name, tensor in network.state_dict().items() if not old[name].equal(tensor)}
        for network, old in zip(networks, before, strict=True)
    ]
    assert moved == [before[0].keys(), {"baseline.weight", "baseline.bias"}]
    assert trainer.state.log_history[-2].keys() >= {"reward", "human_loss", "advantage_rms"}


def test_dropout_is_off_in_the_generator(model, tokenizer, features, tmp_path):
    trainer = make_trainer(model, tokenizer, features, tmp_path)
    inputs = trainer._prepare_inputs(inputs_of(trainer))
    inputs.pop("labels")
    one, two = (model.train()(**inputs).logits for _ in range(2))
    assert one.equal(two)
    assert model.config.dropout_rate > 0  # what is saved is for whoever trains on


def test_in_the_warm_up_the_discriminator_learns_alone(generator, tokenizer, features, tmp_path):
    trainer = make_trainer(
        generator,
        tokenizer,
        features,
        tmp_path,
        {"discriminator_warmup_steps": 40, "discriminator_learning_rate": 5e-3},
        max_steps=40,
    )
    before = parameters(generator)
    trainer.train()
    assert all(before[name].equal(tensor) for name, tensor in generator.state_dict().items())
    assert trainer.discriminator.baseline.bias.item() != 0.5  # the baselines learn with it
    accuracy = [log["discriminator_accuracy"] for log in trainer.state.log_history[:-1]]
    assert sum(accuracy[-10:]) / 10 > 0.8 > 0.7 > sum(accuracy[:3]) / 3  # of all prefixes


def test_the_warm_up_ends_when_the_held_out_accuracy_rises_no_more(
    generator, tokenizer, features, tmp_path
):
    settings = {"discriminator_warmup_steps": "auto", "discriminator_pool": 24}
    settings |= {"discriminator_learning_rate": 5e-3}
    trainer = make_trainer(generator, tokenizer, features, tmp_path, settings)
    before, random_state = parameters(generator), torch.get_rng_state()
    drawn = draw(trainer, trainer.eval_dataset, 512)
    assert torch.get_rng_state().equal(random_state)
    judge = functools.partial(judge_samples, trainer, trainer.eval_dataset, drawn)
    first, sample, sampled = judge()["discriminator_accuracy"], trainer.sample, []
    trainer.sample = lambda inputs: sampled.append(len(inputs["input_ids"])) or sample(inputs)
    warm_up(trainer)
    assert sum(sampled) == 24 + 40  # the pool and the held-out pairs, once
    assert judge()["discriminator_accuracy"] > max(60, first)
    assert all(before[name].equal(tensor) for name, tensor in generator.state_dict().items())


def test_the_warm_up_keeps_the_best_weights(trainer, monkeypatch):
    accuracies, seen = iter([60.0, 70, 65, 70, 69, 68, 99]), []

    def judged(*args):
        seen.append(parameters(trainer.discriminator))
        return {"discriminator_accuracy": next(accuracies)}

    monkeypatch.setattr("seq2seq_dialog.training.warm_up.judge_samples", judged)
    warm_up(trainer)
    assert next(accuracies) == 99  # it ended before
    kept = trainer.discriminator.state_dict()
    best, last = ({k: x for k, x in seen[i].items() if "baseline" not in k} for i in (1, -1))
    assert all(kept[name].equal(tensor) for name, tensor in best.items())
    assert not all(kept[name].equal(tensor) for name, tensor in last.items())
    baselines = {k: x for k, x in seen[1].items() if "baseline" in k}  # these learn afterwards
    assert baselines and not any(kept[name].equal(x) for name, x in baselines.items())


@pytest.mark.parametrize(
    ("warm_up_steps", "accuracies", "warned"),
    [
        (0, [(0, 64.9)], True),
        (0, [(0, 65.0)], False),
        (0, [(0, 70.0), (4, 55.0)], False),  # that is what the generator is to reach
        (0, [(0, 60.0), (4, 55.0)], False),  # it was said
        (3, [(0, 50.0)], False),  # it still learns alone
        (3, [(0, 50.0), (4, 60.0)], True),
    ],
)
def test_a_discriminator_that_knows_little_is_told(
    trainer, monkeypatch, caplog, warm_up_steps, accuracies, warned
):
    trainer.adversarial.least_accuracy = 65.0
    trainer.first_step = warm_up_steps
    trainer.state.log_history = [
        {"step": step, "eval_discriminator_accuracy": value} for step, value in accuracies
    ]
    monkeypatch.setattr(DialogueTrainer, "evaluate", lambda self: {})
    trainer.evaluate()  # after the training
    assert not caplog.text
    trainer.is_in_train = True
    trainer.evaluate()
    told = f"recognises {accuracies[-1][1]} % of held-out replies" in caplog.text
    assert told == warned == ("form: ratio" in caplog.text)


class Toy(AdversarialTrainer):
    """The best reply is known: the token 9 again and again."""

    def rewards(self, inputs, samples, scores):
        return (samples == 9).float()


def test_the_reward_of_a_toy_task_rises(generator, tokenizer, features, tmp_path):
    trainer = make_trainer(
        generator,
        tokenizer,
        features,
        tmp_path,
        {"teacher_forcing_weight": 0.0},
        cls=Toy,
        max_steps=80,
        learning_rate=2e-2,
        lr_scheduler_type="constant",
    )
    trainer.train()
    samples = trainer.sample(inputs_of(trainer, 40))
    assert (samples == 9).float().mean() > 0.9
    rewards = [log["reward"] for log in trainer.state.log_history if "reward" in log]
    assert rewards[0] < 0.05


@pytest.mark.parametrize("kind", ["recurrent", "classifier", "ratio"])
def test_resumed_equals_uninterrupted(generator, tokenizer, features, tmp_path, pretrained, kind):
    adversarial = {"discriminator_warmup_steps": 3}
    if kind != "recurrent":
        adversarial = {"discriminator": pretrained[kind], "discriminator_pool": 8}
        adversarial |= {"discriminator_warmup_steps": "auto"}

    def run(folder, resume=None):
        twin = copy.deepcopy(generator)
        settings = {"max_steps": 8, "save_strategy": "steps", "save_steps": 4, "logging_steps": 2}
        settings |= {"save_total_limit": 3, "eval_strategy": "steps", "eval_steps": 3}
        trainer = make_trainer(twin, tokenizer, features, folder, adversarial, **settings)
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    whole = run(tmp_path / "whole")
    resumed = run(tmp_path / "resumed", str(tmp_path / "whole" / "checkpoint-4"))
    for one, other in (
        (whole.model, resumed.model),
        (whole.discriminator, resumed.discriminator),
    ):
        assert all(x.equal(other.state_dict()[name]) for name, x in one.state_dict().items())
    one, other = (t.discriminator_optimizer.state_dict()["state"] for t in (whole, resumed))
    assert all(one[i]["exp_avg"].equal(other[i]["exp_avg"]) for i in one)
    timed = (
        "tokens_per_second",
        "eval_runtime",
        "eval_samples_per_second",
        "eval_steps_per_second",
    )
    histories = [
        [{k: v for k, v in log.items() if k not in timed} for log in t.state.log_history[:-1]]
        for t in (whole, resumed)
    ]
    assert histories[0] == histories[1]


def test_what_an_evaluation_says_is_right(trainer):
    assert "eval_reward" not in trainer.evaluate()  # a discriminator to ask is there in training
    trainer.is_in_train = True
    metrics = trainer.evaluate()
    inputs = inputs_of(trainer, 40)
    with torch.no_grad():
        scores = trainer.judge(inputs, inputs["labels"])[0]
    human = (at_last_token(scores, inputs["labels"]) > 0).float().mean().item() * 100
    expected = (human + 100 - metrics["eval_adversarial_success"]) / 2
    assert metrics["eval_discriminator_accuracy"] == pytest.approx(expected)
    trainer.sample = lambda inputs: inputs["labels"].roll(1, 0)  # as if exchanged in the batch
    metrics = trainer.evaluate()
    of_context = metrics["eval_discriminator_accuracy_context"]
    assert 30 < of_context < 70
    # The batch's replies are exchanged one with another, so there is nothing else to tell by.
    assert metrics["eval_discriminator_accuracy"] == pytest.approx(of_context, abs=10)
    trainer.judge = lambda inputs, replies: (torch.arange(replies.shape[1]) - 4.5 + 0 * replies, 0)
    metrics = trainer.evaluate()
    assert [metrics[f"eval_discriminator_accuracy_{n}"] for n in (3, 6)] == [50, 50]
    timed = {name: x for name, x in metrics.items() if "second" in name or "runtime" in name}
    assert metrics == trainer.evaluate() | timed
    assert metrics["eval_sampled_distinct_2"] > 0


def test_a_dry_run_measures_steps_in_which_the_generator_learns(
    generator, tokenizer, features, tmp_path
):
    warm_up = {"discriminator_warmup_steps": 3}
    trainer = make_trainer(generator, tokenizer, features, tmp_path, warm_up)
    before = parameters(generator)
    measure(trainer)
    assert any(not tensor.equal(before[name]) for name, tensor in parameters(generator).items())


STEPS = {"eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 2}


class SaveEachStep(TrainerCallback):
    """Saves also where nothing is evaluated, as a signal does."""

    def on_step_end(self, args, state, control, **kwargs):
        control.should_save = True


# With 39 it collapses before there is a checkpoint; with 1 the last two were not evaluated.
@pytest.mark.parametrize("save_steps", [1, 3, 39])
def test_a_collapse_stops_the_training_and_the_last_good_model_is_kept(
    generator, tokenizer, features, tmp_path, caplog, save_steps
):
    settings = STEPS | {"max_steps": 40, "learning_rate": 0.03, "lr_scheduler_type": "constant"}
    settings |= {"eval_steps": 3, "save_steps": max(3, save_steps), "save_total_limit": 1}
    before = parameters(generator)
    adversarial = {"teacher_forcing_weight": 0.0, "collapse_threshold": 0.6}
    trainer = make_trainer(
        generator, tokenizer, features, tmp_path, adversarial, cls=Toy, **settings
    )
    if save_steps == 1:
        trainer.add_callback(SaveEachStep)
    trainer.train()
    assert 3 < trainer.state.global_step < 40
    assert "Training has collapsed" in caplog.text and "teacher_forcing_weight" in caplog.text
    assert f"step {trainer.state.global_step}: perplexity rose from" in trainer.collapse
    good = before
    if save_steps < 39:
        folder = tmp_path / f"checkpoint-{trainer.state.global_step - 3}"
        good = type(generator).from_pretrained(folder).state_dict()
    assert all(good[name].equal(tensor) for name, tensor in generator.state_dict().items())


def test_a_collapse_of_diversity_is_seen(trainer):
    trainer.adversarial.collapse_threshold = 0.5
    log = {"eval_sampled_distinct_2": 40.0, "eval_perplexity": 30.0, "step": 0}
    trainer.state.log_history = [log, log | {"eval_sampled_distinct_2": 20.5, "step": 5}]
    assert trainer.collapse is None
    trainer.state.log_history.append(log | {"eval_sampled_distinct_2": 19.5, "step": 9})
    assert trainer.collapse == "step 9: Distinct-2 of sampled replies fell from 40.0 to 19.5"


def test_a_loss_that_is_not_finite_ends_with_a_message(trainer):
    trainer.rewards = lambda inputs, samples, scores: torch.full(samples.shape, torch.nan)
    with pytest.raises(Diverged, match="loss is nan at step 0"):
        trainer.train()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fp16": True}, "fp16 does not work in adversarial training"),
        ({"label_smoothing_factor": 0.1}, "label_smoothing_factor is 0.1"),
        (STEPS | {"load_best_model_at_end": True}, "best model by likelihood is the one before"),
        (STEPS | {"save_steps": 3}, "save_steps a multiple of eval_steps"),
        (STEPS | {"save_strategy": "epoch"}, "eval_strategy and save_strategy alike"),
        ({"eval_strategy": "no"}, "or set collapse_threshold to 0"),
    ],
)
def test_what_cannot_work_is_refused(generator, tokenizer, features, tmp_path, settings, message):
    with pytest.raises(UsageError, match=message):
        make_trainer(
            generator, tokenizer, features, tmp_path, {"collapse_threshold": 0.5}, **settings
        )


@pytest.mark.slow
def test_both_processes_hold_the_same_discriminator(tmp_path):
    script = textwrap.dedent(
        """
        import sys, torch
        from datasets import Dataset
        sys.path[:0] = [sys.argv[1], sys.argv[1] + "/tests"]
        from helpers import adversaries, corpus
        from seq2seq_dialog.data.features import encode_rows
        from seq2seq_dialog.models.tokenizer import load_tokenizer, train_tokenizer
        from seq2seq_dialog.settings import DataArguments, ModelArguments
        from seq2seq_dialog.portable import *

        dialogues = corpus.sample_dialogues(40)
        folder = sys.argv[2] + "/tokenizer" + __import__("os").environ["RANK"]
        train_tokenizer([u for turns in dialogues for u in turns], 300, folder)
        tokenizer = load_tokenizer(ModelArguments(), 64, folder)
        args = DataArguments(max_source_length=64, max_target_length=24)
        features = encode_rows(corpus.rows_of(dialogues), tokenizer, args)
        torch.manual_seed(1)
        config = RnnSeq2SeqConfig(vocab_size=320, embedding_size=16, hidden_size=32)
        model = RnnSeq2SeqForConditionalGeneration(config)
        model.generation_config.max_new_tokens = 8
        trainer = adversaries.make_trainer(
            model, tokenizer, features, sys.argv[2] + "/out",
            {"discriminator_warmup_steps": "auto", "discriminator_pool": 30},
            eval_strategy="steps", eval_steps=2, learning_rate=1e-2,
        )
        trainer.train()
        log = [log for log in trainer.state.log_history if "eval_reward" in log][-1]
        sums = [sum(p.double().sum().item() for p in n.parameters())
                for n in (trainer.discriminator, model)]
        line = ["RESULT", *sums, log["eval_reward"], log["eval_adversarial_success"]]
        print(chr(10) + " ".join(map(str, line)) + chr(10), flush=True)
        """
    )
    (tmp_path / "script.py").write_text(script)
    processes = start_two(tmp_path / "script.py", ROOT, tmp_path)
    finish(processes)
    lines = [line for p in processes for line in p.result().stdout.splitlines()]
    lines = [line for line in lines if line.startswith("RESULT ")]
    assert len(lines) == 2 and lines[0] == lines[1]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--reward", "bleu"], "reward is 'bleu'; it must be one of prefixes, rollouts, sequence"),
        (["--rollouts", "0"], "rollouts is 0; it must be at least 1"),
        (["--collapse_threshold", "2"], "collapse_threshold is 2.0; it must be from 0 to 1"),
        (["--teacher_forcing_weight", "-1"], "teacher_forcing_weight is -1.0"),
        (["--discriminator_warmup_steps", "long"], "'long'; it must be a number or auto"),
        (["--discriminator_warmup_steps", "-1"], "discriminator_warmup_steps is -1; it must be"),
        (["--least_accuracy", "101"], "least_accuracy is 101.0; it must be from 0 to 100"),
        (["--max_steps", "100"], "max_steps is 100, all in the discriminator's warm-up"),
    ],
)
def test_settings_that_cannot_be_are_refused(flags, message):
    with pytest.raises(UsageError, match=message):
        parse(["--adversarial", "true", "--model_name_or_path", "x", *flags])


def test_a_generator_has_to_be_trained_before():
    with pytest.raises(UsageError, match="give its folder as model_name_or_path"):
        parse(["--adversarial", "true", "--new_model", '{"model_type": "t5"}'])


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ('{"hiden_size": 3}', "no 'hiden_size'. Did you mean 'hidden_size'"),
        ("[1]", "it must be a mapping"),
        ('{"vocab_size": 3}', "no 'vocab_size'"),
        ('{"cell": "x"}', "cell is 'x'"),
        ('{"model_name_or_path": "starter"}', "must have model_name_or_path and form .ratio or cl"),
        ('{"form": "ratio"}', "must have model_name_or_path and form"),
        ('{"model_name_or_path": "starter", "form": "svm"}', "for example {model_name_or_path"),
        ('{"model_name_or_path": "starter", "form": "ratio", "cell": "gru"}', "and nothing else"),
        ('{"model_name_or_path": "./none", "form": "ratio"}', "There is no folder"),
    ],
)
def test_discriminators_that_cannot_be_are_refused(generator, tokenizer, sizes, message):
    with pytest.raises(UsageError, match=message):
        make_discriminator(AdversarialArguments(discriminator=sizes), generator, tokenizer, None)


def test_the_discriminator_has_the_generators_vocabulary(model, tokenizer):
    discriminator = make_discriminator(AdversarialArguments(), model, tokenizer, None)
    assert discriminator.body.get_input_embeddings().num_embeddings == 512
