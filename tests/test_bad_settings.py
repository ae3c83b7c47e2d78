"""Wrong settings: each is refused before anything is done, by its name, its value and the rule."""

import dataclasses
import math

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from seq2seq_dialog import strict_yaml
from seq2seq_dialog.errors import UsageError
from seq2seq_dialog.portable.options import Bounds
from seq2seq_dialog.setting_fields import bounds
from seq2seq_dialog.settings import GROUPS, Settings
from seq2seq_dialog.train_arguments import parse

MODEL = "model_name_or_path: m\n"
FINITE = "nan inf -inf 1e999"
# setting: wrong values, and the rule that the message has.
NUMBERS = {
    "learning_rate": (f"-1 {FINITE}", "at least 0"),
    "weight_decay": (f"-0.1 {FINITE}", "at least 0"),
    "adam_beta1": (f"-0.1 1 2 {FINITE}", "at least 0 and below 1"),
    "adam_beta2": (f"-0.1 1 2 {FINITE}", "at least 0 and below 1"),
    "adam_epsilon": (f"-1 0 {FINITE}", "above 0"),
    "max_grad_norm": (f"-1 {FINITE}", "at least 0"),
    "num_train_epochs": (f"-1 0 {FINITE}", "above 0"),
    "warmup_steps": (f"-1 {FINITE}", "at least 0"),
    "label_smoothing_factor": (f"-0.1 1 {FINITE}", "at least 0 and below 1"),
    "logging_steps": (f"-1 0 {FINITE}", "above 0"),
    "eval_steps": (f"-1 0 {FINITE}", "above 0"),
    "save_steps": (f"-1 0 {FINITE}", "above 0"),
    "eval_delay": (f"-1 {FINITE}", "at least 0"),
    "neftune_noise_alpha": (f"-1 {FINITE}", "at least 0"),
    "temperature": (f"-1 0 {FINITE}", "at least 0.001"),
    "top_p": (f"-1 0 1.01 2 {FINITE}", "from 0.001 to 1"),
    "repetition_penalty": (f"-1 0 {FINITE}", "at least 0.001"),
    "length_penalty": (FINITE, "finite"),
    "teacher_forcing_weight": (f"-1 {FINITE}", "at least 0"),
    "discriminator_learning_rate": (f"-1 {FINITE}", "at least 0"),
    "dpo_likelihood_weight": (f"-1 {FINITE}", "at least 0"),
    "collapse_threshold": (f"-1 1.5 {FINITE}", "from 0 to 1"),
}
HUGE = "99999999999999999999"
WHOLE_NUMBERS = {
    "seed": ("-1 4294967296", "from 0 to 4294967295"),
    "data_seed": (f"-1 4294967296 {HUGE}", "from 0 to 4294967295"),
    "max_steps": ("0", "at least 1, or -1 to go by epochs"),
    "early_stopping_patience": ("-3 0", "at least 1"),
    "save_total_limit": ("-1", "at least 0"),
    "gradient_accumulation_steps": ("-1 0", "at least 1"),
    "dataloader_num_workers": ("-1", "at least 0"),
    "dataloader_prefetch_factor": ("-1 0", "at least 1"),
    "eval_accumulation_steps": ("-1 0", "at least 1"),
    "torch_empty_cache_steps": ("-1 0", "at least 1"),
    "ddp_timeout": ("-1 0", "at least 1"),
    "ddp_bucket_cap_mb": ("-1 0", "at least 1"),
    "top_k": ("-1", "at least 0"),
    "no_repeat_ngram_size": ("-1", "at least 0"),
    "num_beams": ("-1 0", "at least 1"),
    "max_new_tokens": ("-1 0", "at least 1"),
    "max_source_length": ("-1 7", "at least 8"),
    "max_target_length": ("-1 1", "at least 2"),
    "max_train_samples": ("-1 0", "at least 1"),
    "max_eval_samples": ("-1 0", "at least 1"),
    "preprocessing_num_workers": ("-1 0", "at least 1"),
    "vocab_size": ("-1 63", "at least 64"),
    "tokens_per_batch": ("-1 0", "at least 1"),
    "eval_tokens_per_batch": ("-1 0", "at least 1"),
    "rollouts": ("0", "at least 1"),
    "discriminator_steps": ("0", "at least 1"),
    "discriminator_warmup_steps": ("-1", "at least 0"),
}
CASES = [
    (MODEL, [f"--{name}={value}"], f"{name} is {float(value)}; it must be {rule}")
    for name, (values, rule) in NUMBERS.items()
    for value in values.split()
]
CASES += [
    (MODEL, [f"--{name}={value}"], f"{name} is {value}; it must be {rule}")
    for name, (values, rule) in WHOLE_NUMBERS.items()
    for value in values.split()
]
CASES += [
    (MODEL, [f"--{name}={HUGE}"], f"{name} is {HUGE}; it must be at most 2147483647")
    for name in ("max_steps", "vocab_size", "max_new_tokens", "num_beams", "save_total_limit")
]
CASES += [
    (MODEL, [f"--{name}", value], f"{name} is {value!r}; it must be {kind}")
    for name, value, kind in (
        ("seed", "1.5", "a whole number"),
        ("seed", "nan", "a whole number"),
        ("seed", "", "a whole number"),
        ("max_steps", "1e5", "a whole number"),
        ("num_beams", "two", "a whole number"),
        ("learning_rate", "1,5", "a number"),
        ("weight_decay", "low", "a number"),
        ("tokens_per_batch", "many", "a number or auto"),
        ("detokenize", "perhaps", "true or false"),
        ("bf16", "2", "true or false"),
        ("reward", "none", "one of prefixes, rollouts, sequence"),
        ("lr_scheduler_type", "down", "one of linear, cosine"),
        ("log_level", "loud", "one of detail, debug"),
        ("ddp_backend", "pigeon", "one of nccl, gloo"),
        ("optim", "adamw_hf", "one of adamw_scaled, muon_scaled, adamw_torch"),
        ("report_to", "nonsense", "one of all, azure_ml"),
        ("optim_args", "nonsense", "name=value, name=value"),
        ("lr_scheduler_kwargs", "[1]", "a mapping, for example {num_decay_steps: 1000}"),
        ("lr_scheduler_kwargs", "5", "a mapping"),
        ("lr_scheduler_kwargs", "{a: 1, a: 2}", "a mapping"),
        ("activation_checkpointing_kwargs", "yes", "a mapping"),
        ("accelerator_config", "none.json", "a mapping"),
    )
]
# What a config can hold, line by line.
LINES = {
    "learning_rate: [1, 2]": "learning_rate is [1, 2]; it must be a single value",
    "learning_rate: {a: 1}": "learning_rate is {'a': 1}; it must be a single value",
    "learning_rate: true": "learning_rate is 'true'; it must be a number",
    "learning_rate: .nan": "learning_rate is nan; it must be at least 0 and finite",
    "learning_rate: 2020-01-01": "learning_rate is '2020-01-01'; it must be a number",
    "seed: [1]": "seed is [1]; it must be a single value",
    "seed: 1:60": "seed is '1:60'; it must be a whole number",
    "seed: --help": "seed is '--help'; it must be a whole number",
    "save_total_limit: true": "save_total_limit is 'true'; it must be a whole number",
    "output_dir: [a, b]": "output_dir is ['a', 'b']; it must be a single value",
    "output_dir: ''": "output_dir is empty; it must name the run folder",
    'output_dir: "a\\0b"': "which has no such characters",
    'output_dir: "\\ud800"': "which has no such characters",
    "run_name: [a, b]": "run_name is ['a', 'b']; it must be a single value",
    "language: [en, de]": "language is ['en', 'de']; it must be a single value",
    "language: no": "language is false; YAML reads a bare no",
    "license: [mit]": "license is ['mit']; it must be a single value",
    "data: {path: a}": "data is {'path': 'a'}; it must be a path or a list of sources",
    "data: true": "data is true; YAML reads a bare no",
    "dataset_name: [a]": "dataset_name is ['a']; it must be a single value",
    "multireference: [a]": "multireference is ['a']; it must be a single value",
    "hub_model_id: [a]": "hub_model_id is ['a']; it must be a single value",
    "logging_strategy: [steps]": "logging_strategy is ['steps']; it must be a single value",
    "metric_for_best_model: [loss]": "metric_for_best_model is ['loss']; it must be a single",
    "report_to: [tensorboard, wandb]": "report_to is ['tensorboard', 'wandb']; it must be a single",
    "report_to: true": "report_to is true; YAML reads",
    "report_to: comet_ml": "report_to is 'comet_ml', which does not work: CometCallback requires",
    "report_to: clearml": "Run `pip install clearml`",
    "optim: adamw_bnb_8bit": "optim is 'adamw_bnb_8bit', which does not work: You need to install",
    "optim: galore_adamw": "pip install git+https://github.com/jiaweizzhao/GaLore",
    "optim: lomo": "pip install lomo-optim",
    "optim: apollo_adamw": "You need to install `apollo_torch`",
    "optim: grokadamw": "pip install grokadamw",
    "optim: schedule_free_adamw": "pip install schedulefree",
    "optim: adamw_torch_4bit": "You need to have `torchao",
    "optim: stable_adamw": "pip install torch-optimi",
    "optim: adamw_torch_xla": "optim is 'adamw_torch_xla', which does not work",
    "deepspeed: {a: b}": "deepspeed needs a package that is missing: pip install deepspeed",
    "use_liger_kernel: true": "pip install liger_kernel",
    "warmup_steps: 1.5": "warmup_steps is 1.5; above 1 it must be a whole number of steps",
    "lr_scheduler_kwargs: {nonsense: 1}": "lr_scheduler_kwargs is {'nonsense': 1}, which does not",
    "lr_scheduler_kwargs: [a]": "lr_scheduler_kwargs is ['a']; it must be a mapping",
    "lr_scheduler_type: warmup_stable_decay": "is 'warmup_stable_decay', which does not work",
    "lr_scheduler_type: cosine_with_min_lr": "One of min_lr or min_lr_rate should be set",
    "activation_checkpointing_kwargs: {nonsense: 1}": "unexpected keyword argument 'nonsense'",
    "gradient_checkpointing_kwargs: {nonsense: 1}": "gradient_checkpointing_kwargs is {'nonsense'",
    "accelerator_config: {nonsense: 1}": "unexpected keyword argument 'nonsense'",
    "fsdp_config: {nonsense: 1}": "fsdp_config has no effect by itself",
    "fsdp: nonsense": "Unknown `fsdp` option: nonsense",
    "discriminator: [a]": "discriminator is ['a']; it must be a mapping",
    "learning_rate: 1\nlearning_rate: 2": "'learning_rate' is there twice: keep one",
    "lr_scheduler_kwargs: {a: 1, a: 2}": "'a' is there twice: keep one",
    "data: &a [*a]": "an alias stands for a list or a mapping: write that out",
    "data: &a {path: *a}": "an alias stands for a list or a mapping: write that out",
    "a: &a [1]\nb: &b [*a, *a]\nc: [*b, *b]": "an alias stands for a list or a mapping",
    "data: *nothing": "is not valid YAML: found undefined alias",
    "data: " + "[" * 1200: "is not valid YAML: it is nested too deeply",
    "data: [": "is not valid YAML",
    "data: !mine 1": "unknown tag '!mine'",
    "data: !!python/object/apply:os.system [ls]": "unknown tag",
    "data: !!set {a, b}": "unknown tag 'tag:yaml.org,2002:set'",
    "data: !!binary /w==": "unknown tag 'tag:yaml.org,2002:binary'",
    "seed: !!int abc": "is not valid YAML: invalid literal for int() with base 10: 'abc'",
    "seed: !!float abc": "is not valid YAML: could not convert string to float: 'abc'",
    "<<: 5": "is not valid YAML",
    "[a]: 5": "is not valid YAML",
    "\tseed: 5": "is not valid YAML",
    "seed:5": "is not valid YAML",
    "5: 6": "unknown setting 5",
    "null: 5": "unknown setting None",
    "given: 5": "unknown setting 'given'",
    "detokenise: true": "unknown setting 'detokenise'. Did you mean 'detokenize'?",
    "--seed: 5": "unknown setting '--seed'. Did you mean 'seed'?",
}
CASES += [(MODEL + line + "\n", [], message) for line, message in LINES.items()]
SCHEDULES = {
    "{num_cycles: .nan}": "{'num_cycles': nan}; the numbers in it must be finite",
    "{num_cycles: x}": "lr_scheduler_kwargs is {'num_cycles': 'x'}, which does not work",
    "{min_lr: 0}": "unexpected keyword argument 'min_lr'",
}
CASES += [
    (f"{MODEL}lr_scheduler_type: cosine\nlr_scheduler_kwargs: {options}\n", [], message)
    for options, message in SCHEDULES.items()
]
CASES += [
    (
        MODEL + "lr_scheduler_type: constant\nlr_scheduler_kwargs: {a: 1}\n",
        [],
        "lr_scheduler_kwargs is {'a': 1}, but lr_scheduler_type constant takes none",
    ),
    (
        MODEL + "lr_scheduler_type: polynomial\nlr_scheduler_kwargs: {lr_end: 7.0}\n",
        [],
        "lr_end (7.0) must be smaller than initial lr",
    ),
]
CASES += [
    (f"new_model: {value}\n", [], f"new_model is {written}; it must be a mapping")
    for value, written in (
        ("t5", "'t5'"),
        ("5", "'5'"),
        ("[a]", "['a']"),
        ("'{a'", "'{a'"),
        ("'{a: 1, a: 2}'", "'{a: 1, a: 2}'"),
        ("'!!python/name:os.system'", "'!!python/name:os.system'"),
    )
]
CASES += [
    (f"new_model: {value}\n", [], "it must have a known model_type, for example")
    for value in ("{}", "{d_model: 8}", "{model_type: [t5]}", "{model_type: 5}")
]
CASES += [
    (MODEL, flags.split(), message)
    for flags, message in {
        "--output_dir a b": "do not know what to do with 'b'",
        "--seed 1 2": "do not know what to do with '2'",
        "--seed": "argument --seed: expected one argument",
        "--": "unknown flag '--'",
        "--no_seed": "do not know what to do with '--no_seed'",
        "--no_do_predict=5": "ignored explicit argument '5'",
        "--eval_strategy steps --save_strategy steps --eval_steps 1.5 --save_steps 3": "must be an",
        "--eval_strategy steps --save_strategy steps --eval_steps 100 --save_steps 150": "multiple",
        "--eval_strategy steps --save_strategy steps --eval_steps 50 --save_steps 100": "make them",
        "--save_steps 100": "save_steps has no effect while save_strategy is epoch",
        "--eval_strategy no --save_strategy best": "nothing would ever be saved",
        "--temperature 0.7": "temperature has no effect without do_sample",
        "--guidance_tokens 2": "guidance_tokens has no effect without guidance_weight",
        "--average_tokens_across_devices false": "each target token weighs the same on all",
        "--streaming true --max_steps 9": "A stream has no epochs, after which checkpoints",
        "--streaming true --do_train false": "A stream has no end: with streaming, set max_steps",
        "--lora_r 4 --lora_merge false --push_to_hub true": "a whole model is published",
        "--dataloader_prefetch_factor 2": "when --dataloader_num_workers > 0",
        "--streaming true": "A stream has no end: with streaming, set max_steps",
    }.items()
]


