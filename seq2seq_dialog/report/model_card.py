"""The card of a model on the Hub, README.md: what it is, how to call it, what it is worth.

What is said is decided here from what the run folder holds, how it reads in model_card.md.jinja.
Nothing of the machine is told: of a path the last part alone.
"""

from __future__ import annotations

import json
import math
import random
import re
import shlex
from collections.abc import Callable, Collection, Mapping
from pathlib import Path, PureWindowsPath

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ..errors import UsageError
from ..evaluation import scoring
from ..portable.context import TURN_SEPARATOR
from ..run_folder import read_json, read_jsonl, read_yaml
from . import page

DAILYDIALOG, SAMPLES = "DailyDialog", "the sample corpus of seq2seq-dialog"
DAILYDIALOG_ID = "li2017dailydialog/daily_dialog"  # its authors' own, on the Hub
DAILYDIALOG_PAIRS = {76_052, 89_862}  # of the official training split, and of all in one file
SAMPLES_COUNTS = {"dialogues": 400, "utterances": 2790, "pairs": 2390}
LICENSES = {DAILYDIALOG: "cc-by-nc-sa-4.0", SAMPLES: "apache-2.0"}
# Settings that are about a machine or an account, not about the model.
PRIVATE = {"output_dir", "data_cache", "logging_dir", "run_name", "report_to", "hub_model_id"}
PRIVATE |= {"push_to_hub", "hub_private_repo", "hub_revision", "hub_strategy", "project"}
PRIVATE |= {"trackio_space_id", "trackio_bucket_id", "trackio_static_space_id"}
# Settings that can name a file or folder, and what is one wherever it stands.
PATHS = ("data", "dataset_name", "model_name_or_path", "tokenizer_name_or_path", "multireference")
PATH = re.compile(r"(?:[/\\]|~[^/\\]*[/\\]|\.\.?[/\\]|[A-Za-z]:[/\\]|file:).*", re.DOTALL)
LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]*")  # as the Hub spells them; openrail++ is one
LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Z]{2})?")
GREETING = ["Hello! How are you?", "Fine, thanks. And you?", "Very well, thank you."]
EXAMPLES = (1, 2, 3)  # turns of the contexts that are examples
# What of each protocol goes into the metadata, and what the Hub calls the metrics.
INDEXED = {"default": page.MAIN, "plato": ("plato_bleu_1", "plato_bleu_2")}
INDEXED |= {"multiref": ("bleu_2", "rouge_l")}
METRIC_TYPES = {"perplexity": "perplexity", "bleu": "sacrebleu", "chrf": "chrf"}
METRIC_TYPES |= {"rouge_l": "rouge", "distinct_2": "distinct"}  # the others are kinds of bleu
ON_HUB = ("perplexity", "sacrebleu", "bleu", "chrf", "rouge")  # "distinct" it has not
SUBSETS = {"full": "all pairs", "clean": "clean pairs"}


