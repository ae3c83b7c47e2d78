"""From dialogues to a trained, evaluated response generator: the steps of a run.

`run_seq2seq_dialog.py` and the verb `train` start it, on several GPUs `accelerate launch`.
"""

import logging
import os
import signal
import sys
from contextlib import nullcontext
from pathlib import Path
from shutil import rmtree

from accelerate.utils.memory import clear_device_cache
from rich.console import Console
from transformers import EarlyStoppingCallback, set_seed

from . import run_folder
from .checks import check_gpus
from .data.corpus import (
    Corpus,
    audit_corpus,
    encode_corpus,
    exchange_corpus_sides,
    read_corpus,
    report_sources,
)
from .data.known_corpora import recognise
from .data.mixture import parse_sources
from .data.prepared import cache_folder
from .data.rows import fingerprint, utterances
from .data.streaming import Stream, StreamedBatches
from .dataset_script.dialogues import normalised
from .decoding.generation_config import generation_config
from .errors import Stopped, UsageError
from .evaluation.diversity import stock_phrases
from .evaluation.metrics import ReplyMetric
from .hub import publish_model
from .models import artifact
from .models.build import check_lengths, check_names, check_sizes, load_model
from .models.tokenizer import load_tokenizer, train_tokenizer
from .portable.options import NEEDED_TEXTS
from .report import licences, pictures, seeds
from .report.console import print_run, set_up_console
from .report.preview import preview
from .report.results import evaluate_model, write_report
from .run_folder import check_writable
from .serve.inference import generate_responses
from .settings import Settings
from .shipped import command, find_model
from .train_arguments import parse
from .training import checkpoints
from .training.adversarial import AdversarialTrainer
from .training.lora import add_adapter, has_adapter
from .training.memory import keep_freed_memory
from .training.objectives import ObjectiveTrainer
from .training.preferences import PreferenceTrainer
from .training.preparing import check_model
from .training.resume import check_run_folder, find_checkpoint
from .training.stopping import Diverged
from .training.trainer import DialogueTrainer

logger = logging.getLogger(__name__)
RERANK_CONTEXTS = 1000  # whose replies tell what a model says too often
OTHER_CONTEXTS = 4  # of them that tell what fits any context


def main(argv: list[str] | None = None) -> None:
    """Run by `CONFIG [--flag value ...]`, by default what the process was started with."""
    argv = sys.argv[1:] if argv is None else argv
    settings = parse(argv)
    if settings.search.space is not None:
        raise UsageError(f"space is for the verb search: {command('search')}, or --space null.")
    if settings.training.seeds and not settings.training.dry_run:
        return run_each_seed(argv, settings)
    lock_and_run(settings)


def lock_and_run(settings: Settings) -> None:
    """Lock the run folder for this process, and run."""
    check_sizes(settings)
    with run_folder.locked(settings.run_dir) if settings.main_process else nullcontext():
        run_steps(settings)


def run_each_seed(argv: list[str], settings: Settings) -> None:
    """Run once for each seed, in a folder of its own; put the figures together."""
    folder, all_seeds = settings.run_dir, settings.training.seeds
    with run_folder.locked(folder):
        run_folder.check_folder_of_runs(folder, seeds.folder_name("*"), f"{seeds.SUMMARY}*")
        ended, diverged = [], []
        for i, seed in enumerate(all_seeds, 1):
            run_dir = folder / seeds.folder_name(seed)
            print(f"Run {i} of {len(all_seeds)}: seed {seed}, in {run_dir}", flush=True)
            try:
                run_unless_complete(
                    [*argv, "--seeds=null", f"--seed={seed}", f"--output_dir={run_dir}"]
                )
                ended.append(run_dir)
                seeds.check_same_data(ended)
            except Diverged as error:
                print(f"{error} The other seeds go on.", flush=True)
                diverged.append(str(seed))
        if diverged:
            raise UsageError(
                f"Of {len(all_seeds)} seeds these have diverged: {', '.join(diverged)}. A mean of "
                "the others alone would flatter, so none is written. Lower learning_rate, and "
                "choose another --output_dir."
            )
        seeds.summarise(folder, all_seeds)


def run_unless_complete(argv: list[str]) -> None:
    """Run, as one of several runs of this process; pass over a run that is complete."""
    settings = parse(argv)
    if check_run_folder(settings.run_dir, settings.as_config()):
        return report_complete(settings)
    clear_device_cache(garbage_collection=True)  # of what the run before it has left
    lock_and_run(settings)


