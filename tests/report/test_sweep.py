"""Quality against diversity: what is sampled, what is kept, what is drawn."""

import re
import shutil

import pytest
import torch
from transformers import T5ForConditionalGeneration

from seq2seq_dialog.decoding.generation_config import bare_decoding
from seq2seq_dialog.errors import UsageError
from seq2seq_dialog.models import artifact
from seq2seq_dialog.portable.context import encode_context
from seq2seq_dialog.report.sweep import GREEDY, plot_sweep, reply_to_all, sweep
from seq2seq_dialog.run_folder import (
    join_predictions,
    read_json,
    read_jsonl,
    read_pairs,
    write_jsonl,
    write_yaml,
)
from seq2seq_dialog.serve.inference import generate_response, load

PNG = b"\x89PNG\r\n"


@pytest.fixture
def run_folder(model, tokenizer, rows, tmp_path):
    """A finished run: model, tokenizer and the predictions of 24 test pairs."""
    folder = tmp_path / "runs" / "tiny"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    artifact.finish(folder)
    outputs = [{"reply": "", "nll": 1.0, "exchanged_nll": 2.0, "tokens": 1, "bytes": 1}] * 24
    write_jsonl(
        folder / "predictions.jsonl",
        join_predictions(rows.select(range(24)), outputs, [True] * 24),
    )
    return folder


@pytest.fixture
def other_folder(run_folder, model):
    """Another model, without predictions."""
    folder = run_folder.with_name("other")
    shutil.copytree(run_folder, folder)
    (folder / "predictions.jsonl").unlink()
    with torch.no_grad():
        model.shared.weight.mul_(0.5)
    model.save_pretrained(folder)
    artifact.finish(folder)
    return folder


@pytest.fixture
def calls(monkeypatch):
    """Every call of generate() so far; `calls.stop_at = n` interrupts the n-th."""

    class Calls(list):
        stop_at = None

    seen, generate = Calls(), T5ForConditionalGeneration.generate

    def counted(self, *args, **kwargs):
        seen.append(kwargs)
        if len(seen) == seen.stop_at:
            raise KeyboardInterrupt
        return generate(self, *args, **kwargs)

    monkeypatch.setattr(T5ForConditionalGeneration, "generate", counted)
    return seen


@pytest.fixture
def quick(monkeypatch):
    """No picture, which takes longer than all else."""
    monkeypatch.setattr("seq2seq_dialog.report.sweep.plot_sweep", lambda *args: None)


def test_the_pairs_are_evenly_spaced(run_folder, rows):
    pairs = read_pairs(run_folder, 8)
    assert [pair["reference"] for pair in pairs] == rows[:24]["response"][::3]
    assert [pair["context"] for pair in pairs] == rows[:24]["context"][::3]
    assert len(read_pairs(run_folder, 1000)) == 24


def test_replies_of_a_padded_batch_are_those_of_single_contexts(run_folder, rows):
    model, tokenizer, _ = load(run_folder, "cpu")
    contexts = rows[:24]["context"]
    expected = [generate_response(context, model, tokenizer) for context in contexts]
    inputs = [encode_context(context, tokenizer) for context in contexts]
    assert len({len(ids) for ids in inputs}) > 3
    settings = bare_decoding(model.generation_config, GREEDY)
    assert reply_to_all(inputs, model, tokenizer, settings, seed=0) == expected


def test_all_tokens_can_be_sampled(run_folder, monkeypatch):
    """Without top_k = 0, generate() would choose among the 50 likeliest of 512."""
    model, tokenizer, _ = load(run_folder, "cpu")
    drawn, generate = [], model.generate

    def kept(**kwargs):
        drawn.append(generate(**kwargs))
        return drawn[-1]

    monkeypatch.setattr(model, "generate", kept)
    inputs = [encode_context("How are you?", tokenizer)] * 300
    reply_to_all(inputs, model, tokenizer, bare_decoding(model.generation_config, 3.0), seed=0)
    first = torch.cat([output[:, 1] for output in drawn])  # (contexts,)
    assert len(first) == 300 and len(first.unique()) > 100


def test_the_models_own_decoding_has_no_part(run_folder, rows):
    model, tokenizer, _ = load(run_folder, "cpu")
    inputs = [encode_context(context, tokenizer) for context in rows[:8]["context"]]
    plain = reply_to_all(
        inputs, model, tokenizer, bare_decoding(model.generation_config, 1.5), seed=0
    )
    own = model.generation_config
    own.num_beams, own.top_k, own.top_p, own.min_p, own.repetition_penalty = 3, 2, 0.5, 0.1, 5.0
    own.no_repeat_ngram_size, own.min_length, own.suppress_tokens = 1, 10, [5, 6, 7]
    assert plain == reply_to_all(inputs, model, tokenizer, bare_decoding(own, 1.5), seed=0)
    assert bare_decoding(own, 1.5).max_new_tokens == 12


