"""Exports: they reply as PyTorch does, or are not kept."""

import io
import json
import shutil
from functools import partial

import pytest
import torch
from helpers.exports import CONTEXTS, batch, convert_to, replies
from transformers import (
    T5Config,
    T5ForConditionalGeneration,
    set_seed,
)

from seq2seq_dialog.decoding.generation_config import generation_config
from seq2seq_dialog.errors import UsageError
from seq2seq_dialog.models import artifact
from seq2seq_dialog.models.tokenizer import prepare_tokenizer
from seq2seq_dialog.run_folder import read_json, write_json, write_jsonl
from seq2seq_dialog.serve import chat
from seq2seq_dialog.serve import export as exporting
from seq2seq_dialog.serve.export import check_replies, export
from seq2seq_dialog.serve.exported_model import ExportedModel
from seq2seq_dialog.serve.inference import engine, generate_response, generate_responses, load
from seq2seq_dialog.settings import DecodingArguments

pytest.importorskip("ctranslate2")

SIZES = {"vocab_size": 512, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}


def lively(model, seed=2, std=0.5, end=4):
    """Give a model random weights whose replies depend on their contexts and end now and then."""
    set_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, std)
        model.get_output_embeddings().weight[model.config.eos_token_id] *= end
    model.generation_config = generation_config(DecodingArguments(max_new_tokens=12), model)
    return model.eval()


def lively_t5():
    return lively(T5ForConditionalGeneration(T5Config(**SIZES, decoder_start_token_id=0)))


def save_run(folder, model, tokenizer, **decoding):
    """Save a model as a finished run does, with test pairs; return the folder."""
    model.generation_config.update(**decoding)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    artifact.finish(folder)
    pairs = [
        {"dialogue_id": "test:1", "context": c, "reference": "I see.", "reply": ""}
        for c in CONTEXTS
    ]
    write_jsonl(folder / "predictions.jsonl", pairs)
    return folder


@pytest.fixture
def make_run(tokenizer, tmp_path):
    """`make_run(model)`: see `save_run`."""
    return lambda model, **decoding: save_run(tmp_path / "run", model, tokenizer, **decoding)


@pytest.fixture
def t5():
    return lively_t5()


@pytest.fixture
def run(make_run, t5):
    return make_run(t5)


@pytest.fixture(scope="module")
def exported(loaded_tokenizer, tmp_path_factory):
    """An export of `t5`, for all tests that only let it reply."""
    folder = tmp_path_factory.mktemp("exported")
    run = save_run(folder / "run", lively_t5(), loaded_tokenizer)
    return convert_to(folder / "export", run, loaded_tokenizer)


def test_the_replies_compared_here_differ_and_end(t5, tokenizer):
    lengths = [len(reply) for reply in replies(t5, tokenizer)]
    assert len({*map(tuple, replies(t5, tokenizer))}) > len(lengths) / 2
    assert min(lengths) == 0 and max(lengths) == 12


@pytest.mark.parametrize(
    "sizes",
    [
        {},
        {"feed_forward_proj": "gated-gelu"},
        {"tie_word_embeddings": False},  # what FLAN-T5 says: logits are not scaled
        {"d_kv": 16, "num_heads": 3, "num_decoder_layers": 1},
        {"layer_norm_epsilon": 0.01, "relative_attention_max_distance": 20},
        {"vocab_size": 501},
    ],
    ids=str,
)
def test_a_float32_export_gives_the_same_greedy_replies(make_run, tokenizer, tmp_path, sizes):
    config = T5Config(**(SIZES | {"decoder_start_token_id": 0} | sizes))
    model = lively(T5ForConditionalGeneration(config))
    exported = convert_to(tmp_path / "export", make_run(model), tokenizer)
    assert replies(exported, tokenizer) == replies(model, tokenizer)


def test_a_head_of_its_own_is_exported(make_run, t5, tokenizer, tmp_path):
    t5.lm_head.weight = torch.nn.Parameter(torch.randn(512, 32))
    t5.config.tie_word_embeddings = False
    folder = make_run(t5)
    loaded = load(folder, "cpu")[0]
    exported = convert_to(tmp_path / "export", folder, tokenizer)
    assert not torch.equal(loaded.lm_head.weight, loaded.shared.weight)
    assert replies(exported, tokenizer) == replies(loaded, tokenizer)


def test_the_real_t5_tokenizer_is_exported(t5_tokenizer, tmp_path):
    prepare_tokenizer(t5_tokenizer, 64)
    config = T5Config(**(SIZES | {"vocab_size": 32128}), decoder_start_token_id=0)
    model = lively(T5ForConditionalGeneration(config))
    model.save_pretrained(tmp_path / "run")
    t5_tokenizer.save_pretrained(tmp_path / "run")
    artifact.finish(tmp_path / "run")
    exported = convert_to(tmp_path / "export", tmp_path / "run", t5_tokenizer)
    assert replies(exported, t5_tokenizer) == replies(model, t5_tokenizer)
    last = torch.arange(32090, 32128)[None]  # sentinels, __eou__, and rows without a token
    assert exported.generate(last).tolist() == model.generate(input_ids=last).tolist()