def test_there_are_enough_of_them():
    assert len(CASES) >= 200


@pytest.mark.parametrize(
    ("config", "flags", "message"), CASES, ids=[" ".join([c[0], *c[1]])[-60:] for c in CASES]
)
def test_a_wrong_setting_is_refused(tmp_path, config, flags, message):
    path = tmp_path / "c.yaml"
    path.write_text(config, encoding="utf-8")
    with pytest.raises(UsageError) as error:
        parse([str(path), *flags])
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.slow  # imports the compiler
@pytest.mark.parametrize("name", ["torch_compile_backend", "torch_compile_mode"])
def test_a_compiler_that_is_not_there_is_refused(name):
    with pytest.raises(UsageError, match=f"{name} is 'nonsense'; it must be one of"):
        parse(["--model_name_or_path", "m", f"--{name}", "nonsense"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "must hold settings as `name: value` lines"),
        (b"\xff\xfe\x00", "Cannot read the config"),
        ("data: café".encode("latin-1"), "Cannot read the config"),
        ("data: a".encode("utf-16"), "Cannot read the config"),
        (b"a: \0", "is not valid YAML: unacceptable character"),
        (b"- a\n- b\n", "must hold settings as `name: value` lines"),
        (b"just text", "must hold settings as `name: value` lines"),
        (b"---\nseed: 5\n---\nseed: 6\n", "is not valid YAML: expected a single document"),
        (b"%YAML 9.9\n---\nseed: 5\n", "is not valid YAML: found incompatible YAML document"),
    ],
)
def test_a_file_that_holds_no_settings_is_refused(tmp_path, content, message):
    path = tmp_path / "c.yaml"
    path.write_bytes(content)
    with pytest.raises(UsageError) as error:
        parse([str(path)])
    assert message in str(error.value) and "\n" not in str(error.value)


