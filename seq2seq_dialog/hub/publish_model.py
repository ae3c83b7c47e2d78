"""A finished run to the Hub: what of it goes up, and on request a Space that serves it."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from huggingface_hub import ModelCard, constants, get_token
from jinja2 import StrictUndefined, Template
from transformers.utils import GENERATION_CONFIG_NAME

from ..errors import UsageError
from ..models.artifact import PIPELINE_CODE, PORTABLE, V5_CONFIG, WEIGHTS
from ..models.loading import ADAPTER_FILE
from ..portable.context import as_turns, count_background
from ..report.model_card import model_card
from ..run_folder import check_writable, free_path, read_mapping, write_text
from ..strict_yaml import read_yaml
from ..training.checkpoints import MANIFEST, flaws
from .push import Publication, RepoKind, check_target, is_private, prepare, send

INDEX = f"{WEIGHTS}.index.json"  # where weights are in several files
PAGE = PORTABLE.parent / "serve" / "space"
GRADIO = "6.31.0"  # the version in a Space
CODE = tuple(sorted(path.name for path in PORTABLE.glob("[!_]*.py")))
# What goes up where a run has it, besides weights, code and card.
PUBLISHED = (
    "added_tokens.json",
    "chat_template.jinja",
    "config.json",
    V5_CONFIG,
    "curves.png",
    "evaluation.json",
    GENERATION_CONFIG_NAME,
    "merges.txt",
    "metrics.json",
    "prophetnet.tokenizer",
    "sentencepiece.bpe.model",
    "source.spm",
    "special_tokens_map.json",
    "spiece.model",
    "target.spm",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
)
# What every finished run has.
NEEDED = (
    "metrics.json",
    "config.yaml",
    "config.json",
    V5_CONFIG,
    GENERATION_CONFIG_NAME,
    "tokenizer_config.json",
    "context.py",
    "options.py",
    "pipeline.py",
)
# What the card is made of, besides.
DESCRIBING = ("config.yaml", "environment.json", "predictions.jsonl", "trainer_state.json")


def _is_model_file(path: str) -> bool:
    shard = path.startswith("model-") and path.endswith(".safetensors")
    return shard or path in (*PUBLISHED, *CODE, WEIGHTS, INDEX)


MODEL = RepoKind("model", is_ours=lambda paths: V5_CONFIG in paths, is_stale=_is_model_file)
SPACE = RepoKind("space", is_ours=lambda paths: "model.json" in paths, space_sdk="gradio")


def publish(folder: str | Path, repo: str, **options) -> None:
    """Publish a finished run on the Hub, and on request a Space for it; see `Publication`."""
    publication = prepare(folder, repo, **options)
    files = model_files(publication)
    card = files["README.md"].decode()
    if publication.card is not None:
        path = free_path(publication.card)
        check_writable(path)
        write_text(path, card)
        print(f"Card:      {path}")
    if publication.space and not publication.dry_run:
        check_target(_space_of(publication), SPACE)
    commit = send(publication, files, MODEL, "Publish the model")
    if commit is not None:
        print(
            "Call it:   from transformers import pipeline\n"
            f'           pipeline("text2text-generation", model="{publication.repo}"'
            f'{publication.revision_argument}, trust_remote_code=True)("How are you?")',
            flush=True,
        )
    if publication.space:
        publish_space(publication, card, commit)


def publish_space(publication: Publication, card: str, commit: str | None) -> None:
    """Publish the Space of a model; its examples are those of the model's card."""
    examples = ModelCard(card).data.get("widget") or ()
    contexts = [as_turns(example["text"]) for example in examples]
    openings = [turns[count_background(turns)] for turns in contexts]
    space = _space_of(publication)
    files = space_files(publication.repo, commit, private=space.private, openings=openings)
    send(space, files, SPACE, f"Serve {publication.repo}", label="Chat:")


def _space_of(publication: Publication) -> Publication:
    """Make the publication of the Space, private where the model is; a dry run does not ask."""
    private = publication.private or (not publication.dry_run and is_private(publication.repo))
    return replace(publication, repo=publication.space, revision="main", private=private)


def space_files(
    repo: str, revision: str | None = None, *, private: bool = False, openings: Sequence[str] = ()
) -> dict[str, bytes]:
    """Make the files of a Space that serves a model, `user/name`, and runs its code at `revision`.

    Without one, it is the newest when the Space starts. `openings` are first messages that visitors
    can choose by a click, in the model's language.
    """
    text = (PAGE / "README.md.jinja").read_text(encoding="utf-8")
    readme = Template(text, undefined=StrictUndefined, keep_trailing_newline=True).render(
        repo=repo,
        revision=revision,
        private=private,
        title=f"Chat with {repo.split('/')[-1]}",
        gradio=GRADIO,
        hub=constants.ENDPOINT,
    )
    model = {"model": repo, "revision": revision, "openings": list(openings)}
    return {
        "README.md": readme.encode(),
        "app.py": (PAGE / "app.py").read_bytes(),
        "conversation.py": (PAGE / "conversation.py").read_bytes(),
        "model.json": (json.dumps(model, indent=2, ensure_ascii=False) + "\n").encode(),
        "requirements.txt": (PAGE / "requirements.txt").read_bytes(),
    }


