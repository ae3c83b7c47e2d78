"""The card of a model on the Hub, README.md: what it is, how to call it, what it is worth.

What is said is decided here from what the run folder holds, how it reads in model_card.md.jinja.
Nothing of the machine is told: of a path the last part alone.
"""

import json
import math
import random
import re
import shlex
from collections.abc import Collection
from pathlib import Path, PureWindowsPath

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from ..data.known_corpora import DAILYDIALOG, SAMPLES
from ..data.transcripts import ASSISTANT
from ..data.turns import EVERYBODY
from ..evaluation import scoring
from ..evaluation.catalogue import METRICS, keys_with
from ..models.artifact import PIPELINE_CODE
from ..portable.context import TURN_SEPARATOR, count_background
from ..run_folder import read_mapping
from ..setting_fields import Mark
from ..settings import marked
from ..strict_yaml import read_yaml
from . import page
from .licences import DataTerms, check_terms, data_name, data_terms, read_origin_again
from .tables import render

GREETING = ["Hello! How are you?", "Fine, thanks. And you?", "Very well, thank you."]
EXAMPLES = (1, 2, 3)  # turns of the contexts that are examples
INDEXED = {  # what goes into the metadata besides the main figures of the default protocol
    "plato": ("plato_bleu_1", "plato_bleu_2"),
    "multiref": ("bleu_2", "rouge_l"),
}
SUBSETS = {"full": "all pairs", "clean": "clean pairs"}
PRIVATE = marked(Mark.PRIVATE)
PATHS = marked(Mark.PATH)  # settings that can name a file or folder
# What is a path wherever it stands.
PATH = re.compile(r"(?:[/\\]|~[^/\\]*[/\\]|\.\.?[/\\]|[A-Za-z]:[/\\]|file:).*", re.DOTALL)


def model_card(
    folder: Path,
    repo: str,
    license: str | None = None,
    revision: str = "main",
    language: str | None = None,
    samples: bool = True,
    private: bool = False,
) -> str:
    """Write README.md of a finished run; the other arguments are those of a `Publication`."""
    run = page.read(folder)
    config = without_speakers(read_yaml(folder / "config.yaml"))  # the page does without it
    environment = read_origin_again(config, run["environment"], hide_private=not private)
    metrics = run["metrics"]
    language = str(config.get("language", "en") if language is None else language)
    check_terms(license or config.get("license"), language)
    data = data_terms(config, environment, license)
    examples = draw_examples(run["predictions"]) if samples else []
    content = run | _training_facts(folder, config, environment, metrics, data)
    content |= _evaluation_facts(run["evaluation"], metrics, config, run["predictions"])
    content |= {
        "name": repo.split("/")[-1],
        "repo": repo,
        "revision": revision,
        "language": {"en": "English"}.get(language, language),
        "trust": "auto_map" in read_mapping(folder / "config.json"),
        "code": sorted({*PIPELINE_CODE, *(path.name for path in folder.glob("*.py"))}),
        "separator": TURN_SEPARATOR,
        "samples": run["samples"] if samples else [],
        "sample": examples[-1] if examples else None,
        "opening": examples[0]["turns"][0] if examples else GREETING[0],
        "turns": GREETING,
    }
    if examples and len(examples[-1]["turns"]) > 1:
        content["turns"] = examples[-1]["turns"]
    body = render("model_card.md.jinja", content)
    metadata = _metadata(content, measured(run["evaluation"], metrics, data), language, examples)
    return str(ModelCard(f"---\n{metadata.to_yaml()}\n---\n\n{body}\n"))