def model_card(
    folder: Path,
    repo: str,
    license: str | None = None,
    revision: str = "main",
    language: str | None = None,
    samples: bool = True,
) -> str:
    """Write the card of a finished run.

    Args:
        folder: the run folder.
        repo: `user/name`, where the model will be.
        license: of the dialogues, as the Hub names it; by default what the run's settings say or
            what is known of the data.
        revision: the branch where the model will be.
        language: of the dialogues; by default what the run's settings say.
        samples: show exchanges of the test set.

    Returns:
        README.md: metadata as YAML, then Markdown.

    Raises:
        UsageError: the folder is no finished run, a file of it cannot be read, or the licence or
            language is none, or not that of DailyDialog.
    """
    folder, name = Path(folder), repo.split("/")[-1]
    names = ("environment", "metrics", "config", "evaluation", "trainer_state")
    environment, metrics, model, *_ = (_mapping(folder / f"{name}.json") for name in names)
    predictions = _read(folder / "predictions.jsonl", read_jsonl, _are_predictions, [])
    if (folder / "metrics.json").is_file():  # or else page.read refuses the folder
        config = read_yaml(folder / "config.yaml")
    found = page.read(folder)
    evaluated = found["evaluation"]
    from_hub = environment.get("from_hub", {})
    public, paths = shareable(config, from_hub)
    for key, commit in (
        ("dataset_name", "dataset_revision"),
        ("model_name_or_path", "model_revision"),
    ):
        if from_hub.get(key):
            public[commit] = from_hub[key]
    base_model = config["model_name_or_path"] if "model_name_or_path" in from_hub else None
    settings = yaml.safe_dump(public, sort_keys=False, allow_unicode=True, width=100)
    language = str(config.get("language", "en") if language is None else language)
    check_terms(license or config.get("license"), language)
    data = source(config, metrics, environment, license)
    trained = config.get("do_train", True)
    drawn = examples(predictions) if samples else []
    sizes = {row["subset"]: row["pairs"] for row in evaluated.get("results", ())}
    split = evaluated.get("split", "test")
    content = found | {
        "name": name,
        "repo": repo,
        "revision": revision,
        "title": page.describe(public | {"data": data["name"]}),
        "language": {"en": "English"}.get(language, language),
        "trained": trained,
        "data": data,
        "dailydialog": DAILYDIALOG,
        "samples_name": SAMPLES,
        "pairs": metrics.get("data", {}).get("pairs", {}),
        "parameters": _count(metrics.get("parameters")),
        "pieces": _pieces(folder / "tokenizer.json"),
        "trust": "auto_map" in model,
        "code": sorted(path.name for path in folder.glob("*.py")),
        "separator": TURN_SEPARATOR,
        "samples": found["samples"] if samples else [],
        "sample": drawn[-1] if drawn else None,
        "opening": drawn[0]["context"][0] if drawn else GREETING[0],
        "turns": drawn[-1]["context"] if drawn and len(drawn[-1]["context"]) > 1 else GREETING,
        "split": split,
        "likelihood": metrics.get(split) or metrics.get("validation", {}),
        "sizes": sizes,
        "subsets": SUBSETS,
        # the clean ones first, and nothing twice
        "shown": [s for s in reversed(sizes) if s == "full" or sizes[s] != sizes["full"]],
        "decoding": scoring.describe(config) if "do_sample" in config else None,
        "manners": evaluated.get("quality", {}).get(scoring.MODEL, {}).get("full"),
        "config": public,
        "environment": environment,
        "base_model": base_model,
        "base_commit": from_hub.get("model_name_or_path"),
        "metrics": metrics,
        "settings": settings,
        "fence": "`" * (1 + max(map(len, re.findall("`+", settings)), default=2)),
        "paths": {key: shlex.quote(f"path/to/{path}") for key, path in paths.items()},
    }
    options = {"loader": FileSystemLoader(Path(__file__).parent), "undefined": StrictUndefined}
    options |= {"autoescape": True, "trim_blocks": True, "lstrip_blocks": True}
    templates = Environment(finalize=page.markdown, **options)
    templates.filters |= {"figure": page.figure}
    templates.filters["literal"] = lambda text: Markup(json.dumps(text, ensure_ascii=False))
    body = templates.get_template("model_card.md.jinja").render(content).strip()
    results = measured(evaluated, metrics, data)
    known = {result.metric_type for result in results}
    contexts = [f" {TURN_SEPARATOR} ".join(row["context"]) for row in drawn]
    metadata = ModelCardData(
        language=language,
        license=data["license"],
        library_name="transformers",
        pipeline_tag="text-generation",
        # Not "conversational": for it the Hub prints code that cuts the prompt's length off replies
        tags=["text2text-generation", "dialogue", "custom_code"],
        base_model=base_model,
        datasets=[data["id"]] if data["id"] and trained else None,
        metrics=[name for name in ON_HUB if name in known] or None,
        widget=[
            {"text": context, "output": {"text": row["reply"]}}
            for context, row in zip(contexts, drawn, strict=True)
        ]
        or None,
        model_name=name,
        eval_results=results or None,
    )
    return str(ModelCard(f"---\n{metadata.to_yaml()}\n---\n\n{body}\n"))


