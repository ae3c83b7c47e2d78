"""The results of a training: figures, replies, a few dialogues of the model, the page of all."""

from .. import run_folder
from ..data.corpus import Corpus
from ..evaluation import scoring
from ..evaluation.metrics import unigram_perplexity
from ..serve.selfchat import sample_talks
from ..settings import Settings
from ..training import checkpoints
from ..training.sharding import is_sharded
from ..training.trainer import DialogueTrainer
from . import page


def evaluate_model(
    trainer: DialogueTrainer, corpus: Corpus, features: dict, settings: Settings
) -> dict:
    """Return figures by split: likelihood on validation, all on test or in its place validation."""
    training, split, metrics = settings.training, corpus.evaluated_split, {}
    replies = training.do_predict and split in features
    if training.do_eval and "validation" in features and not (replies and split == "validation"):
        metrics["validation"] = trimmed(trainer.evaluate(), "eval_")
    if replies:
        output = trainer.predict(features[split])
        labels = (features[name]["labels"] for name in ("train", split))
        unigram = unigram_perplexity(*labels, vocab_size=len(trainer.processing_class))
        metrics[split] = trimmed(output.metrics, "test_") | {"unigram_perplexity": unigram}
        if settings.main_process:
            write_evaluation(output.predictions, corpus, settings)
    return metrics


def write_evaluation(outputs: list[dict], corpus: Corpus, settings: Settings) -> None:
    """Write the replies to the run folder, and how they compare with those of the baselines."""
    run_dir, split = settings.run_dir, corpus.evaluated_split
    predictions = run_folder.join_predictions(corpus.rows[split], outputs, corpus.clean)
    run_folder.write_jsonl(run_dir / "predictions.jsonl", predictions)
    evaluation = scoring.evaluate(
        predictions,
        corpus.rows["train"],
        corpus.rows[split],
        corpus.clean,
        split,
        vars(settings.decoding),
        spaced=not settings.data.detokenize,
        multireference=corpus.references,
        seed=settings.training.seed,
        language=settings.data.language,
    )
    if corpus.overlap_counts:
        evaluation["overlap"] = corpus.overlap_counts
    if corpus.stream is not None:  # what baselines, `copied` and the unigram model know of it
        evaluation["first_training_pairs"] = len(corpus.rows["train"])
    run_folder.write_json(run_dir / "evaluation.json", evaluation)


def trimmed(metrics: dict, prefix: str) -> dict:
    """Take the prefix off metrics, and out what Trainer computes for batches of fixed size."""
    names = {name: name.removeprefix(prefix) for name in metrics if name.startswith(prefix)}
    return {new: metrics[old] for old, new in names.items() if new != "steps_per_second"}


def write_self_chat(trainer: DialogueTrainer, settings: Settings) -> None:
    """Write a few dialogues of the model with itself, where it has replied to test pairs."""
    run_dir = settings.run_dir
    has_replies = settings.training.do_predict and (run_dir / "predictions.jsonl").is_file()
    if not (settings.main_process and has_replies) or is_sharded(trainer):
        return
    predictions = run_folder.read_predictions(run_dir)
    rows = sample_talks(run_dir.name, trainer.model, trainer.processing_class, predictions)
    if rows:
        run_folder.write_jsonl(run_dir / run_folder.TALKS, rows)


def write_report(trainer: DialogueTrainer, metrics: dict, settings: Settings) -> None:
    """Write what the page shows, the figures among them, and the page: the run is complete then."""
    run_dir = settings.run_dir
    write_self_chat(trainer, settings)
    if settings.main_process:
        run_folder.write_json(run_dir / "metrics.json", metrics)
        page.write(run_dir)
        checkpoints.seal_run(run_dir)