def test_the_callers_random_state_is_left_alone(run_folder):
    model, tokenizer, _ = load(run_folder, "cpu")
    before = torch.random.get_rng_state()
    reply_to_all([[5, 1]], model, tokenizer, bare_decoding(model.generation_config, 1.0), seed=0)
    assert torch.equal(before, torch.random.get_rng_state())


def test_the_same_seed_gives_the_same_figures(run_folder, tmp_path, quick):
    options = {"temperatures": [1.0], "samples": 8, "device": "cpu"}
    first = sweep([run_folder], output=tmp_path / "a.png", **options)
    assert first == sweep([run_folder], output=tmp_path / "b.png", **options)
    other = sweep([run_folder], output=tmp_path / "c.png", seed=1, **options)
    assert [p["temperature"] for p in first] == [GREEDY, 1.0]
    assert first[0] == other[0] | {"seed": 42}
    assert first[1]["self_bleu"] != other[1]["self_bleu"]


def test_lower_temperatures_are_less_diverse(run_folder, tmp_path, quick):
    points = sweep(
        [run_folder], [1.5, 0.1], samples=24, output=tmp_path / "sweep.png", device="cpu"
    )
    _, low, high = points
    assert (low["temperature"], high["temperature"]) == (0.1, 1.5)
    assert low["distinct_2"] < high["distinct_2"]
    assert low["self_bleu"] > high["self_bleu"]


def test_the_words_of_the_runs_language_are_compared(run_folder, tmp_path, quick):
    rows = read_jsonl(run_folder / "predictions.jsonl")
    texts = ["你好吗", "我很好谢谢你", "今天天气很好"]
    for i, row in enumerate(rows):
        row["reference"] = texts[i % 3]
    write_jsonl(run_folder / "predictions.jsonl", rows)
    options = {"temperatures": [1.0], "samples": 6, "output": tmp_path / "sweep.png"}
    for language, words in (("en", 1.0), ("zh", 5.0)):
        write_yaml(run_folder / "config.yaml", {"language": language})
        points = sweep([run_folder], device="cpu", **options)
        assert read_json(tmp_path / "sweep.json")["references"]["reply_words"] == words
    earlier = read_json(tmp_path / "sweep.json")["earlier"]
    assert len(points) == len(earlier) == 2  # what is compared by other words is measured anew
    assert "|tok:zh+13a|" in points[0]["signature"]
    write_yaml(run_folder / "config.yaml", {"language": "en", "detokenize": False})
    for point in sweep([run_folder], device="cpu", **options):
        assert "|tok:space|" in point["signature"] and point["spaced"] is True


def test_an_interrupted_sweep_goes_on(run_folder, other_folder, tmp_path, calls, quick):
    options = {"temperatures": [0.5, 1.0], "samples": 6, "device": "cpu"}
    folders = [run_folder, other_folder]
    whole = sweep(folders, output=tmp_path / "whole.png", **options)
    assert len(calls) == 6  # a batch a point

    calls.clear()
    calls.stop_at = 5
    with pytest.raises(KeyboardInterrupt):
        sweep(folders, output=tmp_path / "part.png", **options)
    assert read_json(tmp_path / "part.json")["points"] == whole[:4]

    calls.clear()
    calls.stop_at = None
    assert sweep(folders, output=tmp_path / "part.png", **options) == whole
    assert len(calls) == 2
    assert read_json(tmp_path / "part.json") == read_json(tmp_path / "whole.json")


def test_only_what_is_new_is_computed_and_nothing_is_lost(run_folder, tmp_path, calls, quick):
    def count(temperatures, samples, seed=42):
        before = len(calls)
        output = tmp_path / "sweep.png"
        sweep([run_folder], temperatures, samples, output, seed, device="cpu")
        content = read_json(tmp_path / "sweep.json")
        return len(calls) - before, len(content["points"]), len(content["earlier"])

    assert count([1.0], 6) == (2, 2, 0)
    assert count([0.5, 1], 6) == (1, 3, 0)
    assert count([0.5], 6) == (0, 2, 1)
    assert count([0.5], 5) == (2, 2, 3)
    assert count([0.5], 5, seed=1) == (2, 2, 5)
    assert count([0.5, 1.0], 6) == (0, 3, 4)
    model, _, _ = load(run_folder, "cpu")
    with torch.no_grad():
        model.shared.weight.mul_(2)
    model.save_pretrained(run_folder)
    artifact.finish(run_folder)
    assert count([0.5, 1.0], 6) == (3, 3, 7)


