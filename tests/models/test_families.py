"""Checkpoints of every family: trained, saved, loaded, answering; on the older line as well."""

import copy
import json
import os
import re
import textwrap

import pytest
import torch
from helpers import warm
from helpers.corpus import ROOT, rows_of, sample_dialogues
from helpers.families import BART_SIZES, BERT_SIZES, FAMILIES, m2m100_tokenizer, make_checkpoint
from helpers.trainers import make_trainer
from transformers import (
    BertConfig,
    EncoderDecoderConfig,
    EncoderDecoderModel,
    MarianConfig,
    MarianMTModel,
)
from transformers.models.deberta.modeling_deberta import DebertaLayerNorm

from seq2seq_dialog.data.batching import DialogueCollator
from seq2seq_dialog.data.features import encode_rows
from seq2seq_dialog.decoding.generation_config import generation_config
from seq2seq_dialog.errors import UsageError
from seq2seq_dialog.hub.publish_model import CODE, PUBLISHED, WEIGHTS
from seq2seq_dialog.models import artifact
from seq2seq_dialog.models.build import MASKED_IN_4D, check_lengths, load_model
from seq2seq_dialog.models.tokenizer import load_tokenizer, prepare_tokenizer
from seq2seq_dialog.serve.inference import generate_response, load
from seq2seq_dialog.settings import DataArguments, DecodingArguments, ModelArguments
from seq2seq_dialog.training.preparing import fuse_norms

LENGTHS = DataArguments(max_source_length=48, max_target_length=48)
# Without a second use of a token, replies depend on the context even with random weights.
DECODING = DecodingArguments(max_new_tokens=8, no_repeat_ngram_size=1)
CONTEXTS = ["How are you?", "Is it far?", "Which bus goes to the station at ten?"]


