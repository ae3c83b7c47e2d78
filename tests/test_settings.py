"""Settings: the file as defaults, flags on top, one clear message for what is wrong."""

import subprocess
import sys

import pytest
import torch
import yaml
from helpers.corpus import ROOT

from seq2seq_dialog.errors import UsageError, run
from seq2seq_dialog.run_folder import write_yaml
from seq2seq_dialog.settings import parse, resolved

CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))


def config(tmp_path, text):
    path = tmp_path / "c.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_flags_override_the_file(tmp_path):
    path = config(tmp_path, "model_name_or_path: m\nlearning_rate: 1e-4\nnum_beams: 4\n")
    data, model, decoding, _, training = parse([path, "--num-beams", "2", "--data=d.txt"])
    assert (data.data, model.model_name_or_path) == ("d.txt", "m")
    assert (decoding.num_beams, training.learning_rate) == (2, 1e-4)


def test_booleans_and_mappings_come_through_the_file(tmp_path):
    text = "new_model: {model_type: t5, d_model: 64}\ndetokenize: false\nbf16: false\n"
    data, model, _, _, training = parse([config(tmp_path, text), "--do_eval", "false"])
    assert training.do_eval is False and training.do_predict is True
    assert data.detokenize is False and training.bf16 is False
    assert yaml.safe_load(model.new_model) == {"model_type": "t5", "d_model": 64}


M = "model_name_or_path: m\n"


@pytest.mark.parametrize(
    ("text", "flags", "message"),
    [
        (M + "learnin_rate: 1\n", [], "'learnin_rate'. Did you mean 'learning_rate'?"),
        (M, ["--num_beam", "3"], "'--num_beam'. Did you mean '--num_beams'?"),
        (M + "learning_rate: fast\n", [], "--learning_rate"),
        (M, ["--max_steps", "x"], "invalid int value: 'x'"),
        (M, ["--temperature", "0"], "temperature is 0.0; it must be at least"),
        (M, ["--top_p", "1.5"], "top_p is 1.5; it must be from 0.001 to 1"),
        (M, ["--tokens_per_batch", "0"], "tokens_per_batch is 0; it must be"),
        (M, ["more.yaml"], "do not know what to do with 'more.yaml'"),
        (M + "lr_scheduler_type: up\n", [], "invalid choice: 'up'"),
        (M + "save_strategy: steps\n", [], "save and eval strategy to match"),
        (M + "report_to: mlflow\n", [], "pip install mlflow"),
        (M + "hub_token: hf_secret\n", [], "hub_token has no effect here: log in"),
        (M + "data: a.txt\ndataset_name: user/b\n", [], "Take the other out, of the config too"),
        (M + "per_device_train_batch_size: 4\n", [], "no effect here: set tokens_per_batch"),
        (M + "save_only_model: true\n", [], "no effect here: a run could not go on"),
        (M + "metric_for_best_model: blue\n", [], "Did you mean 'bleu'?"),
        (M + "metric_for_best_model: bleu\n", [], "set predict_with_generate as well"),
        (M, ["--max_train_samples", "0"], "max_train_samples is 0; it must be at least 1"),
        (M, ["--gradient_accumulation_steps", "0"], "gradient_accumulation_steps is 0"),
        (M + "generation_num_beams: 4\n", [], "set num_beams instead"),
        ("{}", [], "Set one of model_name_or_path"),
        (M + "new_model: {model_type: t5}\n", [], "Set one of model_name_or_path"),
        ("new_model: {model_type: t5}\ndo_train: false\n", [], "give the trained model"),
        ("- a\n- b\n", [], "must hold settings"),
        ("a: [", [], "is not valid YAML"),
        (None, [], "Cannot read the config"),
    ],
)  # fmt: skip
def test_wrong_settings_are_refused_with_a_way_out(tmp_path, text, flags, message):
    path = str(tmp_path / "none.yaml") if text is None else config(tmp_path, text)
    with pytest.raises(UsageError) as error:
        parse([path, *flags])
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_best_is_the_lowest_perplexity_and_the_highest_bleu(tmp_path):
    path = config(tmp_path, "model_name_or_path: m\n")
    directions = {"loss": False, "perplexity": False, "bleu": True}
    for metric, greater in directions.items():
        flags = ["--metric_for_best_model", metric, "--predict_with_generate", "true"]
        training = parse([path, *flags])[-1]
        assert training.greater_is_better is greater


def test_without_evaluation_there_is_no_best_and_no_patience(tmp_path):
    text = "model_name_or_path: m\neval_strategy: no\nearly_stopping_patience: 3\n"
    training = parse([config(tmp_path, text)])[-1]
    assert training.load_best_model_at_end is False and training.early_stopping_patience is None


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_config_parses_and_says_what_it_is_for(path):
    parse([str(path)])
    head = path.read_text(encoding="utf-8").split("\n\n")[0]
    assert head.count("#") >= 3 and f"run_seq2seq_dialog.py configs/{path.name}" in head
    assert "TBD" not in head


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_the_resolved_settings_are_a_config_that_resolves_to_itself(path, tmp_path):
    first = resolved(parse([str(path), "--num_beams", "3", "--seed", "7"]))
    assert (first["num_beams"], first["seed"]) == (3, 7)
    write_yaml(tmp_path / "config.yaml", first)
    assert resolved(parse([str(tmp_path / "config.yaml")])) == first


def test_what_the_machine_decided_does_not_follow_the_file(tmp_path):
    path = config(tmp_path, M)
    settings = resolved(parse([path]))
    assert not {"bf16", "dataloader_pin_memory"} & set(settings) and settings["use_cpu"] is False
    assert resolved(parse([path, "--bf16", "false"]))["bf16"] is False


def test_help_is_grouped_and_help_all_has_every_setting():
    script = [sys.executable, str(ROOT / "run_seq2seq_dialog.py")]
    short = subprocess.run([*script, "--help"], capture_output=True, text=True, check=True).stdout
    for heading in ("\ndata:", "\nmodel:", "\ndecoding:", "\ntraining:"):
        assert heading in short
    assert "--no_repeat_ngram_size" in short and "--fsdp" not in short
    whole = subprocess.run([*script, "--help_all"], capture_output=True, text=True, check=True)
    assert "--fsdp" in whole.stdout and len(whole.stdout) > 2 * len(short)


def test_a_lack_of_memory_ends_with_the_way_out(capsys):
    def main():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.")

    with pytest.raises(SystemExit) as stopped:
        run(main)
    assert stopped.value.code == 2
    assert "error: CUDA out of memory. Lower tokens_per_batch" in capsys.readouterr().err
