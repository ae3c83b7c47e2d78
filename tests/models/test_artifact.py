"""A saved folder gives the same replies on both lines of transformers."""

import json
import os
import re
import sys
import textwrap

import pytest
import torch
from helpers import warm
from helpers.corpus import ROOT, TEXTS
from safetensors.torch import load_file
from transformers import MT5ForConditionalGeneration, T5ForConditionalGeneration, set_seed

from seq2seq_dialog.decoding.generation_config import generation_config
from seq2seq_dialog.models import artifact
from seq2seq_dialog.models.tokenizer import prepare_tokenizer
from seq2seq_dialog.portable.context import encode_context
from seq2seq_dialog.serve.inference import generate_response, load
from seq2seq_dialog.settings import DecodingArguments

# What a person does with a published model, with nothing of this project at hand.
CONSUMER = textwrap.dedent(
    """
    import json, sys
    import torch, transformers
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, pipeline

    folder, texts = sys.argv[1], json.loads(sys.argv[2])
    new = int(transformers.__version__.split(".")[0]) >= 5
    trust = {"trust_remote_code": True}
    own_code = "auto_map" in open(folder + "/config.json").read()
    out = {}
    text2text = pipeline(
        "text2text-generation", model=folder, **(trust if new or own_code else {})
    )
    out["text2text"] = [r["generated_text"] for r in text2text(texts)]
    out["one"] = text2text(texts[0])
    out["batched"] = [r["generated_text"] for r in text2text(texts, batch_size=2)]
    out["two"] = text2text(texts[0], num_beams=2, num_return_sequences=2)
    out["ids"] = text2text(texts[0], return_tensors=True)[0]["generated_token_ids"].tolist()
    if own_code:
        out["beams"] = text2text(texts, num_beams=3, no_repeat_ngram_size=2)
    text = pipeline("text-generation", model=folder, **trust)
    out["text"] = [r["generated_text"] for r in text(texts)]
    messages = [{"role": "user", "content": "Hi!"}, {"role": "assistant", "content": "Hello."},
                {"role": "user", "content": "What time is it?"}]
    out["messages"] = text(messages)
    out["chats"] = text([messages, messages])
    hostile = json.loads(sys.argv[3])
    out["hostile"] = text.preprocess(hostile)["input_ids"][0].tolist()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSeq2SeqLM.from_pretrained(folder, **(trust if own_code else {})).eval()
    ids = [tokenizer(t)["input_ids"] for t in texts]
    out["input_ids"] = ids
    out["template"] = tokenizer.apply_chat_template(messages, tokenize=False)
    out["hostile_template"] = tokenizer.apply_chat_template(hostile, return_dict=False)
    out["long"] = tokenizer("word " * 500, truncation=True)["input_ids"]
    with torch.no_grad():
        start = torch.zeros(1, 1, dtype=torch.long)
        logits = model(input_ids=torch.tensor(ids[:1]), decoder_input_ids=start).logits
    out["logits"] = logits[0, 0, :50].tolist()
    settings = ("max_new_tokens", "num_beams", "do_sample", "decoder_start_token_id")
    out["generation"] = {name: getattr(model.generation_config, name) for name in settings}
    print("RESULT" + json.dumps(out))
    """
)

# Special tokens of the tokenizers of these tests, as text.
HOSTILE = [
    {"role": "user", "content": "Hi</s>__eou__<pad>"},
    {"role": "user", "content": "<s> <unk>"},
]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


def consume(python, folder, home):
    """Use `folder` in a clean process; return what `CONSUMER` finds."""
    texts = map(json.dumps, (TEXTS, HOSTILE))
    return json.loads(run_alone(python, home, CONSUMER, folder, *texts).split("RESULT")[1])


def run_alone(python, home, code, *arguments):
    """Return what `code` prints in a clean process that cannot see this project."""
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    options = {"modules": warm.TRANSFORMERS, "cwd": home, "env": env}
    done = warm.run("-c", code, *arguments, python=python, **options)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def expected_of(folder):
    model, tokenizer, _ = load(folder, "cpu")
    ids = torch.tensor([tokenizer(TEXTS[0])["input_ids"]])
    with torch.no_grad():
        start = torch.zeros(1, 1, dtype=torch.long)
        logits = model(input_ids=ids, decoder_input_ids=start).logits
    return (
        [generate_response(t, model, tokenizer) for t in TEXTS],
        logits[0, 0, :50],
        model,
        tokenizer,
    )


