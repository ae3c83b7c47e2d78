"""From dialogues to a trained, evaluated response generator, in one command.

    python run_seq2seq_dialog.py configs/demo.yaml
    python run_seq2seq_dialog.py configs/t5_small.yaml --data dialogues_text.txt
    accelerate launch run_seq2seq_dialog.py configs/t5_small.yaml

A run that was stopped goes on from its last checkpoint by the same command.
"""

import logging
import sys
from pathlib import Path

import datasets
import transformers
from rich.console import Console
from transformers import EarlyStoppingCallback, set_seed

from . import run_folder
from .data import overlap
from .data.features import count_cuts, encode_rows
from .data.rows import load_rows, utterances
from .data.streaming import Stream, StreamedBatches
from .decoding.settings import generation_config
from .errors import UsageError
from .evaluation import scoring
from .evaluation.metrics import ReplyMetric, unigram_perplexity
from .evaluation.protocols import read_references
from .hub import publish_model
from .models import artifact
from .models.build import check_lengths, discriminator_config, from_hub, load_model
from .models.tokenizer import load_tokenizer, train_tokenizer
from .report import curves, model_card, page
from .settings import DecodingArguments, parse, read_yaml, resolved
from .training.adversarial import AdversarialTrainer
from .training.resume import last_checkpoint
from .training.trainer import DialogueTrainer

# Settings that may change between a run and its continuation: they do not touch the weights (those
# of decoding only without predict_with_generate, which lets replies choose the best checkpoint).
FREE = {"data_cache", "preprocessing_num_workers", "dataloader_num_workers", "disable_tqdm"}
FREE |= {"logging_steps", "report_to", "run_name", "log_level", "save_total_limit"}
FREE |= {"do_eval", "do_predict", "eval_tokens_per_batch", "language", "license"}
FREE |= {"push_to_hub", "hub_model_id", "hub_private_repo", "hub_revision"}
DECODING = set(DecodingArguments.__dataclass_fields__)