def test_a_picture_a_table_and_the_points(run_folder, other_folder, tmp_path, capsys):
    output = tmp_path / "new" / "sweep.png"
    points = sweep([run_folder, f"{other_folder}/"], [0.5], 6, output, device="cpu")
    assert output.read_bytes().startswith(PNG)
    content = read_json(output.with_suffix(".json"))
    assert content["points"] == points and len(points) == 4
    assert content["references"].keys() == {"distinct_2", "self_bleu", "reply_words"}
    assert {"bleu_2", "plato_bleu_2", "signature"} <= points[0].keys()
    out = capsys.readouterr().out
    assert all(name in out for name in ("tiny", "other", "references", "greedy", "0.5"))
    best = max(points[:2], key=lambda point: point["bleu_2"])["bleu_2"]
    assert f"tiny: best BLEU-2 {best:.2f} (" in out
    assert re.search(r"other: best BLEU-2 [\d.]+ \(.*\), with Distinct-2 [\d.]+\.", out)


def test_many_models_and_equal_points_are_drawn(tmp_path):
    figures = {"bleu_2": 0.0, "distinct_2": 0.0, "self_bleu": 100.0}
    points = [
        {"model": f"runs/{i}/model", "temperature": t, **figures}
        for i in range(12)
        for t in (GREEDY, 0.5, 1.0)
    ]
    for path in (tmp_path / "a.png", tmp_path / "b.svg"):
        plot_sweep(points, {"distinct_2": 50, "self_bleu": 10}, path)
        assert path.stat().st_size > 10_000
    assert all(f"runs/{i}/model" in path.read_text() for i in range(12))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperatures": [0.5, 0.0]}, "temperature is 0.0; it must be a number above 0"),
        ({"temperatures": [float("nan")]}, "temperature is nan; it must be"),
        ({"temperatures": [float("inf")]}, "temperature is inf; it must be"),
        ({"samples": 1}, "samples is 1; it must be at least 2"),
        ({"output": "sweep.json"}, r"output is 'sweep.json'; it must end in .png"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(run_folder, calls, options, message):
    with pytest.raises(UsageError, match=message):
        sweep([run_folder], device="cpu", **options)
    assert not calls


def test_another_picture_is_not_overwritten(run_folder, calls, tmp_path):
    (tmp_path / "mine.png").write_bytes(b"a picture")
    with pytest.raises(UsageError, match=r"mine.png' exists, without the points of a sweep"):
        sweep([run_folder], output=tmp_path / "mine.png", device="cpu")
    assert not calls


def test_folders_that_cannot_be_used_are_refused(run_folder, other_folder, tmp_path, calls):
    output = tmp_path / "sweep.png"
    with pytest.raises(UsageError, match=r"There is no '.*none/predictions.jsonl'.*do_predict"):
        sweep([tmp_path / "none"], output=output, device="cpu")
    with pytest.raises(UsageError, match=r"Give the folder of a run"):
        sweep([other_folder, run_folder], output=output, device="cpu")
    with pytest.raises(UsageError, match="is given twice; name each folder once"):
        sweep([run_folder, f"{run_folder}/"], output=output, device="cpu")
    with pytest.raises(UsageError, match="Cannot load a model from 'no/such-model'"):
        sweep([run_folder, "no/such-model"], output=output, device="cpu")
    (other_folder / "predictions.jsonl").write_text('{"context": ["Hi"]}\n')
    with pytest.raises(UsageError, match="holds no predictions"):
        sweep([other_folder], output=output, device="cpu")
    (other_folder / "predictions.jsonl").write_text(
        '{"dialogue_id": "a", "context": ["Hi"], "reference": "Hello", "reply": ""}\n'
    )
    with pytest.raises(UsageError, match="have 1 pairs; 2 are the least"):
        sweep([other_folder], output=output, device="cpu")
    assert not calls and not output.with_suffix(".json").exists()


def test_a_file_that_is_something_else_is_not_overwritten(run_folder, calls):
    metrics = run_folder / "metrics.json"
    for text in ('{"test": {}}', "[1]", '{"points": [1], "earlier": []}', "no JSON"):
        metrics.write_text(text)
        with pytest.raises(UsageError, match=r"metrics.json.* is no file of an earlier sweep"):
            sweep([run_folder], output=run_folder / "metrics.png", device="cpu")
        assert metrics.read_text() == text
    assert not calls