def report_complete(settings: Settings) -> None:
    """Print that a run is complete; warn where its dialogues have become newer."""
    if not settings.main_process:
        return
    print(f"{settings.run_dir} holds this run, complete.")
    data = settings.data.data
    paths = [source.path for source in parse_sources(data) or ()] or [data]
    ended = (settings.run_dir / "metrics.json").stat().st_mtime
    for path in (Path(os.path.expandvars(path)).expanduser() for path in paths if path):
        files = [path, *path.rglob("*")] if path.is_dir() else [path]
        if any(file.exists() and file.stat().st_mtime > ended for file in files):
            logger.warning(
                "%s is newer than this run. To train on what it holds now, choose another "
                "--output_dir.",
                path,
            )


def run_steps(settings: Settings) -> None:
    """Run from the dialogues to the report, by settings that are resolved."""
    # 1. See whether the run folder, the disks and the Hub will take the run
    console = set_up_console(settings.main_process)
    check_writable(cache_folder(settings.data, "any"))
    repo = check_publishing(settings)
    if not settings.training.dry_run and check_run_folder(settings.run_dir, settings.as_config()):
        report_complete(settings)
        return publish_and_print(repo, settings, console)
    check_names(settings.model)
    check_gpus(settings.training)
    set_seed(settings.training.seed)

    # 2. Read the rows
    with settings.training.main_process_first(desc="reading the dialogues"):
        corpus = read_corpus(settings.data_to_read)
    check_rejected_is_read(corpus, settings)

    # 3. Audit them; describe what the run is made with
    corpus = exchange_corpus_sides(audit_corpus(corpus, settings.data, console), settings.data)
    data = {"pairs": corpus.pairs, "problems": corpus.problems}
    environment = describe_environment(corpus, settings, publishes=repo is not None)
    settings = settle_evaluation(corpus, settings, console)

    # 4. See where an interrupted run goes on
    checkpoint = None
    if not settings.training.dry_run:
        settings, checkpoint = find_checkpoint(settings, environment)

    # 5. Prepare tokenizer and model
    tokenizer = load_or_train_tokenizer(settings, corpus, checkpoint is None, console)
    model = prepare_model(settings, tokenizer, console)
    environment |= licences.describe_origin(settings)

    # 6. Encode
    with settings.training.main_process_first(desc="tokenising"):
        features, counts = encode_corpus(corpus, tokenizer, settings.data, console)
    data |= counts | report_sources(features["train"], settings.data, console)

    # 7. Train
    metrics = {"data": data, "parameters": model.num_parameters()}
    model = adapt_model(settings, model, tokenizer, console)
    trainer = build_trainer(settings, model, tokenizer, features, corpus.stream)
    if settings.training.dry_run:
        return end_dry_run(trainer, corpus, features, settings, console)
    begin_run_folder(settings, environment, trainer, checkpoint)
    metrics |= train_model(trainer, settings, checkpoint, console)

    # 8. Save the model, at the root of the run folder
    keep_for_reranking(trainer.model, tokenizer, corpus, settings)
    save_model(trainer, settings, checkpoint)

    # 9. Evaluate
    metrics |= evaluate_model(trainer, corpus, features, settings)

    # 10. Write the report
    write_report(trainer, metrics, settings)
    trainer.end()  # closes trackers and the group of processes

    # 11. Publish, and print the figures
    publish_and_print(repo, settings, console)


def end_dry_run(
    trainer: DialogueTrainer, corpus: Corpus, features: dict, settings: Settings, console: Console
) -> None:
    """Show what the run would be, and leave no more than that page."""
    if settings.main_process:
        rmtree(settings.run_dir / run_folder.TRIAL_TOKENIZER, ignore_errors=True)
        preview(trainer, corpus, features, settings, console)
    trainer.end()


def check_publishing(settings: Settings) -> str | None:
    """Return the repository that the run is for, if any; refuse what the Hub would refuse."""
    training = settings.training
    if not (training.given["push_to_hub"] and settings.main_process):
        return None
    licences.check_terms(settings.data.license, settings.data.language)
    name = training.hub_model_id or settings.run_dir.resolve().name
    publication = publish_model.prepare(training.output_dir, name, **hub_options(settings))
    publish_model.check_target(publication, publish_model.MODEL)
    return publication.repo


def check_rejected_is_read(corpus: Corpus, settings: Settings) -> None:
    """Refuse to make rejected replies where the data has them, such as votes."""
    has_rejected = any("rejected_not_read" in counts for counts in corpus.problems.values())
    if settings.trains(settings.preferences) and has_rejected:
        raise UsageError(
            f"{settings.data.data or settings.data.dataset_name} has a column rejected, but "
            "negatives makes other rejected replies: set --negatives null to learn from those of "
            "the data, or take the column out."
        )


def describe_environment(corpus: Corpus, settings: Settings, publishes: bool) -> dict:
    """Describe what the run is made with; if it is to be published, refuse what forbids that."""
    train = corpus.rows["train"]
    environment = run_folder.environment(settings.training.world_size, fingerprint(train))
    validation = corpus.rows.get("validation")
    environment["validation_data"] = None if validation is None else fingerprint(validation)
    environment["corpus"] = recognise([train])
    environment["learnt_from_train"] = learns_from_train(settings, environment["training_data"])
    if publishes:  # said now, not after the training
        licences.data_terms(settings.as_config(), environment)
    return environment


