"""Settings: the file as defaults, flags on top, one clear message for what is wrong."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import torch
import yaml
from helpers.corpus import ROOT
from helpers.runs import finish, start
from transformers import Seq2SeqTrainingArguments

from seq2seq_dialog.__main__ import carry_out, clean
from seq2seq_dialog.command_line import check_command_line, find_config, recipes, setting_names
from seq2seq_dialog.errors import UsageError, run
from seq2seq_dialog.inherited_settings import REPLACED
from seq2seq_dialog.method_settings import ObjectiveArguments
from seq2seq_dialog.run_folder import write_yaml
from seq2seq_dialog.setting_fields import bounds
from seq2seq_dialog.settings import GROUPS
from seq2seq_dialog.train_arguments import parse
from seq2seq_dialog.training_settings import DialogueTrainingArguments

CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))


def config(tmp_path, text):
    path = tmp_path / "c.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("flags", "source"),
    [
        (["--dataset_name", "user/talk"], ("user/talk", None, "starter", None)),
        (["--new_model", "{model_type: t5}"], (None, "file", None, "new")),
        (["--model_name_or_path=user/m"], (None, "file", "user/m", None)),
        (["--dataset-name", "user/talk", "--data", "d.txt"], "Take the other out"),
    ],
)
def test_a_flag_for_one_source_replaces_the_other_of_the_config(flags, source):
    if isinstance(source, str):
        with pytest.raises(UsageError, match=source):
            parse(["demo", *flags])
        return
    settings = parse(["demo", *flags])
    data, model = settings.data, settings.model
    assert (
        data.dataset_name,
        data.data and "file",
        model.model_name_or_path,
        model.new_model and "new",
    ) == source


def test_flags_override_the_file(tmp_path):
    path = config(tmp_path, "model_name_or_path: m\nlearning_rate: 1e-4\nnum_beams: 4\n")
    settings = parse([path, "--num-beams", "2", "--data=d.txt"])
    assert (settings.data.data, settings.model.model_name_or_path) == ("d.txt", "m")
    assert (settings.decoding.num_beams, settings.training.learning_rate) == (2, 1e-4)


def test_booleans_and_mappings_come_through_the_file(tmp_path):
    text = "new_model: {model_type: t5, d_model: 64}\ndetokenize: false\nbf16: false\n"
    settings = parse([config(tmp_path, text), "--do_eval", "false"])
    assert settings.training.do_eval is False and settings.training.do_predict is True
    assert settings.data.detokenize is False and settings.training.bf16 is False
    assert yaml.safe_load(settings.model.new_model) == {"model_type": "t5", "d_model": 64}


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], True),
        (["--language", "en-GB"], True),
        (["--language", "fr"], False),
        (["--language", "fr", "--detokenize", "true"], True),
        (["--detokenize", "false"], False),
    ],
)
def test_text_of_another_language_than_english_stays_as_it_is(flags, expected):
    assert parse(["demo", *flags]).data.detokenize is expected


M = "model_name_or_path: m\n"


@pytest.mark.parametrize(
    ("text", "flags", "message"),
    [
        (M + "learnin_rate: 1\n", [], "'learnin_rate'. Did you mean 'learning_rate'?"),
        (M, ["--num_beam", "3"], "'--num_beam'. Did you mean '--num_beams'?"),
        (M + "learning_rate: fast\n", [], "learning_rate is 'fast'; it must be a number"),
        (M, ["--max_steps", "x"], "max_steps is 'x'; it must be a whole number"),
        (M, ["--temperature", "0"], "temperature is 0.0; it must be at least"),
        (M, ["--top_p", "1.5"], "top_p is 1.5; it must be from 0.001 to 1"),
        (M, ["--tokens_per_batch", "0"], "tokens_per_batch is 0; it must be"),
        (M, ["more.yaml"], "do not know what to do with 'more.yaml'"),
        (M + "lr_scheduler_type: up\n", [], "lr_scheduler_type is 'up'; it must be one of linear"),
        (M + "eval_strategy: epochs\n", [], "one of no, steps, epoch. Did you mean 'epoch'?"),
        (M + "save_strategy: last\n", [], "save_strategy is 'last'; it must be one of no, steps"),
        (M + "label_smoothing_factor: 2\n", [], "is 2.0; it must be at least 0 and below 1"),
        (M + "learning_rate: -1\n", [], "learning_rate is -1.0; it must be at least 0"),
        (M + "weight_decay: nan\n", [], "weight_decay is nan; it must be at least 0"),
        (M, ["--early_stopping_patience", "0"], "early_stopping_patience is 0; it must be"),
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
        (None, [], "There is no config"),
    ],
)  # fmt: skip
def test_wrong_settings_are_refused_with_a_way_out(tmp_path, text, flags, message):
    path = str(tmp_path / "none.yaml") if text is None else config(tmp_path, text)
    with pytest.raises(UsageError) as error:
        parse([path, *flags])
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("metric", "greater", "needs_replies"),
    [
        ("loss", False, False),
        ("perplexity", False, False),
        ("bits_per_byte", False, False),
        ("context_gain", True, False),
        ("bleu", True, True),
    ],
)
def test_what_best_means(tmp_path, metric, greater, needs_replies):
    path = config(tmp_path, "model_name_or_path: m\n")
    flags = ["--predict_with_generate", "true"] if needs_replies else []
    training = parse([path, "--metric_for_best_model", metric, *flags]).training
    assert training.greater_is_better is greater


def test_without_evaluation_there_is_no_best_and_no_patience(tmp_path):
    text = "model_name_or_path: m\neval_strategy: no\nearly_stopping_patience: 3\n"
    training = parse([config(tmp_path, text)]).training
    assert training.load_best_model_at_end is False and training.early_stopping_patience is None


def test_settings_for_data_without_validation_are_new_ones(tmp_path):
    settings = parse([config(tmp_path, "model_name_or_path: m\nearly_stopping_patience: 3\n")])
    without = settings.without_evaluation()
    assert without.training.eval_strategy == "no"
    assert without.training.load_best_model_at_end is False
    assert without.training.early_stopping_patience is None
    assert settings.training.eval_strategy == "epoch"
    assert settings.training.load_best_model_at_end is True
    assert settings.training.early_stopping_patience == 3
    assert without.as_config() == settings.as_config()  # a continued run is the same run


def test_the_run_is_published_and_checkpoints_are_not(tmp_path):
    settings = parse([config(tmp_path, M), "--push_to_hub", "true"])
    assert settings.as_config()["push_to_hub"] is True
    assert settings.training.push_to_hub is False  # Trainer would send checkpoints


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.__name__)
def test_defaults_lie_within_their_bounds(group):
    fields = {field.name: field for field in dataclasses.fields(group)}
    for name, limits in bounds(group).items():
        default = fields[name].default
        assert default is None or not limits.broken_by(default), name


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.__name__)
def test_every_number_has_bounds(group):
    numbers = {
        name
        for name, hint in get_type_hints(group).items()
        if {int, float} & {hint, *get_args(hint)} and name in group.__dataclass_fields__
    }
    assert numbers - REPLACED.keys() <= bounds(group).keys()
    assert numbers or group is ObjectiveArguments  # whose weights have their own check


def test_what_is_inherited_keeps_its_default():
    ours = {field.name: field.default for field in dataclasses.fields(DialogueTrainingArguments)}
    for name in (
        "num_train_epochs", "max_steps", "weight_decay", "gradient_accumulation_steps", "seed",
        "max_grad_norm", "label_smoothing_factor", "dataloader_num_workers", "eval_steps",
        "save_steps",
    ):  # fmt: skip
        assert ours[name] == getattr(Seq2SeqTrainingArguments, name), name


def test_a_recipe_is_found_by_its_name(tmp_path, monkeypatch):
    assert list(recipes()) == [path.stem for path in CONFIGS]
    assert find_config("t5_small") == ROOT / "configs" / "t5_small.yaml"
    for name in ("t5_smal", "t5_small.yaml"):
        with pytest.raises(UsageError, match=rf"no config '{name}'. Did you mean 't5_small'\?"):
            parse([name])
    monkeypatch.chdir(tmp_path)
    Path("t5_small.yaml").touch()
    assert str(find_config("t5_small.yaml")) == "t5_small.yaml"  # a file of one's own


def test_the_dialogues_of_a_recipe_are_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert parse(["demo"]).data.data == "samples/dialogues_text.txt"
    monkeypatch.chdir(tmp_path)
    assert parse(["demo"]).data.data == str(ROOT / "samples" / "dialogues_text.txt")
    assert parse(["demo", "--data", "mine.txt"]).data.data == "mine.txt"
    copy = config(tmp_path, (ROOT / "configs" / "demo.yaml").read_text())
    assert parse([copy]).data.data == "samples/dialogues_text.txt"  # means what it says


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_config_parses_and_says_what_it_is_for(path):
    parse([str(path)])
    head = path.read_text(encoding="utf-8").split("\n\n")[0]
    assert head.count("#") >= 3 and f"run_seq2seq_dialog.py configs/{path.name}" in head
    assert "TBD" not in head


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_the_resolved_settings_are_a_config_that_resolves_to_itself(path, tmp_path):
    first = parse([str(path), "--num_beams", "3", "--seed", "7"]).as_config()
    assert (first["num_beams"], first["seed"]) == (3, 7)
    write_yaml(tmp_path / "config.yaml", first)
    assert parse([str(tmp_path / "config.yaml")]).as_config() == first


def test_what_the_machine_decided_does_not_follow_the_file(tmp_path):
    path = config(tmp_path, M)
    settings = parse([path]).as_config()
    assert not {"bf16", "dataloader_pin_memory"} & set(settings) and settings["use_cpu"] is False
    assert parse([path, "--bf16", "false"]).as_config()["bf16"] is False


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--bf16", "--num_beams", "2"], {"bf16": True}),
        (["--no-bf16"], {"bf16": False}),
        (["--detokenize", "true", "--no_detokenize"], {"detokenize": False}),
        (["--no-detokenize"], {"detokenize": False}),
        (["--streaming", "--max_steps", "9", "--no_streaming"], {"streaming": False}),
        (["--no_do_eval"], {"do_eval": False}),
    ],
)
def test_a_flag_of_true_or_false_stands_alone(tmp_path, flags, expected):
    settings = parse([config(tmp_path, M), *flags])
    assert {name: settings.as_config()[name] for name in expected} == expected


def test_the_names_of_settings_are_known_without_their_classes():
    assert setting_names() == {
        f.name for group in GROUPS for f in dataclasses.fields(group) if f.init
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["demo", "--leraning_rate=1"], "unknown flag '--leraning_rate=1'. Did you mean '--lea"),
        (
            ["demo", "--new_modle.d_model", "8"],
            "'--new_modle.d_model'. Did you mean '--new_model'?",
        ),
        (["dmeo"], "There is no config 'dmeo'. Did you mean 'demo'?"),
        (
            ["wrong.yaml"],
            "wrong.yaml: unknown setting 'lerning_rate'. Did you mean 'learning_rate'",
        ),
        (
            ["demo", "--data", "none.txt"],
            "'none.txt' does not exist. Give a file, folder or zip",
        ),
        (["sources.yaml"], "'none.txt' does not exist. Give a file, folder or zip"),
        (["demo", "--data=$NOWHERE/a.txt"], "NOWHERE is not set"),
    ],
)
def test_a_typo_is_told_before_anything_heavy_is_imported(tmp_path, arguments, message):
    (tmp_path / "wrong.yaml").write_text("lerning_rate: 1\n")
    (tmp_path / "sources.yaml").write_text("data: [{path: wrong.yaml}, {path: none.txt}]\n")
    code = (
        "import sys, atexit\n"
        "heavy = {'torch', 'transformers', 'datasets', 'numpy'}\n"
        "atexit.register(lambda: print('imported', sorted(heavy & set(sys.modules))))\n"
        "import runpy; runpy.run_module('seq2seq_dialog', run_name='__main__', alter_sys=True)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "train", *arguments],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2 and message in done.stderr, done.stderr
    assert done.stdout == "imported []\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["wrnog.yaml"], "There is no config 'wrnog.yaml'. Did you mean 'wrong.yaml'?"),
        (["configs/dem.yaml"], "There is no config 'configs/dem.yaml'. Did you mean 'demo'?"),
        (["./talk.txt"], "There is no config './talk.txt'. A config is a recipe by its"),
        (["demo", "-num_beams", "4"], "with '-num_beams'. CONFIG comes first"),
        (["demo", "--help_me"], "unknown flag '--help_me'. Did you mean '--help'?"),
    ],
)  # fmt: skip
def test_a_wrong_word_of_a_command_line_has_a_way_out(tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wrong.yaml").write_text("seed: 1\n")
    (tmp_path / "talk.txt").write_text("Hi __eou__ Oh __eou__\n")
    with pytest.raises(UsageError) as error:
        check_command_line(words)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("chat starter --num_beams 4", "'--num_beams'. Decoding is set in the chat: /set num_b"),
        ("web starter --top-p=0.9", "unknown flag '--top-p'. Decoding is set on the page"),
        ("serve starter --num_beams 4", "A request sets temperature, top_p and max_tokens"),
        ("audit talk.txt --outptu a.json", "unknown flag '--outptu'. Did you mean '--output'?"),
        ("convert a b --max_gap 3", "unknown flag '--max_gap'. Did you mean '--max-gap'?"),
        ("reply starter a b", "one word too many, 'b'. python -m seq2seq_dialog reply --help"),
        ("chatt starter", "Did you mean 'chat'? python -m seq2seq_dialog --help lists"),
        ("export run --quantization int4", "Did you mean 'int8'?"),
        ("web starter --port x", "invalid int value: 'x'. python -m seq2seq_dialog web --help"),
        ("convert a", "are required: OUT. python -m seq2seq_dialog convert --help lists"),
    ],
)
def test_a_wrong_word_of_a_verb_has_a_way_out(words, message):
    with pytest.raises(UsageError) as error:
        carry_out(words.split())
    assert message in str(error.value)


@pytest.mark.parametrize(
    "flags",
    [
        ["--output_dir", "done"],  # a finished run, which may be published
        ["--dataset_name", "user/talk"],
        ["--data", "null"],
        ["--data", ""],
    ],
)
def test_dialogues_that_are_not_needed_are_not_missed(tmp_path, monkeypatch, flags):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "done").mkdir()
    (tmp_path / "done" / "metrics.json").write_text("{}")
    check_command_line([config(tmp_path, "data: gone.txt\n"), *flags])


@pytest.mark.parametrize("nothing", ["null", ""])
@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("model_name_or_path: m\ndata: d.txt\n", "data"),
        ("model_name_or_path: m\ndataset_name: user/talk\n", "data"),  # the other one stays
        ("model_name_or_path: m\nnew_model: {model_type: t5}\n", "new_model"),
        ("model_name_or_path: m\nlicense: mit\nbf16: false\n", "license"),
    ],
)
def test_a_flag_takes_out_what_the_config_sets(tmp_path, text, name, nothing):
    before = yaml.safe_load(text)
    config_now = parse([config(tmp_path, text), f"--{name}", nothing]).as_config()
    after = {key: value for key, value in before.items() if key != name}
    assert {key: config_now.get(key) for key in before | {name: None}} == {name: None} | after
    assert parse([config(tmp_path, f"{M}{name}: {nothing}\n")]).as_config().get(name) is None


def test_of_a_flag_given_twice_the_last_one_counts(tmp_path):
    path = config(tmp_path, M + "num_beams: 4\n")
    assert parse([path, "--num_beams", "null"]).decoding.num_beams == 1
    assert parse([path, "--num_beams", "null", "--num_beams", "3"]).decoding.num_beams == 3
    assert parse([path, "--data=a", "--data=null"]).data.data is None


@pytest.mark.parametrize(
    ("text", "flags", "name", "mapping"),
    [
        ("new_model: {model_type: t5, d_ff: 8}\n", ["--new_model.d_model", "64"], "new_model",
         {"model_type": "t5", "d_ff": 8, "d_model": 64}),
        ("new_model: {model_type: t5, d_ff: 8}\n", ["--new-model.d-ff=null"], "new_model",
         {"model_type": "t5"}),
        (M, ["--new_model.model_type=bart", "--new_model.dropout", "0.2"], "new_model",
         {"model_type": "bart", "dropout": 0.2}),
        (M, ["--columns.text", "body", "--columns", "{speaker: who}"], "columns",
         {"speaker": "who", "text": "body"}),
        (M + "lr_scheduler_type: cosine\n", ["--lr_scheduler_kwargs.num_cycles", "0.5"],
         "lr_scheduler_kwargs", {"num_cycles": 0.5}),
    ],
)  # fmt: skip
def test_a_flag_sets_a_part_of_a_mapping(tmp_path, text, flags, name, mapping):
    assert parse([config(tmp_path, text), *flags]).as_config()[name] == mapping


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--seed.x", "1"],
            "'--seed.x': seed has no parts. Parts can be set of columns, new_model",
        ),
        (["--new_model", "t5", "--new_model.d_ff", "8"], "new_model is 't5', of which --new_model"),
        (["--new_model.d_model"], "--new_model.d_model takes one value"),
        (["--columns.txt", "body"], "columns has 'txt': 'body'; it maps dialogue, context"),
        (["--new_model.d_model", "8"], "it must have a known model_type, for example"),
    ],
)
def test_a_part_that_cannot_be_set_is_refused(tmp_path, flags, message):
    with pytest.raises(UsageError) as error:
        parse([config(tmp_path, M), *flags]).data.column_names()
    assert message in str(error.value)


def test_help_is_grouped_and_help_all_has_every_setting():
    script = ROOT / "run_seq2seq_dialog.py"
    short = finish([start(script, "--help")]).stdout
    assert "usage: run_seq2seq_dialog.py CONFIG" in short and "rnn_attention" in short
    for heading in ("\ndata:", "\nmodel:", "\ndecoding:", "\ntraining:"):
        assert heading in short
    assert "--no_repeat_ngram_size" in short and "--fsdp" not in short
    whole = finish([start(script, "--help_all")]).stdout
    assert "--fsdp" in whole and set(short.split()) < set(whole.split())


def test_a_lack_of_memory_ends_with_the_way_out(capsys):
    def main():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.")

    with pytest.raises(SystemExit) as stopped:
        run(main)
    assert stopped.value.code == 2
    assert "error: CUDA out of memory. Lower tokens_per_batch" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["data", "dataset_name", "model_name_or_path", "data_cache"])
def test_the_home_folder_may_stand_in_every_path(tmp_path, monkeypatch, name):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "c.yaml").write_text("learning_rate: 1e-4\noutput_dir: ~/out\n", encoding="utf-8")
    others = {"model_name_or_path": "m", name: "~/x y"}
    settings = parse(["~/c.yaml", *(f"--{key}={value}" for key, value in others.items())])
    assert settings.as_config()[name] == f"{tmp_path}/x y"
    assert settings.training.output_dir == f"{tmp_path}/out"
    assert clean([f"~/{name}", 3]) == [f"{tmp_path}/{name}", 3]


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_printing_fails_nobody(encoding, tmp_path):
    code = (
        "import sys; from seq2seq_dialog.errors import run\n"
        "def main():\n"
        "    for i in range(20_000): print('Grüße 🙂', i, flush=i % 1000 == 0)\n"
        "    open('done', 'w').close()\n"
        "run(main)\n"
    )
    env = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": encoding}
    line = [sys.executable, "-c", code]
    process = subprocess.Popen(line, env=env, cwd=tmp_path, stdout=-1, stderr=-1)
    first = process.stdout.readline()
    process.stdout.close()
    assert process.wait(60) == 0 and process.stderr.read() == b""
    assert (tmp_path / "done").exists()
    assert first == "Grüße 🙂 0\n".encode(encoding, errors="replace")