def source(
    config: Mapping, metrics: Mapping, environment: Mapping, license: str | None = None
) -> dict:
    """Tell what the model was trained on, and by which licence.

    A model that was only evaluated has no licence from these data. One that was begun from another
    run has the licence of that run's data if that is the stricter.

    Args:
        environment: of environment.json, `from_hub`, `dataset_license` and `inherited`.
        license: what is given for the data, before what the settings say.

    Returns:
        `name` for people; `id` on the Hub or None; `license` of the model or None; `data_license`
        and `origin`, who says so: `known` here, `given` or the data set's `card`, or None;
        `inherited`, name and licence of other data it was trained on before, or None.

    Raises:
        UsageError: DailyDialog is given another licence than its own.
    """
    about, from_hub = metrics.get("data", {}), environment.get("from_hub", {})
    splits, files = about.get("pairs", {}), about.get("problems", {})
    counts = {*splits.values(), sum(splits.values()), *(f.get("pairs") for f in files.values())}
    given = (license or config.get("license") or "").strip().lower() or None
    given_data = config.get("data") or config.get("dataset_name")
    dataset = config["dataset_name"] if "dataset_name" in from_hub else None
    name = dataset or PureWindowsPath(str(given_data or DAILYDIALOG)).name
    files_pairs = sum(f.get("pairs", 0) for f in files.values())
    if {*counts, files_pairs} & DAILYDIALOG_PAIRS or given_data is None:
        name, dataset = DAILYDIALOG, dataset or DAILYDIALOG_ID
    elif any(SAMPLES_COUNTS.items() <= counted.items() for counted in files.values()):
        name = SAMPLES
    trained = config.get("do_train", True)
    own = LICENSES.get(name) if trained else None
    if own and name == DAILYDIALOG and given not in (None, own):
        raise UsageError(
            f"The licence of a model trained on DailyDialog cannot be {given!r}: the data are "
            f"{own.upper()} (no commercial use, share alike), which the model inherits. Leave the "
            f"licence out, or give {own}."
        )
    card = str(environment.get("dataset_license") or "").lower() if trained else ""
    said = {"given": given if given != own else None, "known": own}
    said |= {"card": card if LICENSE.fullmatch(card) else None}
    origin = next((who for who in said if said[who]), None)
    data_license = binding = said.get(origin)
    inherited = environment.get("inherited")
    if inherited and inherited["license"] == data_license:
        inherited = None
    if inherited and (
        _strictness(inherited["license"]) > _strictness(data_license) or not (trained or given)
    ):
        binding = inherited["license"]
    found = {"name": name, "id": dataset, "license": binding, "data_license": data_license}
    return found | {"origin": origin, "inherited": inherited}


def _strictness(license: str | None) -> tuple[bool, ...]:
    """Order licences: no commercial use before no derivatives before share alike."""
    return tuple(term in (license or "").split("-") for term in ("nc", "nd", "sa"))


def inherited(folder: str | Path) -> dict | None:
    """Tell on what data a run was trained whose licence binds a model that is begun from it.

    Args:
        folder: where the model is begun from.

    Returns:
        `name` and `license`; None where that is no run folder or no licence is known.

    Raises:
        UsageError: a file of the run cannot be read.
    """
    folder = Path(folder)
    if not all((folder / name).is_file() for name in ("config.yaml", "metrics.json")):
        return None
    environment = _mapping(folder / "environment.json")
    config = read_yaml(folder / "config.yaml")
    data = source(config, _mapping(folder / "metrics.json"), environment)
    if data["license"] is None or data["license"] == data["data_license"]:
        return data["license"] and {"name": data["name"], "license": data["license"]}
    return data["inherited"]


def check_terms(license: str | None, language: str) -> None:
    """Refuse a licence or language that the Hub would not know, before long work.

    Raises:
        UsageError: says how they are spelt.
    """
    if license is not None and not LICENSE.fullmatch(str(license).strip().lower()):
        raise UsageError(
            f"license is {license!r}; it must be a name of "
            "https://huggingface.co/docs/hub/repositories-licenses, such as cc-by-4.0 or mit. Give "
            "other for a licence that is not there."
        )
    if not LANGUAGE.fullmatch(str(language)):
        raise UsageError(
            f"language is {language!r}; it must be a code of ISO 639: en, de, pt-BR, and in YAML "
            '"no" with quotation marks.'
        )