def learns_from_train(settings: Settings, training_data: str) -> bool:
    """Tell whether the model learns from this train split, or comes from a run that has."""
    if settings.training.do_train:
        return True
    base = Path(find_model(settings.model.model_name_or_path))
    before = run_folder.read_mapping(base / "environment.json")
    return before.get("learnt_from_train", True) and before.get("training_data") == training_data


def settle_evaluation(corpus: Corpus, settings: Settings, console: Console) -> Settings:
    """Leave out the evaluations while training where there are no validation pairs."""
    if "validation" in corpus.rows or settings.training.eval_strategy == "no":
        return settings
    console.print("No validation pairs: the last checkpoint is kept, not the best.")
    return settings.without_evaluation()


def load_or_train_tokenizer(settings: Settings, corpus: Corpus, begins: bool, console: Console):
    """Load the tokenizer; where none is named, train one as the run begins."""
    model_args, data_args = settings.model, settings.data
    trained = settings.run_dir / "tokenizer"
    if settings.training.dry_run:  # what a run has there is its own
        trained = trained.with_name(run_folder.TRIAL_TOKENIZER)
    named = model_args.tokenizer_name_or_path or model_args.model_name_or_path
    with settings.training.main_process_first(local=False, desc="training the tokenizer"):
        if named is None and begins and settings.main_process:
            console.print(f"Training a sentencepiece tokenizer of {model_args.vocab_size:,} pieces")
            train_tokenizer(utterances(corpus.rows["train"]), model_args.vocab_size, trained)
    return load_tokenizer(model_args, data_args.max_source_length, trained)


def prepare_model(settings: Settings, tokenizer, console: Console):
    """Load or make the model, with its decoding settings."""
    dtype = settings.lora.lora_base_dtype if settings.trains(settings.lora) else "float32"
    model = load_model(settings.model, tokenizer, dtype)
    check_lengths(model, settings.data, settings.decoding)
    check_model(model, settings.training)
    model.generation_config = generation_config(settings.decoding, model)
    console.print(f"{type(model).__name__}: {model.num_parameters():,} parameters")
    return model


def adapt_model(settings: Settings, model, tokenizer, console: Console):
    """Add what LoRA trains, where it is asked for; the model itself is frozen then."""
    if not settings.trains(settings.lora):
        return model
    model = add_adapter(model, settings.lora, tokenizer, settings.model.model_revision)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    console.print(f"LoRA of rank {settings.lora.lora_r}: {trained:,} parameters are trained")
    return model


def build_trainer(
    settings: Settings, model, tokenizer, features: dict, stream: Stream | None
) -> DialogueTrainer:
    """Make the trainer; on a CPU, let the process keep the memory that its steps free."""
    if settings.training.device.type == "cpu":
        keep_freed_memory()
    metric = ReplyMetric(keep_in_memory=True, cache_dir=settings.data.data_cache)
    trainer_class, options = DialogueTrainer, {}
    if settings.trains(settings.adversarial):
        trainer_class, options["adversarial"] = AdversarialTrainer, settings.adversarial
    if settings.trains(settings.objectives):
        trainer_class = ObjectiveTrainer
        options["objectives"] = settings.objectives.objective_weights()
    if settings.trains(settings.preferences):
        trainer_class, options["preferences"] = PreferenceTrainer, settings.preferences
        options["data"] = settings.data
    sources = parse_sources(settings.data.data)
    if sources and stream is None:  # a stream is drawn by weight while it is read
        options["source_weights"] = {source.name: source.weight for source in sources}
    batches = StreamedBatches(stream.train, tokenizer, settings.data) if stream else None
    trainer = trainer_class(
        model,
        settings.training,
        tokenizer,
        train_dataset=batches or features["train"],
        eval_dataset=features.get("validation"),
        compute_metrics=lambda p: metric.compute(
            predictions=p.predictions, references=p.label_ids, language=settings.data.language
        ),
        **options,
    )
    patience = settings.training.early_stopping_patience
    if patience is not None:
        trainer.add_callback(EarlyStoppingCallback(patience))
    return trainer


def begin_run_folder(
    settings: Settings, environment: dict, trainer, checkpoint: Path | None
) -> None:
    """Write what the run is made with, by which the same command goes on after an interruption.

    Removes `metrics.json` and the manifest, unless the training is finished: what a shorter one
    has left is no result of this one.
    """
    if not settings.main_process:
        return
    run_dir = settings.run_dir
    run_dir.mkdir(parents=True, exist_ok=True)
    if checkpoint != run_dir:
        for name in ("metrics.json", checkpoints.MANIFEST):
            (run_dir / name).unlink(missing_ok=True)
    environment["tokens_per_batch"] = trainer.args.tokens_per_batch
    run_folder.write_yaml(run_dir / "config.yaml", settings.as_config())
    run_folder.write_json(run_dir / "environment.json", environment)