@pytest.mark.parametrize(
    "options",
    [
        {"max_new_tokens": 5},
        {"max_new_tokens": None, "max_length": 7},
        {"min_new_tokens": 8},
        {"no_repeat_ngram_size": 1},
        {"repetition_penalty": 1.5},
        {"num_beams": 3, "early_stopping": True},
        {"num_beams": 3, "early_stopping": True, "num_return_sequences": 2},
        {"num_beams": 4, "early_stopping": True, "length_penalty": 0.3},
        {"num_beams": 4, "early_stopping": True, "length_penalty": 2.0},
        {"num_beams": 4, "early_stopping": True, "no_repeat_ngram_size": 2},
        {"num_beams": 4, "early_stopping": True, "min_new_tokens": 8},
    ],
    ids=str,
)
def test_options_of_generate_do_what_they_do_in_transformers(t5, exported, tokenizer, options):
    expected = replies(t5, tokenizer, **options, renormalize_logits=True)
    assert replies(exported, tokenizer, **options) == expected
    assert expected != replies(t5, tokenizer)


def test_without_early_stopping_beams_search_on(make_run, tokenizer, tmp_path):
    config = T5Config(**SIZES, decoder_start_token_id=0)
    model = lively(T5ForConditionalGeneration(config), seed=10, std=0.3, end=3)
    exported = convert_to(tmp_path / "export", make_run(model), tokenizer)
    expected = replies(model, tokenizer, num_beams=4)

    def equal(**options):
        exported_replies = replies(exported, tokenizer, num_beams=4, **options)
        return sum(a == b for a, b in zip(exported_replies, expected, strict=True))

    assert equal() == equal(early_stopping=False) > equal(early_stopping=True)
    assert equal() > 0.9 * len(expected)


def test_saved_settings_are_the_defaults(make_run, t5, tokenizer, tmp_path):
    before = replies(t5, tokenizer)
    folder = make_run(t5, num_beams=2, early_stopping=True, max_new_tokens=6)
    exported = convert_to(tmp_path / "export", folder, tokenizer)
    assert replies(exported, tokenizer) == replies(t5, tokenizer) != before


def test_saved_guidance_is_left_out_and_told(make_run, t5, capsys):
    t5.generation_config.guidance_weight = 0.8
    folder = make_run(t5)
    model, tokenizer, _ = load(folder, "cpu")
    guided = generate_responses(CONTEXTS, model, tokenizer)
    plain = generate_responses(CONTEXTS, model, tokenizer, guidance_weight=0.0)
    export(str(folder))
    assert "An export answers without guidance_weight, which this" in capsys.readouterr().out
    exported = load(folder, "cpu", exported=True)
    assert engine(exported[0]).startswith("CTranslate2")
    assert generate_responses(CONTEXTS, *exported) == plain != guided
    assert generate_responses(CONTEXTS, *exported, guidance_weight=0.0, candidates=1) == plain
    with pytest.raises(UsageError, match="does not know guidance_weight"):
        generate_responses(CONTEXTS, *exported, guidance_weight=0.5)
    assert load(folder, "cpu")[0].generation_config.guidance_weight == 0.8


def test_sampling_draws_from_what_is_asked_for(t5, exported, tokenizer):
    options = {"do_sample": True, "max_new_tokens": 1, "num_return_sequences": 300}
    one = {name: ids[:1] for name, ids in batch(tokenizer).items()}
    start = torch.zeros(1, 1, dtype=torch.long)
    with torch.no_grad():
        likeliest = t5(**one, decoder_input_ids=start).logits[0, 0].argsort(descending=True)

    def drawn(**settings):
        return set(exported.generate(**one, **options, **settings)[:, 1].tolist())

    assert drawn(top_k=3, temperature=3.0) == set(likeliest[:3].tolist())
    assert drawn(top_k=0, top_p=1e-6) == drawn(top_k=0, temperature=1e-6) == {int(likeliest[0])}
    assert len(drawn(top_k=0, temperature=9.0)) > 100
    assert len(drawn(temperature=9.0)) <= 50  # transformers' own top_k where none is set
    assert len(drawn(top_k=10**6, temperature=9.0)) > 100


