"""Direct preference optimisation: rows, negatives, loss, references, resuming, figures."""

import copy
import json
import math

import numpy as np
import pytest
import torch
from helpers.preferences import LIMITS, make_trainer
from seq2seq_dialog.dataset_script.dialogues import normalised
from torch.nn import functional
from transformers import set_seed

from seq2seq_dialog.data.corpus import read_corpus
from seq2seq_dialog.data.rows import load_rows
from seq2seq_dialog.errors import UsageError
from seq2seq_dialog.method_settings import LoraArguments, PreferenceArguments
from seq2seq_dialog.portable.modeling_rnn import shift_right
from seq2seq_dialog.report.pictures import curve_panels
from seq2seq_dialog.settings import DataArguments
from seq2seq_dialog.train import check_rejected_is_read
from seq2seq_dialog.train_arguments import parse
from seq2seq_dialog.training import evaluating, preferences
from seq2seq_dialog.training.lora import add_adapter
from seq2seq_dialog.training.negatives import frequent_replies, other_phrase

OTHERS = {"negatives": ["other_contexts"]}


# Rows


def votes(path, *rows):
    lines = [json.dumps(dict(zip(("context", "chosen", "rejected"), row, strict=True)) | MORE)
             for row in rows]  # fmt: skip
    path.write_text("\n".join(lines) + "\n")
    return str(path)


MORE = {"chosen_model": "runs/a", "rejected_model": "runs/b", "vote": "left", "time": 1700000000}
GOOD = [(["Hi", f"Is it {i} yet?"], f"Nearly {i}.", "I don ' t know .") for i in range(30)]


def reading(path, **columns):
    settings = parse(["--model_name_or_path", "m", "--dpo", "true", "--data", path,
                      "--load_best_model_at_end", "false",
                      *(["--columns", json.dumps(columns)] if columns else [])])  # fmt: skip
    return settings.data_to_read


def test_votes_are_read_and_what_no_one_chose_is_counted(tmp_path):
    path = votes(
        tmp_path / "votes.jsonl",
        *GOOD,
        ("How are you? __eou__ Fine.", "Good.", "What?"),
        (["Both are bad"], None, ["x", "y"]),
        (["Nothing to reject"], "Oh.", None),
        (["The same"], "Oh.", "Oh."),
    )
    rows, problems = load_rows(reading(path))
    pairs = {tuple(row["context"]): row for split in rows.values() for row in split}
    assert len(pairs) == 31
    assert pairs["Hi", "Is it 3 yet?"]["response"] == "Nearly 3."
    assert pairs["Hi", "Is it 3 yet?"]["rejected"] == "I don't know."  # natural, as the chosen one
    assert pairs["How are you?", "Fine."]["rejected"] == "What?"
    (counts,) = problems.values()
    told = {kind: problem["count"] for kind, problem in counts.items() if isinstance(problem, dict)}
    assert told == {"empty_response": 1, "empty_rejected": 1, "equal_replies": 1}
    ordinary, _ = load_rows(DataArguments(data=path))  # plain training takes what was chosen
    assert "rejected" not in ordinary["train"].column_names
    assert sum(map(len, ordinary.values())) == 33