def train_model(
    trainer: DialogueTrainer, settings: Settings, checkpoint: Path | None, console: Console
) -> dict:
    """Train, from the checkpoint if there is one; return how far it came."""
    if not settings.training.do_train:
        return {}
    if checkpoint is not None:
        console.print(f"Going on from {checkpoint}")
    try:
        result = trainer.train(resume_from_checkpoint=checkpoint and str(checkpoint))
    except Diverged:
        trainer.end()
        raise
    if trainer.stop.stopped:
        trainer.end()
        raise Stopped(
            f"A checkpoint holds step {result.global_step}: the same command goes on from there.",
            trainer.stop.received or signal.SIGTERM,
        )
    outcome = {"steps": result.global_step, "best_step": trainer.state.best_global_step}
    if settings.adversarial.is_on:
        outcome["collapse"] = trainer.collapse
    return {"train": outcome}


def keep_for_reranking(model, tokenizer, corpus: Corpus, settings: Settings) -> None:
    """Keep with the model the texts that its `rerank` needs.

    They are what it says too often, by its greedy replies, and a few turns of other dialogues.
    """
    weights = settings.decoding.rerank_weights()
    wanted = {name.removesuffix("_sum") for name, weight in weights.items() if weight}
    if not wanted & NEEDED_TEXTS.keys():
        return
    rows = corpus.rows.get("validation", corpus.rows["train"])
    contexts = rows["context"][:RERANK_CONTEXTS]
    if "stock" in wanted:
        greedy = {"candidates": 1, "do_sample": False, "num_beams": 1, "guidance_weight": 0.0}
        replies = generate_responses(contexts, model.eval(), tokenizer, **greedy)
        written = {normalised(reply): reply for reply in replies}
        phrases = stock_phrases([normalised(reply) for reply in replies])
        model.generation_config.stock_phrases = sorted(written[phrase] for phrase in phrases)
    if "other_contexts" in wanted:
        turns = list(dict.fromkeys(context[-1] for context in contexts))
        places = range(0, len(turns), -(-len(turns) // OTHER_CONTEXTS))
        model.generation_config.other_contexts = [turns[place] for place in places]


def save_model(trainer: DialogueTrainer, settings: Settings, checkpoint: Path | None) -> None:
    """Save the model with its code, or its adapter, and the history of the training.

    From there on the adapter is merged, in memory or in the folder, too. A model that came from the
    run folder itself stays there as it is.
    """
    run_dir = settings.run_dir
    if checkpoint == run_dir:
        return save_decoding(trainer, run_dir)
    if settings.lora.lora_merge:
        trainer.merge_adapter()
    trainer.save_model(str(run_dir))
    if settings.main_process:
        if not has_adapter(trainer.model):
            artifact.finish(run_dir)
        if settings.training.do_train:
            trainer.state.save_to_json(str(run_dir / "trainer_state.json"))
            pictures.save_curves(trainer.state.log_history, run_dir / "curves.png")
        checkpoints.seal_run(run_dir, without=checkpoints.RESULTS)
    trainer.merge_adapter()


def save_decoding(trainer: DialogueTrainer, run_dir: Path) -> None:
    """Save how the whole model in a run folder decodes, which may have changed; nothing else.

    Its weights may be there alone, so they are not written. A stop in between leaves a model that
    counts as whole: the manifest first lets go of the files that are replaced.
    """
    if trainer.args.should_save:
        results = checkpoints.RESULTS
        checkpoints.seal_run(run_dir, without=(*results, *artifact.DECODING_FILES))
        part = run_dir / f"{artifact.DECODING_FILE}{run_folder.PART}"
        trainer.model.generation_config.save_pretrained(run_dir, part.name)
        part.replace(run_dir / artifact.DECODING_FILE)
        if not has_adapter(trainer.model):
            artifact.finish_config(run_dir)
        checkpoints.seal_run(run_dir, without=results)
    trainer.merge_adapter()


def publish_and_print(repo: str | None, settings: Settings, console: Console) -> None:
    """Publish a finished run as its settings say; print its figures, whatever the Hub says."""
    try:
        if repo is not None:
            publish_model.publish(settings.run_dir, repo, **hub_options(settings))
    finally:
        if settings.main_process:
            print_run(settings.run_dir, console)


def hub_options(settings: Settings) -> dict:
    """Return how the settings of a run say that it is published; see `Publication`."""
    return {
        "private": bool(settings.training.hub_private_repo),
        "revision": settings.training.hub_revision or "main",
        "license": settings.data.license,
        "language": settings.data.language,
    }
