"""A run as one page to read, report.html, made from what the run folder holds.

It needs neither network nor script: tables and pictures (SVG) are in the file, for light and dark
screens. This module decides what is shown, the template how it looks.
"""

import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml
from sacrebleu.metrics import CHRF

from ..errors import UsageError
from ..evaluation.catalogue import METRICS, keys_with
from ..evaluation.scoring import HUMAN
from ..run_folder import TALKS, VOTES, read_config, read_mapping, read_predictions, write_text
from ..serve.votes import pair, ranking, read_votes, tally
from .licences import data_name
from .pictures import PALETTE, curve_pictures, group_pictures, rankings
from .selfchat import read_transcripts
from .tables import (
    diversity_tables,
    figures_of_splits,
    overlap,
    render,
    score_tables,
    table,
    unknown_tokens,
)

SEED = 42  # of the draw of samples
BEST, WORST, DRAWN = 6, 6, 8  # samples
NOT_LEARNT_FROM = "the train split of these data, which this run did not learn from"


def choose_samples(predictions: list[dict]) -> list[tuple[str, list[dict]]]:
    """Choose pairs by rule: the likest to their references, the least like, and drawn ones.

    Likeness is chrF of the sentence (Popović, 2015); ties are broken by lot. The rest is cut into
    even stretches, and one pair is drawn from each. Predictions come with their `chrf`.
    """
    chrf, draw = CHRF(), random.Random(SEED)
    scores = [chrf.sentence_score(row["reply"], [row["reference"]]).score for row in predictions]
    lot = draw.sample(range(len(scores)), len(scores))
    ranked = sorted(lot, key=scores.__getitem__, reverse=True)
    best, rest = ranked[:BEST], ranked[BEST:]
    worst, rest = rest[-WORST:][::-1], sorted(rest[:-WORST])
    count = min(DRAWN, len(rest))
    parts = [rest[i * len(rest) // count : (i + 1) * len(rest) // count] for i in range(count)]
    drawn = [draw.choice(part) for part in parts]
    rules = {
        "Most like the reference: the highest chrF": best,
        "Least like it: the lowest chrF": worst,
        f"Drawn by lot: one of each of {count} even stretches of the rest, seed {SEED}": drawn,
    }
    return [
        (rule, [predictions[i] | {"chrf": scores[i]} for i in chosen])
        for rule, chosen in rules.items()
        if chosen
    ]


def describe(config: dict) -> str:
    """Name a run by its model, training and data: `T5 trained on dailydialog`."""
    new, model = config.get("new_model"), config.get("model_name_or_path") or "A model"
    how = "trained adversarially" if config.get("adversarial") else "fine-tuned"
    how = "trained by preferences" if config.get("dpo") else how
    if isinstance(new, dict):
        model, how = str(new.get("model_type", model)).upper(), "trained"
        if model == "RNN_SEQ2SEQ":
            sizes = {"cell": "gru", "attention": "multiplicative"} | new
            kind = f"with {sizes['attention']}".replace("with none", "without")
            model = f"{sizes['cell'].upper()} {kind} attention,"
    model = Path(model).name if Path(model).is_absolute() else model
    how = how if config.get("do_train", True) else "evaluated"
    data = config.get("data") or config.get("dataset_name") or "DailyDialog"
    return f"{model} {how} on {data_name(data)}"


def read(folder: Path) -> dict:
    """Collect what the page shows, and what it has in common with the model card."""
    if not (folder / "metrics.json").is_file():
        raise UsageError(
            f"{str(folder)!r} has no metrics.json: it is no finished run. Give the output_dir of "
            "run_seq2seq_dialog.py; the same command finishes a run that was stopped."
        )
    metrics, evaluation, state, environment = (
        read_mapping(folder / f"{name}.json")
        for name in ("metrics", "evaluation", "trainer_state", "environment")
    )
    config = read_config(folder)
    log, train = state.get("log_history", []), metrics.get("train", {})
    learnt_from_train = environment.get("learnt_from_train", True)
    chooses_best = config.get("do_train", True) and config.get("load_best_model_at_end", False)
    splits = [{"name": s, "metrics": metrics[s]} for s in ("validation", "test") if s in metrics]
    facts = {
        "Parameters": metrics.get("parameters"),
        **{
            f"{split.capitalize()} pairs": count
            for split, count in metrics.get("data", {}).get("pairs", {}).items()
        },
        "Optimizer steps": train.get("steps"),
        "Device": environment.get("device"),
        "Date": environment.get("date"),
    }
    documents = {"config.yaml": config, "environment.json": environment}
    layout = {"sort_keys": False, "allow_unicode": True, "width": 100}
    predictions = read_predictions(folder) if (folder / "predictions.jsonl").is_file() else []
    return {
        "name": folder.resolve().name,
        "title": describe(config),
        "facts": {k: f"{x:,}" if isinstance(x, int) else x for k, x in facts.items() if x},
        "metrics": metrics,
        "evaluation": evaluation,
        "environment": environment,
        "predictions": predictions,
        "scores": score_tables(evaluation.get("results", [])),
        "overlap": overlap(evaluation.get("overlap", {})),
        "unknown": unknown_tokens(metrics.get("data", {}).get("unknown", {})),
        "collapse": train.get("collapse"),
        "checks": table("Evaluations while training", "step", _checks(log), ("epoch", *METRICS)),
        "splits": table("Validation and test", "split", splits, figures_of_splits(metrics)),
        "log": log,
        "best_step": train.get("best_step") if chooses_best else None,
        "chosen_on_these": chooses_best and evaluation.get("split") == "validation",
        "learnt_from_train": learnt_from_train,
        "train_split": "the training data" if learnt_from_train else NOT_LEARNT_FROM,
        "samples": choose_samples(predictions),
        "talks": read_transcripts(folder / TALKS, most=3),
        "votes": vote_table(folder / VOTES),
        "documents": {k: yaml.safe_dump(x, **layout) for k, x in documents.items() if x},
        "picture": (folder / "curves.png").is_file(),
    }


def vote_table(path: Path) -> dict | None:
    """Lay out what people's votes on replies say of each model, the best first."""
    votes = read_votes(path) if path.is_file() else []
    models = list(dict.fromkeys(model for vote in votes for model in pair(vote)))
    ratings = (ranking(votes, models) or {}) if len(models) > 2 else {}
    rows = []
    for standing in tally(votes, models):
        figures = {"better": standing.wins, "worse": standing.losses, "tie": standing.ties}
        figures |= {"both_bad": standing.both_bad, "preferred": 100 * standing.share}
        intervals = {"preferred": [100 * share for share in standing.interval]}
        if standing.model in ratings:
            figures["Bradley-Terry"], *intervals["Bradley-Terry"] = ratings[standing.model]
        rows.append({"name": standing.model, "metrics": figures, "intervals": intervals})
    notes = [
        f"{len(votes):,} votes, without names.",
        "Preferred: percent of the votes that prefer one of two, with its 95 % interval.",
    ]
    if ratings:
        notes.append("Bradley-Terry: 400 more are ten times the odds to be preferred.")
    return table("Votes", "model", rows, notes=notes)


def _checks(log_history: Sequence[Mapping]) -> list[dict]:
    """Take the evaluations out of a log, without the prefix of their figures."""
    return [
        {
            "name": f"{row['step']:,}",
            "metrics": {key.removeprefix("eval_"): value for key, value in row.items()},
        }
        for row in log_history
        if "eval_loss" in row
    ]


def write(folder: str | Path) -> Path:
    """Write report.html into a finished run folder; return its path."""
    content = read(Path(folder))
    evaluation = content["evaluation"]
    results, diversity = evaluation.get("results", []), evaluation.get("diversity", {})
    percents = [
        METRICS[key].label
        for key in keys_with("main")
        if METRICS[key].scale == (0, 100) and any(key in row["metrics"] for row in results)
    ]
    content |= {
        "palette": PALETTE,
        "human": any(row["system"] == HUMAN for row in results),
        "percents": percents,
        "rankings": rankings(results),
        "curves": curve_pictures(content["log"], content["best_step"]),
        "diversity": diversity_tables(diversity),
        "groups": group_pictures(diversity),
    }
    path = Path(folder) / "report.html"
    write_text(path, render("page.html.jinja", content) + "\n")
    return path


def report(folder: str) -> None:
    """Write the report of a run and print where it is."""
    print(write(folder))