def test_sampling_is_seeded_when_the_export_is_loaded(exported, tokenizer):
    def sample(seed):
        set_seed(seed)
        model = ExportedModel(exported.name_or_path)
        return [replies(model, tokenizer, do_sample=True) for _ in range(2)]

    once, again, other = sample(1), sample(1), sample(2)
    assert once == again != other and once[0] != once[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"typical_p": 0.9}, "does not know typical_p, but do_sample, early_stopping"),
        ({"eos_token_id": 5}, "does not know eos_token_id"),
        ({"nonsense": 1}, "does not know nonsense"),
        ({"do_sample": True, "num_beams": 2}, "cannot sample with num_beams=2: set do_sample"),
        ({"do_sample": True, "temperature": 0.0}, "temperature is 0.0; it must be above 0"),
        ({"do_sample": True, "top_p": 1.5}, "must be between 0 and 1"),
        ({"num_beams": 2, "length_penalty": 1.5}, "set early_stopping=True, or a value from 0"),
        ({"num_beams": 0}, "beam size must be > 0"),
        ({"num_beams": -1}, "CTranslate2 does not take"),
        ({"max_new_tokens": 0}, "must be greater than 0"),
        ({"num_return_sequences": 2}, "num_return_sequences"),
    ],
    ids=str,
)
def test_what_ctranslate2_cannot_do_is_refused(exported, tokenizer, options, message):
    with pytest.raises(ValueError, match=message):
        exported.generate(**batch(tokenizer), **options)


def test_an_export_answers_for_its_run_on_the_cpu(run, capsys):
    context, before = "How are you?", load(run, "cpu")
    reply = generate_response(context, *before)
    export(str(run))
    out = capsys.readouterr().out
    assert f"{len(CONTEXTS)} of {len(CONTEXTS)} greedy replies are the same." in out
    about = read_json(run / "ctranslate2" / "export.json")
    assert about["equal_greedy"] == about["samples"] == len(CONTEXTS)
    assert about["greedy"]["export"]["bleu"] == about["greedy"]["pytorch"]["bleu"]
    assert all(about[way]["export"]["replies_per_second"] > 0 for way in ("greedy", "beams"))
    for folder in (run, run / "ctranslate2", str(run / "ctranslate2")):
        model, tokenizer, device = load(folder, exported=True)
        assert engine(model) == "CTranslate2, float32" and device.type == "cpu"
        assert generate_response(context, model, tokenizer, device) == reply
        assert tokenizer.truncation_side == "left"
        assert model.num_parameters() == before[0].num_parameters()
    assert engine(load(run)[0]) == "PyTorch" == engine(load(run, "meta", exported=True)[0])


def test_an_export_alone_is_enough(run, tmp_path):
    context = "How are you?"
    reply = generate_response(context, *load(run, "cpu"))
    killed, other = (tmp_path / "elsewhere" / f".export-{name}-x1" for name in ("fast", "slow"))
    for left in (killed, other):
        (left / "unfinished").mkdir(parents=True)
    export(str(run), output=str(tmp_path / "elsewhere" / "fast"))
    assert not killed.exists() and other.exists()
    assert not (run / "ctranslate2").exists()
    shutil.rmtree(run)
    model, tokenizer, device = load(tmp_path / "elsewhere" / "fast", exported=True)
    assert generate_response(context, model, tokenizer, device) == reply
    with pytest.raises(UsageError, match="answers on the CPU by CTranslate2: to answer on meta"):
        load(tmp_path / "elsewhere" / "fast", "meta", exported=True)
    with pytest.raises(
        UsageError, match=r"by PyTorch, give the run folder.*exported=True loads it"
    ):
        load(tmp_path / "elsewhere" / "fast")


@pytest.mark.parametrize("changed", ["weights", "settings"])
def test_an_export_does_not_answer_for_what_the_run_has_become(run, t5, caplog, changed):
    export(str(run))
    if changed == "weights":
        with torch.no_grad():
            t5.decoder.final_layer_norm.weight.add_(0.1)
        t5.save_pretrained(run)
    else:
        settings = read_json(run / "generation_config.json")
        write_json(run / "generation_config.json", settings | {"max_new_tokens": 3})
    assert engine(load(run, "cpu", exported=True)[0]) == "PyTorch"
    assert "has changed since; export it again" in caplog.text


def test_int8_is_kept_where_replies_stay_and_refused_where_they_diverge(model, make_run, t5):
    folder = make_run(model.eval())  # which answers everything alike
    export(str(folder), quantization="int8")
    assert engine(load(folder, exported=True)[0]) == "CTranslate2, int8"
    kept = (folder / "ctranslate2" / "model.bin").read_bytes()
    files = {path.name for path in folder.iterdir()}
    weights = sum(p.numel() for p in model.parameters())
    assert weights < len(kept) < 2 * weights  # about a byte each

    t5.lm_head.weight.data[1] = 0
    make_run(t5)  # whose replies, which never end, hang on the last bits of its weights
    with pytest.raises(UsageError, match=r"\d+ of 16 greedy replies have changed, 8 may.*float32"):
        export(str(folder), quantization="int8")
    assert (folder / "ctranslate2" / "model.bin").read_bytes() == kept
    export(str(folder))
    assert engine(load(folder, exported=True)[0]) == "CTranslate2, float32"
    assert {path.name for path in folder.iterdir()} == files  # nothing is left of the attempts