# Whatever is given: settings within their bounds come out, or one message.

printable = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")) | st.just(" "))
quick = settings(max_examples=60, deadline=None, derandomize=True, database=None)
NUMERIC = {name: limits for group in GROUPS for name, limits in bounds(group).items()}
NAMES = sorted({f.name for group in GROUPS for f in dataclasses.fields(group) if f.init})
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8),
    st.sampled_from(["no", "auto", "epoch", "~", "-1", "1e400", "--seed", "0x1", "[", "{a: 1}"]),
)  # fmt: skip
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(scalars, inner, max_size=3),
    max_leaves=5,
)


@quick
@given(st.floats() | st.integers(), st.booleans())
def test_bounds_hold_finite_numbers_alone(value, whole):
    limits = Bounds(0, below=100, whole=whole)
    fits = math.isfinite(value) and 0 <= value < 100 and (isinstance(value, int) or not whole)
    assert bool(limits.broken_by(value)) is not fits


@quick
@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | printable,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(printable, inner, max_size=4),
    max_leaves=8,
))  # fmt: skip
def test_what_yaml_writes_is_read_back(value):
    assert strict_yaml.load(yaml.safe_dump(value, allow_unicode=True)) == value


@quick
@given(st.text(max_size=60) | st.text("abc:-&*!{}[]<'\"|>%@?,# \n\t.0", max_size=40))
def test_any_text_is_yaml_or_an_error_of_yaml(text):
    try:
        value = strict_yaml.load(text)
    except yaml.YAMLError:
        return
    assert isinstance(value, str | int | float | bool | list | dict | None)