def check(result, folder):
    replies, logits, model, tokenizer = expected_of(folder)
    assert result["text2text"] == result["text"] == result["batched"] == replies
    assert result["one"] == [{"generated_text": replies[0]}]
    assert result["messages"] == [{"generated_text": replies[1]}]
    assert result["chats"] == [{"generated_text": replies[1]}] * 2
    assert len(result["two"]) == 2
    assert tokenizer.decode(result["ids"], skip_special_tokens=True).strip() == replies[0]
    assert result["input_ids"] == [tokenizer(text)["input_ids"] for text in TEXTS]
    assert (
        tokenizer(result["template"], add_special_tokens=False)["input_ids"]
        == result["input_ids"][1]
    )
    hostile = encode_context(HOSTILE, tokenizer)
    assert result["hostile"] == result["hostile_template"] == hostile
    assert hostile.count(tokenizer.convert_tokens_to_ids("__eou__")) == 1
    assert hostile.count(tokenizer.eos_token_id) == 1 and tokenizer.pad_token_id not in hostile
    assert len(result["long"]) == tokenizer.model_max_length
    torch.testing.assert_close(torch.tensor(result["logits"]), logits, atol=1e-5, rtol=1e-5)
    saved = model.generation_config.to_dict()
    assert {name: saved[name] for name in result["generation"]} == result["generation"]


def test_the_folder_works_on_this_line(saved, home):
    check(consume(sys.executable, saved, home), saved)


@pytest.fixture
def saved_rnn(make_rnn, tokenizer, tmp_path):
    """Make a saved recurrent model: `saved_rnn(attention=...)`."""

    def make(**sizes):
        make_rnn(**sizes).save_pretrained(tmp_path / "rnn")
        tokenizer.save_pretrained(tmp_path / "rnn")
        artifact.finish(tmp_path / "rnn")
        return tmp_path / "rnn"

    return make


@pytest.mark.legacy
@pytest.mark.parametrize(
    "sizes",
    [
        {"attention": "none", "cell": "lstm", "num_layers": 2},
        {"attention": "multiplicative", "input_feeding": True},
        {"attention": "additive", "tie_word_embeddings": True},
    ],
    ids=lambda sizes: sizes["attention"],
)
def test_a_recurrent_model_brings_its_code_to_both_lines(saved_rnn, home, legacy_python, sizes):
    folder = saved_rnn(**sizes)
    results = [consume(python, folder, home) for python in (sys.executable, legacy_python)]
    for result in results:
        check(result, folder)
    assert results[0]["beams"] == results[1]["beams"]
    assert len({r["generated_text"] for r in results[0]["beams"]}) == len(TEXTS)


def test_the_code_of_a_recurrent_model_is_ours_and_no_more(saved_rnn):
    folder = saved_rnn()
    code = sorted(path.name for path in folder.rglob("*.py"))
    rnn = ["configuration_rnn.py", "modeling_rnn.py"]
    assert code == sorted([*artifact.PIPELINE_CODE, *rnn])
    for name in code:
        assert (folder / name).read_bytes() == (artifact.PORTABLE / name).read_bytes()


@pytest.mark.legacy
def test_the_folder_gives_the_same_replies_on_the_older_line(saved, home, legacy_python):
    check(consume(legacy_python, saved, home), saved)


@pytest.mark.legacy
def test_a_model_that_chooses_among_candidates_answers_on_the_older_line(
    saved, model, home, legacy_python
):
    """Its own pipeline by the other settings, the one that travels with the model by choosing."""
    args = DecodingArguments(max_new_tokens=8, do_sample=True, candidates=4, rerank='{"mbr": 1}')
    generation_config(args, model).save_pretrained(saved)
    artifact.finish(saved)
    code = (
        "import sys; from transformers import pipeline\n"
        "for options in {'task': 'text2text-generation'}, "
        "{'task': 'text-generation', 'trust_remote_code': True}:\n"
        "    (reply,) = pipeline(model=sys.argv[1], **options)('Hi!')\n"
        "    print('REPLY', reply['generated_text'])"
    )
    assert run_alone(legacy_python, home, code, saved).count("REPLY") == 2


def test_the_replies_differ_so_that_comparing_them_means_something(saved):
    assert len(set(expected_of(saved)[0])) > 1


@pytest.mark.legacy
def test_the_real_t5_tokenizer_loads_on_both_lines(
    model, t5_tokenizer, tmp_path, home, legacy_python
):
    prepare_tokenizer(t5_tokenizer, 64)
    model.resize_token_embeddings(32128)
    model.save_pretrained(tmp_path)
    t5_tokenizer.save_pretrained(tmp_path)
    artifact.finish(tmp_path)
    results = [consume(python, tmp_path, home) for python in (sys.executable, legacy_python)]
    assert results[0]["input_ids"] == results[1]["input_ids"]
    assert 32100 in results[0]["input_ids"][1]
    check(results[1], tmp_path)


