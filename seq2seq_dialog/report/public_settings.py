"""What of a run's settings everybody may read: nothing about the machine or an account."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from pathlib import PureWindowsPath

from ..settings import Mark, marked

# Settings that are about a machine or an account, not about the model: those marked in settings.py,
# and these of transformers.
PRIVATE = marked(Mark.PRIVATE) | {
    "hub_model_id",
    "hub_private_repo",
    "hub_revision",
    "hub_strategy",
    "logging_dir",
    "output_dir",
    "project",
    "push_to_hub",
    "report_to",
    "run_name",
    "trackio_bucket_id",
    "trackio_space_id",
    "trackio_static_space_id",
}
PATHS = marked(Mark.PATH)  # settings that can name a file or folder
# What is a path wherever it stands.
PATH = re.compile(r"(?:[/\\]|~[^/\\]*[/\\]|\.\.?[/\\]|[A-Za-z]:[/\\]|file:).*", re.DOTALL)


def public_settings(config: dict, from_hub: Collection[str]) -> tuple[dict, dict]:
    """Take out of settings what is about the machine: of paths, all but the last part.

    `from_hub` lists the settings whose value is a name on the Hub. Returns also those that were
    paths.
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


def data_name(data: str | list[dict]) -> str:
    """Name the data of a run: the last part of the path, or of the path of each source."""
    if isinstance(data, list):
        return ", ".join(source.get("name") or data_name(source["path"]) for source in data)
    return PureWindowsPath(str(data)).name


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