def _training_facts(
    folder: Path, config: dict, environment: dict, metrics: dict, data: DataTerms
) -> dict:
    """Collect for the template what the model is made of and how it was trained."""
    from_hub = environment.get("from_hub", {})
    public, paths = public_settings(config, from_hub)
    commits = {"dataset_revision": "dataset_name", "model_revision": "model_name_or_path"}
    public |= {key: from_hub[name] for key, name in commits.items() if from_hub.get(name)}
    settings = yaml.safe_dump(public, sort_keys=False, allow_unicode=True, width=100)
    longest_fence = max(map(len, re.findall("`+", settings)), default=2)
    tokenizer = read_mapping(folder / "tokenizer.json")
    return {
        "title": page.describe(public | {"data": data.name}),
        "trained": config.get("do_train", True),
        "data": data,
        "dailydialog": DAILYDIALOG,
        "samples_name": SAMPLES,
        "pairs": metrics.get("data", {}).get("pairs", {}),
        "parameters": _count(metrics.get("parameters")),
        "pieces": len(tokenizer.get("model", {}).get("vocab", ())) or None,
        "config": public,
        "base_model": config["model_name_or_path"] if "model_name_or_path" in from_hub else None,
        "base_commit": from_hub.get("model_name_or_path"),
        "settings": settings,
        "fence": "`" * (longest_fence + 1),
        "paths": {key: shlex.quote(f"path/to/{path}") for key, path in paths.items()},
    }


def without_speakers(config: dict) -> dict:
    """Take out of the settings of an anonymous run what may name a speaker, such as file names."""
    if not config.get("anonymize"):
        return config
    kept = dict(config)
    if kept.get("respond_as") not in (None, ASSISTANT, EVERYBODY):
        del kept["respond_as"]
    if kept.get("data"):
        kept["data"] = "dialogues"
    return kept


def public_settings(config: dict, from_hub: Collection[str]) -> tuple[dict, dict]:
    """Take out of settings what is about the machine: of paths, all but the last part.

    Returns also those that were paths; `from_hub` lists those that are names on the Hub.
    """
    hub_names = {config.get(key) for key in from_hub}
    path_names = {
        key: data_name(value)
        for key, value in config.items()
        if key in PATHS and value and not isinstance(value, list) and value not in hub_names
    }
    public = {
        key: path_names.get(key) or _last_part(value)
        for key, value in config.items()
        if key not in PRIVATE and not key.endswith("token")
    }
    if isinstance(config.get("data"), list):
        public["data"] = [source | {"path": data_name(source["path"])} for source in config["data"]]
    return public, path_names