def test_rows_without_the_key_are_counted(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    path = votes(data / "votes.jsonl", *GOOD)
    with open(path, "a") as file:
        file.write('{"context": ["Hello"], "chosen": "Hi."}\n')
    (data / "talks.jsonl").write_text('{"dialog": ["Hi", "Oh", "Well"]}\n')
    rows, problems = load_rows(reading(str(data)))
    (counts,) = problems.values()
    told = {kind: problem["count"] for kind, problem in counts.items() if isinstance(problem, dict)}
    assert told == {"empty_rejected": 1, "no_rejected": 2}
    assert counts["empty_rejected"]["first_lines"] == [31]
    assert sum(map(len, rows.values())) == counts["pairs"] == 30


def test_a_column_of_rejected_replies_may_have_another_name(tmp_path):
    lines = ["question,better,worse", *(f"Is it {i}?,Yes {i},No {i}" for i in range(20))]
    (tmp_path / "pairs.csv").write_text("\n".join(lines))
    args = reading(str(tmp_path / "pairs.csv"), response="better", rejected="worse")
    rows, _ = load_rows(args)
    assert rows["train"][0]["rejected"].startswith("No")


@pytest.mark.parametrize("kind", ["pairs", "text"])
def test_data_without_rejected_replies_are_refused(kind, tmp_path):
    text = {"pairs": '{"context": ["Hi"], "response": "Oh."}\n', "text": "Hi __eou__ Oh __eou__\n"}
    (tmp_path / "data").write_text(text[kind] * 5)
    with pytest.raises(UsageError, match=r"no training pair has a rejected reply.* negatives \["):
        load_rows(reading(str(tmp_path / "data")))


# Negatives


def test_votes_on_one_talk_stay_in_one_split(tmp_path):
    talks = []
    for number in range(30):
        first, second = [f"Talk {number}?"], [f"Talk {number}?", "Yes.", "And then?"]
        talks += [
            (first, "Yes.", "No."),
            (second, f"Reply {number}.", "Hm."),
            (first, "No.", "So."),
        ]
    rows = load_rows(reading(votes(tmp_path / "votes.jsonl", *talks)))[0]
    split_of = {}
    for name, split in rows.items():
        for context in split["context"]:
            split_of.setdefault(context[0], set()).add(name)
    assert len(split_of) == 30 and all(len(names) == 1 for names in split_of.values())
    assert len(rows["train"]) % 3 == 0 and len(rows) == 3


def test_votes_are_not_replaced_by_negatives_in_silence(tmp_path):
    path = votes(tmp_path / "votes.jsonl", *[(f"Hi {n}", "Fine.", "What?") for n in range(30)])
    settings = parse(["--dpo", "true", "--model_name_or_path", "m", "--data", str(path),
                      "--negatives", "samples", "--metric_for_best_model", "preference_loss",
                      "--data_cache", str(tmp_path)])  # fmt: skip
    with pytest.raises(UsageError, match=r"votes.jsonl has a column rejected.* --negatives null"):
        check_rejected_is_read(read_corpus(settings.data_to_read), settings)


@pytest.fixture
def features(features):
    return features.select(range(60))


@pytest.fixture
def trainer(model, tokenizer, features, tmp_path):
    return make_trainer(model, tokenizer, features, tmp_path, OTHERS)


def test_each_pair_gets_a_negative_of_each_kind_as_often(model, tokenizer, features, tmp_path):
    said = {"Thank you.": 5, "I see.": 3}
    responses = list(features["response"])
    for place, phrase in enumerate([p for p, n in said.items() for _ in range(n)]):
        responses[7 * place] = phrase
    features = features.remove_columns("response").add_column("response", responses)
    kinds = {"negatives": ["other_contexts", "stock_phrases", "samples"]}
    trainers = [make_trainer(model, tokenizer, features, tmp_path / n, kinds) for n in "ab"]
    drawn = [list(trainer.train_dataset["rejected"]) for trainer in trainers]
    assert drawn[0] == drawn[1]  # a run that goes on draws the same
    assert 20 <= sum(text in said for text in drawn[0]) < 30
    others = [text in responses and text not in said for text in drawn[0]]
    assert 12 < sum(others) <= 20
    same = [normalised(a) == normalised(b) for a, b in zip(drawn[0], responses, strict=True)]
    assert not any(same)


def test_other_contexts_are_of_other_dialogues(trainer):
    rows = trainer.train_dataset
    ids = {}
    for row in rows:
        ids.setdefault(row["response"], set()).add(row["dialogue_id"])
    assert all(ids[row["rejected"]] - {row["dialogue_id"]} for row in rows)


def test_a_sample_that_was_cut_has_no_end(model, tokenizer, features, tmp_path, monkeypatch):
    end = tokenizer.eos_token_id

    def reply(model, tokenizer, sources, *args):
        rows = torch.tensor([[0, 20, 21, end, 0], [0, 20, 21, 22, 23], [0, 0, 0, 0, 0]])
        return rows[torch.arange(len(sources["attention_mask"])) % 3]

    monkeypatch.setattr(evaluating, "generate", reply)
    rows = make_trainer(
        model, tokenizer, features, tmp_path, {"negatives": ["samples"]}
    ).train_dataset
    ended, cut, empty = (tokenizer.decode(ids) for ids in ([20, 21], [20, 21, 22, 23], []))
    has_end = [row["rejected_labels"][-1] == end for row in rows]
    seen = set(zip(rows["rejected"], rows["rejected_cut"], has_end, strict=True))
    assert seen == {(ended, False, True), (cut, True, False), (empty, True, True)}


@pytest.fixture
def passes(model):
    """The passes of the model so far."""
    seen = []
    model.register_forward_pre_hook(lambda *inputs: seen.append(inputs))
    return seen


def test_references_are_kept_for_their_model_and_data_alone(
    model, tokenizer, features, tmp_path, passes
):
    kinds = {"negatives": ["samples", "other_contexts"]}
    names = ["rejected", "rejected_cut", "reference_chosen", "reference_rejected"]

    def columns(features, **settings):
        passes.clear()
        trainer = make_trainer(model, tokenizer, features, tmp_path, kinds, **settings)
        return trainer.train_dataset.select_columns(names).to_dict()

    features = features.select(range(20))
    measured = columns(features)
    assert passes
    assert columns(features) == measured and not passes
    assert columns(features.select(range(19, -1, -1))) != measured and passes
    assert columns(features, seed=7)["rejected"] != measured["rejected"] and passes
    model.get_output_embeddings().weight.data.mul_(1.1)
    assert columns(features)["reference_chosen"] != measured["reference_chosen"] and passes


KEPT = {"rejected": ["No.", "I know."], "reference_chosen": [-1.25, -2.5]}
DAMAGES = {
    "empty": lambda text: "",
    "truncated": lambda text: text[: len(text) // 2],
    "no JSON": lambda text: "\0" * 99,
    "a list": lambda text: "[]",
    "another object": lambda text: '{"checksum": "0", "rows": 2}',
    "a null": lambda text: text.replace("-2.5", "null"),
    "a pair less": lambda text: text.replace("-1.25,", ""),
    "another number": lambda text: text.replace("-1.25", "-1.35"),
    "another name": lambda text: text.replace("reference_chosen", "reference_rejected"),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_kept_columns_that_are_damaged_are_not_read(tmp_path, kind):
    path = tmp_path / "0a.json"
    preferences.write_columns(path, KEPT)
    assert preferences.read_columns(path) == KEPT
    assert preferences.read_columns(path.rename(tmp_path / "0b.json")) is None  # is of other data
    preferences.write_columns(path, KEPT)
    text = path.read_text()
    path.write_text(DAMAGES[kind](text))
    assert path.read_text() != text and preferences.read_columns(path) is None


def test_damaged_references_are_measured_again(model, tokenizer, features, tmp_path, passes):
    def columns():
        passes.clear()
        trainer = make_trainer(model, tokenizer, features.select(range(20)), tmp_path, OTHERS)
        return trainer.train_dataset.to_dict()

    measured, kept = columns(), list((tmp_path / "cache").rglob("*.json"))
    for path in kept:
        path.write_bytes(path.read_bytes()[:-9])
    assert columns() == measured and passes and len(kept) == 4
    assert all(map(preferences.read_columns, kept))  # they are whole again


def test_a_model_without_likelihoods_is_refused(model, tokenizer, features, tmp_path):
    model.get_output_embeddings().weight.data[7] = torch.nan
    with pytest.raises(UsageError, match=r"no likelihood \(nan or infinity\).* another checkpoint"):
        make_trainer(model, tokenizer, features.select(range(20)), tmp_path, OTHERS)


def test_a_dry_run_measures_a_few_pairs_and_keeps_nothing(
    model, tokenizer, features, tmp_path, monkeypatch
):
    sizes = []

    def measure(trainer, loader, with_replies):
        sizes.append(len(loader.dataset))
        return evaluating.evaluate_examples(trainer, loader, with_replies)

    monkeypatch.setattr(preferences, "DRY_RUN_PAIRS", 4)
    monkeypatch.setattr(preferences, "evaluate_examples", measure)
    kinds = {"negatives": ["samples"]}
    trainer = make_trainer(model, tokenizer, features, tmp_path, kinds, dry_run=True)
    assert sizes == [4] * 6  # samples, chosen and rejected replies of two splits
    assert len(trainer.train_dataset) == 60 and len(list(trainer.get_train_dataloader())) > 5
    assert not (tmp_path / "cache").exists()


def test_stock_phrases_are_what_is_said_most_often():
    phrases = frequent_replies(["Yes.", "yes", "Ok!", "Ok", "Ok.", "Once.", "..."])
    assert phrases == {"Ok!": 3, "Yes.": 2}
    rng = np.random.default_rng(0)
    assert {other_phrase("OK", phrases, rng) for _ in range(9)} == {"Yes."}
    with pytest.raises(UsageError, match="the training data has 1: two are needed"):
        other_phrase("Yes", {"Yes.": 2}, rng)


# The loss


def summed_logp(model, example, labels):
    labels = torch.tensor([labels])
    ids = torch.tensor([example["input_ids"]])
    logits = model(input_ids=ids, decoder_input_ids=shift_right(labels, 0, 0)).logits
    return logits.log_softmax(-1).gather(-1, labels[..., None]).sum()


@pytest.mark.parametrize(
    "options", [{}, {"dpo_length_normalised": True}, {"dpo_likelihood_weight": 0.5}], ids=str
)
def test_loss_and_gradient_are_those_of_the_formula(model, tokenizer, features, tmp_path, options):
    trainer = make_trainer(model, tokenizer, features, tmp_path, OTHERS | options)
    reference = copy.deepcopy(model).eval()
    examples = [trainer.train_dataset[i] for i in (0, 7, 20)]
    batch = trainer.training_collator(examples)
    assert len(batch["labels"]) == 6
    before = trainer.training_step(model, dict(batch), 3)
    if not trainer.preferences.dpo_likelihood_weight:
        assert before.item() == pytest.approx(math.log(2), abs=2e-4)
    torch.manual_seed(3)
    with torch.no_grad():  # as if it had learnt
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    model.zero_grad()
    loss = trainer.training_step(model, dict(batch), 3)
    got = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    total, margins = 0, []
    for example in examples:
        gains, nll = [], 0
        for name in ("labels", "rejected_labels"):
            logp = summed_logp(model, example, example[name])
            gain = logp - summed_logp(reference, example, example[name]).detach()
            normalised_by = len(example[name]) if "dpo_length_normalised" in options else 1
            gains.append(gain / normalised_by)
            nll = nll or -logp / len(example[name])
        margins.append(gains[0] - gains[1])
        weight = options.get("dpo_likelihood_weight", 0)
        total = total - functional.logsigmoid(0.1 * margins[-1]) + weight * nll
    (total / 3).backward()
    assert loss.item() == pytest.approx(total.item() / 3, rel=1e-4)
    for name, parameter in model.named_parameters():
        error = (parameter.grad - got[name]).norm()
        assert error <= 1e-3 * parameter.grad.norm() + 1e-7, name
    means = trainer._means.take(trainer.accelerator)
    assert means["preference_margin"] == pytest.approx(
        sum(m.item() for m in margins) / 6, abs=1e-4
    )  # of two steps, the first with 0


def test_what_it_learns_is_seen_on_held_out_pairs(model, tokenizer, features, tmp_path):
    dull = [("I don't know.", "Yes, I am.")[place % 2] for place in range(60)]
    trainer = make_trainer(
        model, tokenizer, features.add_column("rejected", dull), tmp_path, {},
        max_steps=12, learning_rate=3e-3, eval_strategy="steps", eval_steps=6,
        logging_steps=6, gradient_accumulation_steps=2,
    )  # fmt: skip
    start = trainer.evaluate()
    assert start["eval_preference_loss"] == pytest.approx(math.log(2), abs=1e-4)
    assert start["eval_preference_margin"] == pytest.approx(0, abs=1e-3)
    trainer.train()
    logs = trainer.state.log_history
    assert [log["loss"] for log in logs if "loss" in log][-1] < 0.6
    last = [log for log in logs if "preference_accuracy" in log][-1]
    assert last["preference_accuracy"] > 80 and last["preference_margin"] > 1
    end = trainer.evaluate()
    assert end["eval_preference_loss"] < 0.6 and end["eval_preference_accuracy"] > 80
    assert end["eval_preference_margin"] > 1
    assert end["eval_loss"] == pytest.approx(math.log(end["eval_perplexity"]))  # likelihood alone


def test_adapter_off_is_the_reference_and_resumed_equals_uninterrupted(
    model, tokenizer, features, tmp_path
):
    plain = make_trainer(copy.deepcopy(model), tokenizer, features, tmp_path, OTHERS)

    def run(folder, resume=None):
        set_seed(5)
        lora = LoraArguments(lora_r=2, lora_dropout=0.2)
        adapted = add_adapter(copy.deepcopy(model), lora, tokenizer)
        trainer = make_trainer(
            adapted, tokenizer, features, folder, {"negatives": ["samples", "other_contexts"]},
            max_steps=6, save_strategy="steps", save_steps=3, eval_strategy="steps", eval_steps=3,
        )  # fmt: skip
        expected = trainer.eval_dataset["reference_chosen"][:]
        assert expected == pytest.approx(plain.eval_dataset["reference_chosen"][:], rel=1e-5)
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    whole = run(tmp_path / "whole")
    resumed = run(tmp_path / "resumed", str(tmp_path / "whole" / "checkpoint-3"))
    resumed_weights = resumed.model.state_dict()
    assert all(x.equal(resumed_weights[name]) for name, x in whole.model.state_dict().items())
    assert any(x.any() for name, x in resumed_weights.items() if "lora_B" in name)
    figures = [
        [log["eval_preference_loss"] for log in t.state.log_history if "eval_loss" in log]
        for t in (whole, resumed)
    ]
    assert figures[0] == figures[1] and len(figures[0]) == 2
    assert whole.model.generation_config.max_new_tokens == 12
    assert not whole.model.generation_config.do_sample  # of the model, not of the samples


def test_a_batch_holds_both_replies_within_the_budget(trainer):
    trainer.args.tokens_per_batch = 700
    batches = list(trainer.get_train_dataloader())
    assert len(batches) > 5
    sizes = [batch["input_ids"].numel() + batch["labels"].numel() for batch in batches]
    pairs = [len(batch["labels"]) // 2 for batch in batches]
    assert all(size <= 700 or count == 1 for size, count in zip(sizes, pairs, strict=True))
    assert sum(pairs) == len(trainer.train_dataset)
    assert trainer._targets_per_batch == pytest.approx(np.mean(pairs))


def test_the_curves_are_of_likelihood_and_of_preferences():
    log = [
        {"step": 10, "loss": 0.69, "chosen_loss": 3.0},
        {"step": 10, "eval_loss": 3.1, "eval_preference_accuracy": 50, "eval_chosen_likelier": 60},
    ]
    losses, preferences = curve_panels(log).values()
    assert losses == {"training": [(10, 3.0)], "validation": [(10, 3.1)]}
    assert list(preferences.values()) == [[(10, 50)], [(10, 60)]]


# Settings

GAME = "--model_name_or_path m --adversarial true "
DPO = "--model_name_or_path m --dpo true --metric_for_best_model preference_loss "


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--model_name_or_path m --dpo true", "metric_for_best_model is loss, by which the best"),
        ("--model_name_or_path m --dpo_beta 0.2", "dpo_beta has no effect without dpo"),
        ("--model_name_or_path m --metric_for_best_model preference_loss", "set dpo as well"),
        ('--new_model {"model_type":"t5"} --dpo true', "dpo improves a model that was trained"),
        ("--model_name_or_path m --reward rollouts", "reward has no effect without adversarial"),
        (GAME + "--rollouts 8", "rollouts has no effect without reward rollouts: set that, or"),
        (GAME + "--discriminator_pool 9", "no effect without discriminator_warmup_steps auto"),
        (
            GAME + "--metric_for_best_model eval_bits_per_byte",
            "best model by likelihood is the one",
        ),
        (GAME + "--load_best_model_at_end false --eval_strategy no", "A collapse is seen by eval"),
        (DPO + "--dpo_beta 0", "dpo_beta is 0.0; it must be above 0"),
        (DPO + "--negatives sample", "negatives has 'sample'.* Did you mean 'samples'"),
        (DPO + "--adversarial true", "adversarial does not work with dpo"),
        (DPO + "--streaming true --max_steps 5", "streaming does not work with dpo"),
        (DPO + "--tokens_per_batch auto", "tokens_per_batch auto does not work with dpo"),
        (DPO + "--label_smoothing_factor 0.1", "label_smoothing_factor does not work with dpo"),
    ],
)
def test_wrong_settings_are_refused(flags, message):
    with pytest.raises(UsageError, match=message):
        parse(flags.split())


@pytest.mark.parametrize(
    ("flags", "rate"),
    [("", 5e-5), ("--optim adamw_scaled", 3e-3), ("--learning_rate 0.01", 0.01)],
)
def test_the_default_rate_is_a_tenth(flags, rate):
    settings = parse((DPO + flags).split())
    assert settings.training.learning_rate == settings.as_config()["learning_rate"] == rate


def test_what_is_kept_of_the_settings():
    settings = parse((DPO + "--negatives samples,other_contexts").split())
    assert settings.as_config()["negatives"] == ["samples", "other_contexts"]
    assert settings.data_to_read is settings.data
    assert not any("dpo" in name for name in parse(["--model_name_or_path", "m"]).as_config())
    assert PreferenceArguments().negatives is None and LIMITS.columns is None