def shareable(config: dict, from_hub: Collection[str]) -> tuple[dict, dict]:
    """Take out of settings what is about the machine: of paths, all but the last part.

    Args:
        from_hub: the settings whose value is a name on the Hub.

    Returns:
        The settings, and those of them that were paths.
    """
    names = {config.get(key) for key in from_hub}
    public = {
        key: PureWindowsPath(str(value)).name
        if key in PATHS and value and value not in names
        else _last_part(value)
        for key, value in config.items()
        if key not in PRIVATE and not key.endswith("token")
    }
    return public, {
        key: public[key] for key in PATHS if public.get(key) and public[key] not in names
    }


def _last_part(value):
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


def measured(evaluated: dict, metrics: dict, data: dict) -> list[EvalResult]:
    """List the model's figures for the metadata; without an evaluation, those of metrics.json.

    Args:
        data: what `source` returns.
    """
    rows = [row for row in evaluated.get("results", ()) if row["system"] == scoring.MODEL]
    rows = rows or [
        {"protocol": "default", "subset": "full", "split": split, "metrics": metrics[split]}
        for split in ("validation", "test")
        if split in metrics
    ]
    results = []
    for row in rows:
        for key in INDEXED.get(row["protocol"], ()):
            value = row["metrics"].get(key)
            if value is None or not math.isfinite(value):
                continue
            label = f"{page.METRICS[key][0]} ({SUBSETS[row['subset']]})"
            if row["protocol"] == "multiref":
                label = label.replace(")", ", best of several references)")
            args = {key: row.get(key) for key in ("protocol", "subset", "pairs", "decoding")}
            args |= {"signature": row.get("signature")}
            interval = row.get("intervals", {}).get(key)
            if interval and all(map(math.isfinite, interval)):
                args["confidence_interval_95"] = [round(bound, 2) for bound in interval]
            results.append(
                EvalResult(
                    task_type="text-generation",
                    task_name="Dialogue response generation",
                    dataset_type=data["id"] or "custom",
                    dataset_name=data["name"],
                    dataset_split=row["split"],
                    metric_type=METRIC_TYPES.get(key, "bleu"),
                    metric_name=label,
                    metric_value=round(value, 2),
                    metric_args={name: each for name, each in args.items() if each},
                )
            )
    return results


def examples(predictions: list[dict]) -> list[dict]:
    """Draw replies to show, by lot, one to a context of each number of turns in `EXAMPLES`.

    Each is drawn from the quarter of such contexts that has the fewest letters, of clean pairs if
    there are any.
    """
    draw, drawn = random.Random(page.SEED), []
    rows = [row for row in predictions if row.get("clean")] or predictions
    for turns in EXAMPLES:
        group = [row for row in rows if len(row["context"]) == turns]
        group.sort(key=lambda row: len("".join(row["context"])))
        if group:
            drawn.append(draw.choice(group[: math.ceil(len(group) / 4)]))
    return drawn


def _pieces(path: Path) -> int | None:
    """Count what a tokenizer's vocabulary holds; None without a file."""
    return len(_mapping(path).get("model", {}).get("vocab", ())) or None


def _mapping(path: Path) -> dict:
    return _read(path, read_json, lambda content: isinstance(content, dict), {})


def _are_predictions(rows: list) -> bool:
    return all(
        isinstance(row, dict)
        and isinstance(row.get("context"), list)
        and all(isinstance(text, str) for text in (*row["context"], row.get("reply")))
        and isinstance(row.get("reference"), str)
        for row in rows
    )


def _read(path: Path, reader: Callable, valid: Callable, missing):
    """Read a file of a run; `missing` where there is none."""
    try:
        content = reader(path) if path.is_file() else missing
    except (OSError, ValueError) as error:
        raise UsageError(f"Cannot read {str(path)!r}: {error}. Copy the run again.") from error
    if not valid(content):
        raise UsageError(f"{str(path)!r} is not what a run writes there. Copy the run again.")
    return content


def _count(number: int | None) -> str | None:
    """Write a count for people, in millions from one million on."""
    if number is None or number < 1_000_000:
        return number and f"{number:,}"
    return f"{number / 1e6:,.{1 if number < 1e8 else 0}f} million"