def _last_part(value):
    """Cut paths to their last part, wherever they stand in a setting, in JSON as well."""
    if isinstance(value, dict):
        return {key: _last_part(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_last_part(each) for each in value]
    if not isinstance(value, str):
        return value
    try:
        inner = json.loads(value)
    except ValueError:
        return PureWindowsPath(value).name if PATH.fullmatch(value) else value
    shared = _last_part(inner)
    return value if shared == inner else json.dumps(shared, ensure_ascii=False)


def _evaluation_facts(
    evaluated: dict, metrics: dict, config: dict, predictions: list[dict]
) -> dict:
    """Collect for the template what was measured, besides the tables of the page."""
    sizes = {row["subset"]: row["pairs"] for row in evaluated.get("results", ())}
    split = evaluated.get("split", "test")
    replies = [row["reply"] for row in predictions]
    return {
        "split": split,
        "likelihood": metrics.get(split) or metrics.get("validation", {}),
        "sizes": sizes,
        "subsets": SUBSETS,
        # The clean pairs come first; all pairs are not shown twice.
        "shown": [s for s in reversed(sizes) if s == "full" or sizes[s] != sizes["full"]],
        "decoding": scoring.describe_decoding(config) if "do_sample" in config else None,
        "one_reply": replies[0] if len(replies) > 1 and len(set(replies)) == 1 else None,
        "diversity": evaluated.get("diversity", {}).get(scoring.MODEL, {}).get("full"),
    }


def _metadata(
    content: dict, results: list[EvalResult], language: str, examples: list[dict]
) -> ModelCardData:
    """Make what the Hub reads of the card."""
    data = content["data"]
    metric_types = dict.fromkeys(result.metric_type for result in results)
    hub_types = {metric.hub_type for metric in METRICS.values()} - {None}
    widget = [
        {"text": f" {TURN_SEPARATOR} ".join(row["context"]), "output": {"text": row["reply"]}}
        for row in examples
    ]
    return ModelCardData(
        language=language,
        license=data.license,
        library_name="transformers",
        pipeline_tag="text-generation",
        # Not "conversational": for it the Hub prints code that cuts the prompt's length off replies
        tags=["text2text-generation", "dialogue", "custom_code"],
        base_model=content["base_model"],
        datasets=[data.id] if data.id and content["trained"] else None,
        metrics=[name for name in metric_types if name in hub_types] or None,
        widget=widget or None,
        model_name=content["name"],
        eval_results=results or None,
    )


def measured(evaluated: dict, metrics: dict, data: DataTerms) -> list[EvalResult]:
    """List the model's figures for the metadata; without an evaluation, those of metrics.json."""
    rows = [row for row in evaluated.get("results", ()) if row["system"] == scoring.MODEL]
    sizes = {row["subset"]: row["pairs"] for row in rows}
    if sizes.get("clean") == sizes.get("full"):  # all pairs are clean: the same figures
        rows = [row for row in rows if row["subset"] != "clean"]
    rows = rows or [
        {"protocol": "default", "subset": "full", "split": split, "metrics": metrics[split]}
        for split in ("validation", "test")
        if split in metrics
    ]
    results = []
    indexed = INDEXED | {"default": keys_with("main")}
    for row in rows:
        for key in indexed.get(row["protocol"], ()):
            value = row["metrics"].get(key)
            if value is None or not math.isfinite(value):
                continue
            label = f"{METRICS[key].label} ({SUBSETS[row['subset']]})"
            if row["protocol"] == "multiref":
                label = label.replace(")", ", best of several references)")
            names = ("protocol", "subset", "pairs", "decoding", "signature")
            args = {name: row.get(name) for name in names}
            interval = row.get("intervals", {}).get(key)
            if interval and all(map(math.isfinite, interval)):
                args["confidence_interval_95"] = [round(bound, 2) for bound in interval]
            results.append(
                EvalResult(
                    task_type="text-generation",
                    task_name="Dialogue response generation",
                    dataset_type=data.id or "custom",
                    dataset_name=data.name,
                    dataset_split=row["split"],
                    metric_type=METRICS[key].hub_type or key,
                    metric_name=label,
                    metric_value=round(value, 2),
                    metric_args={name: each for name, each in args.items() if each},
                )
            )
    return results


def draw_examples(predictions: list[dict]) -> list[dict]:
    """Draw replies to show, by lot, one to a context of each number of turns in `EXAMPLES`.

    Each is drawn from the quarter of such contexts that has the fewest letters, of clean pairs if
    there are any. Its context is also given in two parts, `background` and `turns`.
    """
    draw, drawn = random.Random(page.SEED), []
    rows = [_parted(row) for row in predictions if row.get("clean")]
    rows = rows or [_parted(row) for row in predictions]
    for turns in EXAMPLES:
        group = [row for row in rows if len(row["turns"]) == turns]
        group.sort(key=lambda row: len("".join(row["context"])))
        if group:
            drawn.append(draw.choice(group[: math.ceil(len(group) / 4)]))
    return drawn


def _parted(row: dict) -> dict:
    """Tell the turns of a prediction's context from what stands before the dialogue."""
    context, count = row["context"], count_background(row["context"])
    return row | {"background": context[:count], "turns": context[count:]}


def _count(number: int | None) -> str | None:
    """Write a count for people, in millions from one million on."""
    if number is None or number < 1_000_000:
        return number and f"{number:,}"
    return f"{number / 1e6:,.{1 if number < 1e8 else 0}f} million"