@quick
@given(st.dictionaries(st.sampled_from(NAMES), values, min_size=1, max_size=3))
def test_any_value_of_any_setting_gives_settings_or_one_message(tmp_path_factory, config):
    path = tmp_path_factory.mktemp("config") / "c.yaml"
    path.write_text(yaml.safe_dump({"model_name_or_path": "m"} | config), encoding="utf-8")
    try:
        parsed = parse([str(path)])
    except UsageError as error:
        assert str(error) and "\n" not in str(error)
        return
    assert isinstance(parsed, Settings)
    for group in vars(parsed).values():
        for name, limits in bounds(type(group)).items():
            value = getattr(group, name)
            assert value in (None, "auto") or not limits.broken_by(value), name


@quick
@given(st.data())
def test_a_number_within_its_bounds_comes_through(tmp_path_factory, data):
    name = data.draw(st.sampled_from(["seed", "data_seed", "top_p", "adam_beta1", "num_beams"]))
    limits = NUMERIC[name]
    least, most = limits.least, min(limits.most, 2**31 - 1, limits.below)
    number = st.integers(int(least), int(most)) if limits.whole else st.floats(least, most)
    value = data.draw(number.filter(lambda n: n < limits.below))
    folder = tmp_path_factory.mktemp("config")
    given = {"model_name_or_path": "m", "do_sample": True, name: value}
    (folder / "c.yaml").write_text(yaml.safe_dump(given))
    config = parse([str(folder / "c.yaml")]).as_config()
    assert config.get(name, value) == value
    (folder / "again.yaml").write_text(yaml.safe_dump(config))
    assert parse([str(folder / "again.yaml")]).as_config() == config
