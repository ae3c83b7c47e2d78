"""Which data a model was trained on, and by which licence: what the model inherits from them."""

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath

from huggingface_hub import HfApi
from huggingface_hub.errors import HTTPError

from ..data.known_corpora import DAILYDIALOG, SAMPLES
from ..errors import UsageError
from ..run_folder import read_mapping, read_yaml
from ..settings import Settings

DAILYDIALOG_ID = "li2017dailydialog/daily_dialog"  # its authors' own, on the Hub
LICENSES = {DAILYDIALOG: "cc-by-nc-sa-4.0", SAMPLES: "apache-2.0"}
LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]*")  # as the Hub spells them; openrail++ is one
LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Z]{2})?")


@dataclass(frozen=True)
class DataTerms:
    """The data of a model and their licence; None is what is not known or not there."""

    name: str  # of the data, for people
    id: str | None  # of the data on the Hub
    license: str | None  # of the model
    data_license: str | None
    origin: str | None  # who says so: `given` by the publisher, `known` here, the data's `card`
    inherited: dict | None  # name and license of other data that the model was trained on before


def data_terms(config: Mapping, environment: Mapping, license: str | None = None) -> DataTerms:
    """Tell what a model was trained on, and by which licence.

    A model takes the licence of its training data. If it was begun from another run, the licence of
    that run's data counts, too, and the stricter one holds. A run that only evaluates a model gives
    it no licence. A `license` that is given comes before what the settings say; for DailyDialog,
    another than its own is refused.
    """
    data = config.get("data") or config.get("dataset_name")
    corpus = environment.get("corpus") if data else DAILYDIALOG
    dataset = config["dataset_name"] if "dataset_name" in environment.get("from_hub", {}) else None
    if corpus == DAILYDIALOG:
        dataset = dataset or DAILYDIALOG_ID
    name = corpus or dataset or data_name(data)
    trained = config.get("do_train", True)
    given = (license or config.get("license") or "").strip().lower() or None
    card = str(environment.get("dataset_license") or "").lower()
    known = LICENSES.get(corpus) if trained else None
    if known and corpus == DAILYDIALOG and given not in (None, known):
        raise UsageError(
            f"license is {given!r}, but these are dialogues of DailyDialog, which are "
            f"{known.upper()}: no commercial use, share alike. A model trained on them inherits "
            f"that. Leave the licence out, or give {known}."
        )
    sources = {
        "given": given if given != known else None,
        "known": known,
        "card": card if trained and LICENSE.fullmatch(card) else None,
    }
    origin = next((source for source, license in sources.items() if license), None)
    data_license = model_license = sources.get(origin)
    inherited = environment.get("inherited")
    if inherited and inherited["license"] == data_license:
        inherited = None
    if inherited and (
        _strictness(inherited["license"]) > _strictness(data_license) or not (trained or given)
    ):
        model_license = inherited["license"]
    return DataTerms(name, dataset, model_license, data_license, origin, inherited)


def data_name(data: str | list[dict]) -> str:
    """Name the data of a run: the last part of the path, or of the path of each source."""
    if isinstance(data, list):
        return ", ".join(source.get("name") or data_name(source["path"]) for source in data)
    return PureWindowsPath(str(data)).name


def _strictness(license: str | None) -> tuple[bool, ...]:
    """Order licences: no commercial use before no derivatives before share alike."""
    return tuple(term in (license or "").split("-") for term in ("nc", "nd", "sa"))


def inherited_terms(folder: str | Path) -> dict | None:
    """Give name and license of a run's data that bind a model begun from it, None if not known."""
    folder = Path(folder)
    if not all((folder / name).is_file() for name in ("config.yaml", "metrics.json")):
        return None
    environment = read_mapping(folder / "environment.json")
    terms = data_terms(read_yaml(folder / "config.yaml"), environment)
    if terms.license is None:
        return None
    if terms.license == terms.data_license:
        return {"name": terms.name, "license": terms.license}
    return terms.inherited


def check_terms(license: str | None, language: str) -> None:
    """Refuse a licence or language that the Hub would not know, before long work."""
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


def describe_origin(settings: Settings, model) -> dict:
    """Describe what a run is made from: commits and terms on the Hub, the run it builds on."""
    data, args = settings.data, settings.model
    names = {
        "dataset_name": data.dataset_name,
        "model_name_or_path": args.model_name_or_path,
        "tokenizer_name_or_path": args.tokenizer_name_or_path,
    }
    on_hub = [key for key, name in names.items() if name is not None and not Path(name).exists()]
    about = {"from_hub": dict.fromkeys(on_hub)}  # the commit of each, where it is known
    if "model_name_or_path" in on_hub:
        about["from_hub"]["model_name_or_path"] = getattr(model.config, "_commit_hash", None)
    if args.model_name_or_path is not None:
        about["inherited"] = inherited_terms(args.model_name_or_path)
    if "dataset_name" in on_hub and settings.main_process:
        about["dataset_license"] = None
        with suppress(HTTPError, OSError, ValueError):  # where the Hub cannot tell
            info = HfApi().dataset_info(data.dataset_name, revision=data.dataset_revision)
            license = (info.card_data or {}).get("license")
            about["from_hub"]["dataset_name"] = info.sha
            about["dataset_license"] = license if isinstance(license, str) else None
    return about