def test_bleu_goes_by_the_words_of_the_runs_language(monkeypatch):
    replies = ["今天天气真好"]
    monkeypatch.setattr(exporting, "answer", lambda way, contexts, *_: replies * len(contexts))
    pairs = [{"context": ["Hi!"], "reference": "今天天气很好"}] * 2
    for language, least, most in (("en", 0, 1), ("zh", 50, 60)):
        figures = exporting.measure({"pytorch": None, "export": None}, None, pairs, language)
        assert least <= figures["greedy"]["export"]["bleu"] <= most


@pytest.mark.parametrize(
    ("quantization", "equal", "bleu", "reason"),
    [
        ("float32", 198, 20.0, None),
        ("float32", 197, 20.0, "3 of 200 greedy replies have changed, 2 may.*run folder itself"),
        ("float32", 200, 17.9, "has fallen from 20.00 to 17.90, below 18.00"),
        ("int8", 100, 18.1, None),
        ("int8", 99, 20.0, "101 of 200 greedy replies have changed, 100 may"),
        ("int8", 150, 17.9, r"batches of 16, 4 beams\) has fallen.*--quantization float32"),
    ],
)
def test_the_bound_on_divergence(quantization, equal, bleu, reason):
    figures = {
        "samples": 200,
        "equal_greedy": equal,
        "greedy": {"pytorch": {"bleu": 5.0}, "export": {"bleu": 4.1}},
        "beams": {"pytorch": {"bleu": 20.0}, "export": {"bleu": bleu}},
    }
    if reason is None:
        check_replies(figures, quantization)
    else:
        with pytest.raises(UsageError, match=reason):
            check_replies(figures, quantization)


def test_what_is_no_export_is_not_overwritten(run, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("Dear")
    for output in (tmp_path / "mine", run):
        with pytest.raises(UsageError, match="exists and is no export: choose another output"):
            export(str(run), output=str(output))
    assert (tmp_path / "mine" / "letter.txt").read_text() == "Dear"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"quantization": "int4"}, "quantization is 'int4'; it must be one of float32, int8"),
        ({"samples": 1}, "samples is 1; it must be at least 2"),
    ],
)
def test_wrong_settings_are_refused(run, settings, message):
    with pytest.raises(UsageError, match=message):
        export(str(run), **settings)


def test_settings_of_the_run_that_an_export_has_not_are_refused(make_run, t5):
    folder = make_run(t5, typical_p=0.9, do_sample=True)
    with pytest.raises(UsageError, match="An export does not know typical_p"):
        export(str(folder))
    assert not [path for path in folder.iterdir() if path.is_dir()]


def test_a_run_without_predictions_is_refused(run):
    (run / "predictions.jsonl").unlink()
    with pytest.raises(UsageError, match=r"predictions.jsonl"):
        export(str(run))


def test_a_broken_export_says_what_to_do(run):
    export(str(run))
    (run / "ctranslate2" / "model.bin").write_bytes(b"no model")
    with pytest.raises(UsageError, match=r"Cannot load the export .*[Mm]ake it again"):
        load(run, "cpu", exported=True)


def test_without_ctranslate2_pytorch_answers(run, caplog, monkeypatch):
    export(str(run))
    monkeypatch.setattr("seq2seq_dialog.serve.exported_model.find_spec", lambda name: None)
    assert engine(load(run, "cpu", exported=True)[0]) == "PyTorch"
    assert "is not used: pip install ctranslate2" in caplog.text
    for use in (partial(load, exported=True), export):
        with pytest.raises(UsageError, match="not installed: pip install ctranslate2"):
            use(str(run / "ctranslate2"))


def test_chat_says_what_answers(run, monkeypatch, capsys):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    export(str(run))
    capsys.readouterr()
    lines = "/set num_beams=2\n/set do_sample=true\nHello\n/set num_beams=-1\n"
    for exported, name in ((True, "CTranslate2, float32"), (False, "PyTorch")):
        monkeypatch.setattr("sys.stdin", Terminal(lines))
        chat.chat([str(run)], device="cpu", exported=exported)
        out = capsys.readouterr().out
        assert f"{run} by {name}, on cpu." in out
        assert "num_beams=2\n" in out and "num_beams=-1 does not work" in out
        assert ("cannot sample with num_beams=2" in out) == exported


def test_the_folder_names_no_path(run):
    export(str(run))
    for path in (run / "ctranslate2").glob("*.json"):
        assert str(run) not in path.read_text(encoding="utf-8")
    assert json.loads((run / "ctranslate2" / "config.json").read_text())["eos_token"] == "</s>"