class Trained:
    """A checkpoint of a family, trained for two steps and saved as a run saves it."""

    def __init__(self, family, folder):
        self.folder = folder / "run"
        args = ModelArguments(model_name_or_path=make_checkpoint(family, folder))
        self.tokenizer = load_tokenizer(args, LENGTHS.max_source_length)
        self.model = load_model(args, self.tokenizer)
        check_lengths(self.model, LENGTHS, DECODING)
        self.model.generation_config = generation_config(DECODING, self.model)
        self.rows = rows_of(sample_dialogues(12))
        self.features = encode_rows(self.rows, self.tokenizer, LENGTHS)
        before = {name: tensor.clone() for name, tensor in self.model.named_parameters()}
        trainer = make_trainer(
            self.model, self.tokenizer, self.features, folder / "run", max_steps=2
        )
        trainer.train()
        after = self.model.named_parameters()
        self.unchanged = {name for name, tensor in after if tensor.equal(before[name])}
        self.predictions = trainer.predict(self.features.select(range(4))).predictions
        trainer.save_model(str(self.folder))
        artifact.finish(self.folder)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Train a family, once: `trained(name)`."""
    done = {}

    def train(family):
        if family not in done:
            done[family] = Trained(family, tmp_path_factory.mktemp("family"))
        return done[family]

    return train


@pytest.mark.parametrize("family", FAMILIES)
def test_a_checkpoint_trains_is_saved_and_answers(trained, family):
    run = trained(family)
    unused = FAMILIES[family].unused
    assert {name for name in run.unchanged if not any(part in name for part in unused)} == set()
    for labels, cut in zip(run.features["labels"], run.features["target_cut"], strict=True):
        assert labels.count(run.tokenizer.eos_token_id) == (not cut)
        assert cut or labels[-1] == run.tokenizer.eos_token_id
    model, tokenizer, _ = load(run.folder, "cpu")
    contexts = run.rows["context"][:4]
    replies = [generate_response(context, model, tokenizer) for context in contexts]
    assert replies == [prediction["reply"] for prediction in run.predictions]
    names = {path.name for path in run.folder.iterdir()}
    assert names <= {*PUBLISHED, *CODE, WEIGHTS, "training_args.bin"}
    replies = [generate_response(context, run.model.eval(), run.tokenizer) for context in CONTEXTS]
    assert replies == [generate_response(context, model, tokenizer) for context in CONTEXTS]
    assert len(set(replies)) > 1
    assert all(torch.isfinite(torch.tensor(p["nll"])) for p in run.predictions)


@pytest.mark.parametrize("family", FAMILIES)
def test_training_computes_what_evaluation_computes(trained, family):
    """Decoder inputs begin as decoding does, and masks of four dimensions are right."""
    run = trained(family)
    model = run.model.eval()
    start = model.generation_config.decoder_start_token_id
    features = run.features.select(range(6))
    trainer = make_trainer(model, run.tokenizer, features.select([0] * 60), run.folder, max_steps=1)
    inputs = trainer._prepare_inputs(trainer.data_collator(features))
    assert (inputs["decoder_input_ids"][:, 0] == start).all()
    mask = inputs["attention_mask"]
    assert not mask.all()
    model.train = lambda mode=True: model  # no dropout
    gradients = []
    for of_trainer in (True, False):
        model.zero_grad()
        if of_trainer:
            trainer.training_step(model, dict(inputs), 100)
        else:
            outputs = model(**{k: v for k, v in inputs.items() if k != "labels"})
            trainer._mean_loss(outputs, inputs["labels"], 100).backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], msg=name)


@pytest.mark.parametrize("family", ["T5", "FLAN-T5", "mT5", "UMT5", "LongT5"])
def test_fused_norms_compute_what_those_of_the_family_do(trained, family):
    run = trained(family)
    inputs = DialogueCollator(run.tokenizer.pad_token_id)(run.features.select(range(6)))
    model = run.model.eval()
    fused = copy.deepcopy(model)
    fuse_norms(fused)
    changed = [name for name, module in fused.named_modules() if "forward" in vars(module)]
    norms = [name for name, module in model.named_modules() if hasattr(module, "variance_epsilon")]
    assert changed == norms and len(norms) >= 7
    gradients = []
    for each in (model, fused):
        each.zero_grad()
        each(**inputs).loss.backward()
        gradients.append({n: p.grad for n, p in each.named_parameters() if p.grad is not None})
    torch.testing.assert_close(gradients[0], gradients[1])
    hidden, norm = torch.randn(2, 3, model.config.d_model), fused.get_submodule(norms[0])
    with torch.autocast("cpu", torch.bfloat16):
        read = norm(hidden)
    assert read.dtype == torch.bfloat16  # no matrix has to copy it
    torch.testing.assert_close(
        read.float(), model.get_submodule(norms[0])(hidden), rtol=8e-3, atol=0
    )


def test_norms_that_compute_otherwise_stay_as_they_are():
    norm = DebertaLayerNorm(8)  # half of a pair of models may be a DeBERTa
    fuse_norms(norm)
    assert "forward" not in vars(norm)


def test_every_family_that_takes_masks_in_4d_is_among_those_tested(trained):
    types = {trained(family).model.config.model_type for family in FAMILIES}
    assert types >= MASKED_IN_4D


# What a person does on the older line with published models, with nothing of this project at hand.
CONSUMER = textwrap.dedent(
    """
    import json, sys
    from transformers import pipeline

    texts, replies = json.loads(sys.argv[1]), []
    for attention, folder in json.loads(sys.argv[2]):
        options = {"attn_implementation": attention} if attention else {}
        answer = pipeline("text2text-generation", model=folder, model_kwargs=options)
        replies.append([reply["generated_text"].strip() for reply in answer(texts)])
    print("RESULT" + json.dumps(replies))
    """
)


@pytest.mark.legacy
def test_the_folders_answer_alike_on_the_older_line(trained, legacy_python, tmp_path):
    families = {name: each.legacy for name, each in FAMILIES.items() if each.legacy != "no"}
    folders = [
        ("eager" if legacy == "eager" else None, str(trained(name).folder))
        for name, legacy in families.items()
    ]
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    options = {"python": legacy_python, "modules": warm.TRANSFORMERS, "cwd": tmp_path, "env": env}
    done = warm.run("-c", CONSUMER, *map(json.dumps, (CONTEXTS, folders)), **options)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.split("RESULT")[1])
    for name, (_, folder), replies in zip(families, folders, found, strict=True):
        model, tokenizer, _ = load(folder, "cpu")
        assert replies == [generate_response(text, model, tokenizer) for text in CONTEXTS], name


IN_WORDS = {"yes": "yes", "eager": 'with `attn_implementation="eager"`', "no": "no"}


def test_the_page_says_what_is_tested_here():
    page = (ROOT / "docs" / "how-to" / "checkpoints.md").read_text(encoding="utf-8")
    page = page.partition("## Families")[2]
    rows = re.findall(r"^\| ([^|]*) \| [^|]* \| ([^|]*) \| [^|]* \|$", page, flags=re.M)[1:]
    assert dict(rows) == {name: IN_WORDS[each.legacy] for name, each in FAMILIES.items()}


def separate_vocabularies(folder):
    """A Marian checkpoint that writes with other pieces than it reads."""
    checkpoint = make_checkpoint("Marian", folder)
    config = MarianConfig(
        vocab_size=200, decoder_vocab_size=200, share_encoder_decoder_embeddings=False,
        tie_word_embeddings=False, pad_token_id=0, **BART_SIZES,
    )  # fmt: skip
    MarianMTModel(config).save_pretrained(checkpoint)
    return checkpoint


def unlike_halves(folder):
    """A pair of models with different vocabularies."""
    checkpoint = make_checkpoint("Pairs", folder)
    halves = [BertConfig(vocab_size=rows, **BERT_SIZES) for rows in (400, 500)]
    config = EncoderDecoderConfig.from_encoder_decoder_configs(*halves)
    EncoderDecoderModel(config=config).save_pretrained(checkpoint)
    return checkpoint


@pytest.mark.parametrize("make", [separate_vocabularies, unlike_halves])
def test_a_checkpoint_of_two_vocabularies_is_refused(make, tmp_path):
    args = ModelArguments(model_name_or_path=make(tmp_path))
    tokenizer = load_tokenizer(args, 48)
    with pytest.raises(UsageError, match="reads with one vocabulary and writes with another"):
        load_model(args, tokenizer)


def test_a_model_of_speech_is_refused(tokenizer):
    speech = ModelArguments(new_model="{model_type: qwen2_audio}")
    with pytest.raises(UsageError, match="qwen2_audio is no encoder-decoder model"):
        load_model(speech, tokenizer)


@pytest.mark.parametrize(
    ("family", "data", "decoding", "message"),
    [
        ("Pairs", {"max_source_length": 65}, {}, "max_source_length must be at most 64"),
        ("T5Gemma 2", {"max_source_length": 65}, {}, "max_source_length must be at most 64"),
        ("T5Gemma", {"max_target_length": 65}, {}, "max_target_length must be at most 64"),
        ("Blenderbot", {}, {"max_new_tokens": 64}, "max_new_tokens must be at most 63"),
    ],
)
def test_the_positions_of_a_half_are_its_limit(trained, family, data, decoding, message):
    lengths = {"max_source_length": 64, "max_target_length": 64} | data
    with pytest.raises(UsageError, match=message):
        check_lengths(
            trained(family).model,
            DataArguments(**lengths),
            DecodingArguments(**{"max_new_tokens": 63} | decoding),
        )
    check_lengths(trained("T5").model, DataArguments(max_source_length=9999), DecodingArguments())


@pytest.mark.parametrize(
    ("token", "message"),
    [
        ("sep_token", "has no end token, without which no reply can end"),
        ("pad_token", "has no padding token, without which no batch can be made"),
    ],
)
def test_a_tokenizer_without_a_token_that_is_needed_is_refused(tmp_path, token, message):
    tokenizer = FAMILIES["Pairs"].tokenizer(tmp_path)
    setattr(tokenizer, token, None)
    with pytest.raises(UsageError, match=message):
        prepare_tokenizer(tokenizer, 48)


def test_the_separator_is_no_language_code_of_m2m100(tmp_path):
    """Without a list of the codes, transformers 5 does not count them as tokens."""
    m2m100_tokenizer(tmp_path, codes=None).save_pretrained(tmp_path / "saved")
    args = ModelArguments(model_name_or_path=str(tmp_path / "saved"))
    tokenizer = load_tokenizer(args, 32)
    separator = tokenizer.convert_tokens_to_ids("__eou__")
    assert separator not in tokenizer.lang_token_to_id.values()
    assert separator == max(tokenizer.lang_token_to_id.values()) + 1 == len(tokenizer) - 1