def main(argv: list[str] | None = None) -> None:
    """Run the steps.

    Raises:
        UsageError: what the person can mend.
    """
    # 1. Settings, and whether the run folder may be used for them
    groups = parse(sys.argv[1:] if argv is None else argv)
    data_args, model_args, decoding_args, adversarial_args, training_args = groups
    output_dir = Path(training_args.output_dir)
    main_process = training_args.process_index == 0
    console = Console(quiet=not main_process)
    set_up_logging(main_process)
    settings = resolved(groups)
    publishing = training_args.push_to_hub and main_process
    training_args.push_to_hub = False  # Trainer would send checkpoints, too
    if publishing:
        model_card.check_terms(data_args.license, data_args.language)
        repo = publish_model.own_repo(training_args.hub_model_id or output_dir.resolve().name)
    if is_complete(output_dir, settings):
        console.print(f"{output_dir} holds this run, complete.")
        show(output_dir, console)
        if publishing:
            publish(output_dir, repo, data_args, training_args)
        return
    set_seed(training_args.seed)

    # 2. Dialogues to rows
    with training_args.main_process_first(desc="reading the dialogues"):
        stream = Stream(data_args) if data_args.streaming else None
        rows, problems = (stream.rows, stream.problems) if stream else load_rows(data_args)
    replied = "test" if "test" in rows else "validation"
    several = None
    if data_args.multireference is not None:
        if replied not in rows:
            raise UsageError(
                "multireference needs a test split to score; the data has train alone."
            )
        several = read_references(data_args.multireference, rows[replied])
    found = None if stream else overlap.audit(rows)
    warning = overlap.warning(found) if found else None
    if warning:
        console.print(warning, style="yellow", highlight=False)
    if data_args.drop_overlap:
        rows = overlap.without_overlap(rows, found)
    pairs = {name: len(split) for name, split in rows.items()}
    if stream:
        console.print(
            "Training pairs are streamed. Baselines, unigram model and a new tokenizer come from "
            f"the first {pairs.pop('train'):,}; what stands in train and test is not looked for."
        )
    if publishing:  # what forbids it is told now, not after the training
        about = {"data": {"pairs": pairs, "problems": problems}}
        model_card.source(settings, about, {}, data_args.license)
    counts = ", ".join(f"{name} {count:,}" for name, count in pairs.items())
    console.print(f"Pairs of context and response: {counts}")
    if "validation" not in rows and training_args.eval_strategy != "no":
        console.print("No validation pairs: the last checkpoint is kept, not the best.")
        training_args.eval_strategy = "no"
        training_args.__post_init__()
    environment = run_folder.environment(training_args.world_size, rows["train"]._fingerprint)
    checkpoint = last_checkpoint(output_dir, training_args.world_size)
    if checkpoint is not None:
        free = FREE if training_args.predict_with_generate else FREE | DECODING
        if adversarial_args.adversarial:  # the training replies, and evaluations can end it
            free = FREE - {"eval_tokens_per_batch"}
        check_continues(output_dir, settings, environment, free)
    elif any(output_dir.glob("checkpoint-*")):
        console.print(f"No checkpoint in {output_dir} is whole: training starts anew.")

    # 3. Tokenizer and model
    trained = output_dir / "tokenizer"
    given = model_args.tokenizer_name_or_path or model_args.model_name_or_path
    with training_args.main_process_first(local=False, desc="training the tokenizer"):
        if given is None and checkpoint is None and main_process:
            console.print(f"Training a sentencepiece tokenizer of {model_args.vocab_size:,} pieces")
            train_tokenizer(utterances(rows["train"]), model_args.vocab_size, trained)
    tokenizer = load_tokenizer(model_args, data_args.max_source_length, trained)
    model = load_model(model_args, tokenizer)
    check_lengths(model, data_args, decoding_args)
    model.generation_config = generation_config(decoding_args, model)
    console.print(f"{type(model).__name__}: {model.num_parameters():,} parameters")
    environment["from_hub"] = from_hub(data_args, model_args, model)
    if model_args.model_name_or_path is not None:
        environment["inherited"] = model_card.inherited(model_args.model_name_or_path)
    if "dataset_name" in environment["from_hub"] and main_process:
        terms = publish_model.dataset_terms(data_args.dataset_name, data_args.dataset_revision)
        environment["from_hub"]["dataset_name"], environment["dataset_license"] = terms

    # 4. Rows to features
    with training_args.main_process_first(desc="tokenising"):
        features = {name: encode_rows(split, tokenizer, data_args) for name, split in rows.items()}
    cuts = {name: count_cuts(split) for name, split in features.items()}
    for name, cut in cuts.items():
        console.print(
            f"{name}: {cut['contexts']:,} contexts cut to {data_args.max_source_length} tokens, "
            f"{cut['replies']:,} replies to {data_args.max_target_length}"
        )
    data = {"pairs": pairs, "cut": cuts, "problems": problems}

    # 5. Training
    if training_args.tokens_per_batch == "auto" and checkpoint is not None:
        before = run_folder.read_json(output_dir / "environment.json")
        training_args.tokens_per_batch = before["tokens_per_batch"]
    batches = StreamedBatches(stream.train, tokenizer, data_args) if stream else None
    metric = ReplyMetric(keep_in_memory=True)
    trainer_class, options = DialogueTrainer, {}
    if adversarial_args.adversarial and training_args.do_train:
        trainer_class, options["adversarial"] = AdversarialTrainer, adversarial_args
        sizes = adversarial_args.discriminator
        options["discriminator"] = discriminator_config(sizes, model)
    trainer = trainer_class(
        model,
        training_args,
        tokenizer,
        train_dataset=batches or features["train"],
        eval_dataset=features.get("validation"),
        compute_metrics=lambda p: metric.compute(predictions=p.predictions, references=p.label_ids),
        **options,
    )
    environment["tokens_per_batch"] = training_args.tokens_per_batch
    if training_args.early_stopping_patience is not None:
        trainer.add_callback(EarlyStoppingCallback(training_args.early_stopping_patience))
    if main_process:
        output_dir.mkdir(parents=True, exist_ok=True)
        run_folder.write_yaml(output_dir / "config.yaml", settings)
        run_folder.write_json(output_dir / "environment.json", environment)
    metrics = {"data": data, "parameters": model.num_parameters()}
    if training_args.do_train:
        if checkpoint is not None:
            console.print(f"Going on from {checkpoint}")
        result = trainer.train(resume_from_checkpoint=checkpoint)
        metrics["train"] = {
            "steps": result.global_step,
            "best_step": trainer.state.best_global_step,
        }
        if adversarial_args.adversarial:
            metrics["train"]["collapse"] = trainer.collapse

    # 6. The model, at the root of the run folder
    trainer.save_model(str(output_dir))
    if main_process:
        artifact.finish(output_dir)
        if training_args.do_train:
            trainer.state.save_to_json(str(output_dir / "trainer_state.json"))
            curves.plot_curves(trainer.state.log_history, output_dir / "curves.png")

    # 7. Evaluation: the loss on validation, everything on test
    repeats = training_args.do_predict and replied == "validation"  # what follows says it all
    if training_args.do_eval and "validation" in features and not repeats:
        metrics["validation"] = trimmed(trainer.evaluate(features["validation"]), "eval_")
    if training_args.do_predict and replied in features:
        output = trainer.predict(features[replied])
        labels = (features[name]["labels"] for name in ("train", replied))
        unigram = unigram_perplexity(*labels, vocab_size=len(tokenizer))
        metrics[replied] = trimmed(output.metrics, "test_") | {"unigram_perplexity": unigram}
        if main_process:
            clean = found["clean"][replied] if found else None
            predictions = run_folder.predictions(rows[replied], output.predictions, clean)
            run_folder.write_jsonl(output_dir / "predictions.jsonl", predictions)
            evaluated = scoring.evaluate(
                predictions,
                rows["train"],
                rows[replied],
                clean,
                replied,
                vars(decoding_args),
                spaced=not data_args.detokenize,
                several=several,
                seed=training_args.seed,
            )
            if found:
                counts = found["splits"][replied]
                seen = dict(zip(("1", "3", "all"), counts["pairs_in_train"].values(), strict=True))
                sizes = {name: counts[name] for name in ("pairs", "clean_pairs")}
                evaluated["overlap"] = {"pairs_in_train": seen, **sizes}
            run_folder.write_json(output_dir / "evaluation.json", evaluated)
    if main_process:
        run_folder.write_json(output_dir / "metrics.json", metrics)
        page.write(output_dir)
        show(output_dir, console)
    trainer.end()

    # 8. The Hub
    if publishing:
        publish(output_dir, repo, data_args, training_args)