def model_files(publication: Publication) -> dict[str, Path | bytes]:
    """List what of a finished run goes to the Hub: weights, settings, tokenizer, code, card.

    Nothing else does: no checkpoint, optimizer, log or setting of this machine, and of the test
    pairs the few that the card shows. Code is that of this project, never that of the folder.
    """
    folder = Path(publication.folder)
    if (folder / ADAPTER_FILE).is_file():
        raise UsageError(
            f"{str(folder)!r} holds an adapter (lora_merge is false), but a whole model is "
            "published: train with lora_merge true. The adapter by itself goes up by hf upload."
        )
    missing = [name for name in NEEDED if not (folder / name).is_file()]
    if missing:
        raise UsageError(
            f"{str(folder)!r} is no finished run: {', '.join(missing)} is missing. Give the "
            "output_dir of run_seq2seq_dialog.py; the same command finishes a run that was stopped."
        )
    decoding = read_mapping(folder / GENERATION_CONFIG_NAME)
    if decoding.get("other_contexts") and not publication.samples:
        raise UsageError(
            f"{str(folder)!r} keeps turns of dialogues for its criterion other_contexts "
            f"({GENERATION_CONFIG_NAME}), which would go up although samples do not: train "
            "without that criterion, or publish with samples."
        )
    _refuse_foreign_code(folder)
    names = [name for name in PUBLISHED if (folder / name).is_file()]
    if (folder / INDEX).is_file():
        names += [INDEX, *sorted(set(read_mapping(folder / INDEX)["weight_map"].values()))]
    else:
        names.append(WEIGHTS)
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise UsageError(f"{str(folder)!r} has no {', '.join(missing)}: train or copy it again.")
    if (folder / MANIFEST).exists():
        for name, wrong in flaws(folder):
            if name.endswith(".safetensors"):  # settings may be edited
                raise UsageError(
                    f"{str(folder / name)!r} {wrong}: copy the run again. If you changed it on "
                    f"purpose, delete {MANIFEST} there."
                )
    _refuse_links(folder, {*names, *NEEDED, *DESCRIBING})
    files: dict[str, Path | bytes] = {name: folder / name for name in names}
    present = {name for name in CODE if (folder / name).is_file()}
    files |= {name: PORTABLE / name for name in CODE if name in present | set(PIPELINE_CODE)}
    card = model_card(
        folder,
        publication.repo,
        publication.license,
        publication.revision,
        publication.language,
        publication.samples,
        publication.private,
    )
    files["README.md"] = card.encode()
    _refuse_secrets(files, folder)
    return files


def _refuse_links(folder: Path, names: Iterable[str]) -> None:
    """Refuse files that lie elsewhere, of which nobody knows that they are to be published."""
    home = folder.resolve()
    links = [name for name in sorted(names) if not (home / name).resolve().is_relative_to(home)]
    if links:
        raise UsageError(
            f"{', '.join(links)} in {str(folder)!r} is a link to a file elsewhere, and what lies "
            "outside the run folder is not published. Put the file itself there if it belongs to "
            "the model."
        )


def _refuse_foreign_code(folder: Path) -> None:
    """Refuse code that is not this project's: files, and names of other repositories'."""
    foreign = {path.name for path in folder.glob("*.py")} - set(CODE)
    for name in ("config.json", V5_CONFIG, "tokenizer_config.json"):
        config = read_mapping(folder / name)
        references = list(config.get("auto_map", {}).values())
        references += [task.get("impl") for task in config.get("custom_pipelines", {}).values()]
        for entry in references:
            for reference in entry if isinstance(entry, list) else [entry]:
                if reference and f"{reference.split('.')[0]}.py" not in CODE:
                    foreign.add(reference)
    if foreign:
        raise UsageError(
            f"{str(folder)!r} brings code that is not this project's ({', '.join(sorted(foreign))})"
            ", which others would have to trust. Upload it by `hf upload` if you have read it."
        )


def _refuse_secrets(files: Mapping[str, Path | bytes], folder: Path) -> None:
    """Refuse to send a token, or where things lie on this machine, to everybody."""
    config = read_yaml(folder / "config.yaml")
    paths = {str(value) for value in config.values() if Path(str(value)).is_absolute()}
    secrets = {*paths, str(folder.resolve()), get_token()} - {None, "", "/"}
    places = {str(Path.cwd()), str(Path.home())} - {"/"}  # short ones may stand in a reply
    for name, file in files.items():
        if not name.endswith((".json", ".md", ".jinja")):
            continue
        content = file if isinstance(file, bytes) else file.read_bytes()
        text = content.decode(errors="replace")
        text = text.replace("\\", "")  # before what Markdown or JSON escapes
        for secret in secrets if name == "README.md" else secrets | places:
            # A path only where it begins and ends as one: /data is none in example.org/datasets.
            escaped = re.escape(secret.replace("\\", ""))
            if re.search(rf"(?<![\w.-]){escaped}(?![\w-])", text):
                what = "your token" if secret == get_token() else repr(secret)
                where = "predictions.jsonl or config.yaml" if name == "README.md" else name
                raise UsageError(
                    f"{name} would tell everybody {what}: take it out of {where} in "
                    f"{str(folder)!r}, then publish again."
                )