@pytest.mark.legacy
def test_a_generic_tokenizer_loads_on_both_lines(bart, home, legacy_python):
    from seq2seq_dialog.models.build import load_model
    from seq2seq_dialog.models.tokenizer import load_tokenizer
    from seq2seq_dialog.settings import ModelArguments

    args = ModelArguments(model_name_or_path=bart)
    tokenizer = load_tokenizer(args, 64)
    model = load_model(args, tokenizer)
    model.generation_config = generation_config(DecodingArguments(max_new_tokens=5), model)
    model.save_pretrained(bart)
    tokenizer.save_pretrained(bart)
    artifact.finish(bart)
    for python in (sys.executable, legacy_python):
        check(consume(python, bart, home), bart)


def test_without_the_code_being_trusted_this_line_refuses_and_says_why(saved, home):
    code = (
        "from transformers import pipeline; import sys; "
        "pipeline('text2text-generation', model=sys.argv[1])"
    )
    done = warm.run("-c", code, saved, modules=warm.TRANSFORMERS, cwd=home)
    assert done.returncode != 0 and "trust_remote_code=True" in done.stderr


def test_finishing_twice_changes_nothing(saved):
    before = {p.name: p.read_bytes() for p in saved.iterdir() if p.is_file()}
    artifact.finish(saved)
    assert {p.name: p.read_bytes() for p in saved.iterdir() if p.is_file()} == before


def test_the_pipeline_names_each_file_that_it_needs():
    """transformers 4.57 takes from a folder what pipeline.py itself imports, and no more."""
    text = (artifact.PORTABLE / "pipeline.py").read_text(encoding="utf-8")
    named = re.findall(r"^from \.(\w+) import", text, re.MULTILINE)
    assert {f"{name}.py" for name in named} == {*artifact.PIPELINE_CODE} - {"pipeline.py"}


def test_only_the_portable_files_travel_as_code(saved):
    code = sorted(path.name for path in saved.rglob("*.py"))
    assert code == ["context.py", "guidance.py", "options.py", "pipeline.py", "reranking.py"]
    for name in code:
        assert (saved / name).read_bytes() == (artifact.PORTABLE / name).read_bytes()


RESAVE = """
import sys
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer
old, new = sys.argv[1:]
AutoModelForSeq2SeqLM.from_pretrained(old).save_pretrained(new)
AutoTokenizer.from_pretrained(old).save_pretrained(new)
from seq2seq_dialog.models.artifact import finish
finish(new)
"""


def save_again(python, old, new):
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = warm.run("-c", RESAVE, old, new, python=python, modules=warm.TRANSFORMERS, env=env)
    assert done.returncode == 0, done.stderr
    return new


ANSWER = """
import json, sys
import transformers
from transformers import pipeline
texts, *folders = sys.argv[1:]
trust = {"text-generation": {"trust_remote_code": True}}
if int(transformers.__version__.split(".")[0]) >= 5:
    trust["text2text-generation"] = trust["text-generation"]
for folder in folders:
    for task in ("text2text-generation", "text-generation"):
        answer = pipeline(task, model=folder, **trust.get(task, {}))
        replies = [reply["generated_text"] for reply in answer(json.loads(texts))]
        print("REPLIES", json.dumps(replies))
"""


@pytest.mark.legacy
def test_a_model_that_was_loaded_and_saved_again_keeps_its_pipeline(
    saved, home, tmp_path, legacy_python
):
    """On this line, on the older one, and what that has saved on this one."""
    lines = (sys.executable, legacy_python)
    folders = [save_again(python, saved, tmp_path / f"{i}") for i, python in enumerate(lines)]
    folders.append(save_again(sys.executable, folders[1], tmp_path / "back"))
    expected = "REPLIES " + json.dumps(expected_of(saved)[0])
    for reader in lines:
        printed = run_alone(reader, home, ANSWER, json.dumps(TEXTS), *folders)
        assert [x for x in printed.splitlines() if x.startswith("REPLIES ")] == [expected] * 6


@pytest.mark.legacy
@pytest.mark.parametrize("kind", [T5ForConditionalGeneration, MT5ForConditionalGeneration])
def test_an_output_layer_of_its_own_stays_so_on_both_lines(
    tokenizer, tmp_path, home, legacy_python, kind
):
    """As in FLAN-T5 and mT5, whose saved config says that it is the embedding."""
    set_seed(1)
    sizes = {"vocab_size": 512, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 1}
    config = kind.config_class(**sizes, decoder_start_token_id=0, tie_word_embeddings=False)
    model = kind(config)
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.clone())
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.5)
    model.generation_config = generation_config(DecodingArguments(max_new_tokens=12), model)
    model.all_tied_weights_keys = {}  # as transformers says of a model that was loaded so
    model.save_pretrained(tmp_path / "own")
    tokenizer.save_pretrained(tmp_path / "own")
    artifact.finish(tmp_path / "own")
    assert "lm_head.weight" in load_file(tmp_path / "own" / "model.safetensors")
    for folder in (tmp_path / "own", save_again(sys.executable, tmp_path / "own", tmp_path / "b")):
        for python in (sys.executable, legacy_python):
            check(consume(python, folder, home), tmp_path / "own")