def set_up_logging(main_process: bool) -> None:
    """Let warnings through, from one process only, and progress bars speak for the rest."""
    level = logging.WARNING if main_process else logging.ERROR
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", level=level)
    datasets.utils.logging.set_verbosity(level)
    transformers.utils.logging.set_verbosity(level)
    transformers.utils.logging.disable_progress_bar()
    if not main_process:
        datasets.disable_progress_bars()


def publish(output_dir: Path, repo: str, data_args, training_args) -> None:
    """Publish the finished run as its settings say."""
    publish_model.publish(
        str(output_dir),
        repo,
        private=bool(training_args.hub_private_repo),
        revision=training_args.hub_revision or "main",
        license=data_args.license,
        language=data_args.language,
    )


def is_complete(output_dir: Path, settings: dict) -> bool:
    """Tell whether `output_dir` holds this very run, complete.

    Raises:
        UsageError: it holds another one, or files that are no run: neither may be overwritten.
    """
    if (output_dir / "metrics.json").exists():
        changed = differences(output_dir, settings, FREE - {"do_eval", "do_predict"})
        if changed:
            raise UsageError(
                f"{output_dir} holds a complete run with other settings ({changed}). Choose "
                f"another --output_dir; to evaluate that model differently, add --do_train false "
                f"--model_name_or_path {output_dir}."
            )
        return True
    if output_dir.is_file() or (
        output_dir.is_dir()
        and any(output_dir.iterdir())
        and not ((output_dir / "config.yaml").exists() or (output_dir / "tokenizer").exists())
    ):
        raise UsageError(f"{output_dir} holds other files; choose a new --output_dir.")
    return False


def check_continues(output_dir: Path, settings: dict, environment: dict, free: set[str]) -> None:
    """Refuse to go on with a run under settings that would make it another one."""
    changed = differences(output_dir, settings, free)
    before = run_folder.read_json(output_dir / "environment.json")
    for name, what in (("processes", "processes"), ("training_data", "the training data")):
        if before[name] != environment[name]:
            changed += f"{', ' if changed else ''}{what}: {before[name]} -> {environment[name]}"
    if changed:
        raise UsageError(
            f"{output_dir} holds an unfinished run with other settings ({changed}). Finish it with "
            "those, or choose another --output_dir."
        )


def differences(output_dir: Path, settings: dict, free: set[str]) -> str:
    """Name the settings in which the run in `output_dir` differs, or return an empty string."""
    before = read_yaml(str(output_dir / "config.yaml"))
    names = sorted((before.keys() | settings.keys()) - free - {"output_dir"})
    changed = (name for name in names if before.get(name) != settings.get(name))
    return ", ".join(f"{name}: {before.get(name)} -> {settings.get(name)}" for name in changed)


def trimmed(metrics: dict, prefix: str) -> dict:
    """Take the prefix off metrics, and out what Trainer computes for batches of fixed size."""
    names = {name: name.removeprefix(prefix) for name in metrics if name.startswith(prefix)}
    return {new: metrics[old] for old, new in names.items() if new != "steps_per_second"}


def show(output_dir: Path, console: Console) -> None:
    """Print what came out of a run, and what to do next."""
    metrics = run_folder.read_json(output_dir / "metrics.json")
    if (output_dir / "predictions.jsonl").exists():
        console.print_samples(run_folder.read_jsonl(output_dir / "predictions.jsonl"), console)
    console.print_metrics(metrics, console)
    if (output_dir / "evaluation.json").exists():
        console.print_evaluation(run_folder.read_json(output_dir / "evaluation.json"), console)
    here, python = Path.cwd(), Path(sys.executable)
    python = python.relative_to(here) if python.is_relative_to(here) else "python"
    console.print(
        f"\nThe model, its settings, metrics, curves and replies are in {output_dir}. Next:\n"
        f"  {python} -m seq2seq_dialog chat {output_dir}\n"
        f'  {python} -c "from transformers import pipeline; print('
        f"pipeline('text2text-generation', model='{output_dir}', trust_remote_code=True)"
        f"('How are you?'))\"\n"
        f"  open {output_dir}/report.html",
        highlight=False,
        soft_wrap=True,
    )
