"""python -m seq2seq_dialog VERB, installed seq2seq-dialog VERB: train models and use them.

Each verb has a function here, which says what it takes, and one elsewhere, which does it; nothing
heavy is imported for --help.
"""

from __future__ import annotations

import argparse
import sys
from importlib import import_module

from . import __version__
from .errors import run
from .shipped import COMMAND


def main() -> None:
    """Carry out one verb."""
    if sys.argv[1:2] == ["train"]:  # its flags are the settings, which another parser knows
        run(lambda: import_module(".train", __package__).main(sys.argv[2:]))
        return
    options = vars(build_parser().parse_args())
    module, function = options.pop("function").rsplit(".", 1)
    folder = options.pop("folder")
    run(lambda: getattr(import_module(f".{module}", __package__), function)(folder, **options))


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of all verbs."""
    parser = argparse.ArgumentParser(
        prog=COMMAND,
        description="Train dialogue response generators, use and publish them.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"seq2seq-dialog {__version__}")
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    for add in ADD_VERBS:
        add(verbs)
    return parser


def add_train(verbs) -> None:
    verbs.add_parser(
        "train",
        help="train a model from dialogues: train CONFIG [--flag value ...]",
        add_help=False,
    )


def add_chat(verbs) -> None:
    verb = verbs.add_parser(
        "chat",
        help="talk with a model in the terminal",
        description="Talk with a model; it remembers the dialogue. /help lists the commands. In a "
        "pipe, each line is something said and each line printed a reply.",
    )
    verb.set_defaults(function="serve.chat.chat")
    verb.add_argument("folder", help="a run folder, or the name of a model on the Hub")
    add_no_export(verb)
    add_loading(verb)


def add_attention(verbs) -> None:
    verb = verbs.add_parser(
        "attention",
        help="draw what a reply looks at in its context",
        description="Draw the attention map of a reply: tokens of the context across, of the reply "
        "down, the darker the more weight. Of a transformer, the mean over the heads of its last "
        "layer.",
    )
    verb.set_defaults(function="report.attention.attention")
    verb.add_argument("folder", help="a run folder, or the name of a model on the Hub")
    verb.add_argument("text", help="the context; __eou__ between its turns")
    verb.add_argument("--reply", help="a reply to look at, instead of the model's own")
    verb.add_argument("--output", default="attention.png", help="the picture [%(default)s]")
    add_loading(verb)


def add_sweep(verbs) -> None:
    verb = verbs.add_parser(
        "sweep",
        help="draw quality against diversity of several models over temperatures",
        description="Let each model answer the same test contexts, greedily and sampled at each "
        "temperature, and draw BLEU-2 against Distinct-2 and self-BLEU. The points are written "
        "beside the picture, to a .json of its name; an interrupted sweep goes on by the same "
        "command.",
    )
    verb.set_defaults(function="report.sweep.sweep")
    verb.add_argument(
        "folder",
        nargs="+",
        help="run folders, or names of models on the Hub; the contexts and references are those "
        "of the first one's predictions.jsonl",
    )
    verb.add_argument(
        "--temperatures",
        type=float,
        nargs="+",
        default=[0.4, 0.6, 0.8, 1.0, 1.2],
        metavar="T",
        help="sampling temperatures [0.4 0.6 0.8 1.0 1.2]",
    )
    verb.add_argument("--samples", type=int, default=1000, help="test contexts [%(default)s]")
    verb.add_argument("--output", default="sweep.png", help="the picture [%(default)s]")
    verb.add_argument("--seed", type=int, default=42, help="seed of sampling [%(default)s]")
    add_loading(verb)


def add_compare(verbs) -> None:
    verb = verbs.add_parser(
        "compare",
        help="test whether two runs differ beyond chance",
        description="Compare the replies of two runs to the same contexts by the paired bootstrap, "
        "whole dialogues drawn: the difference in each metric, its 95 % interval and p.",
    )
    verb.set_defaults(function="report.compare.compare")
    verb.add_argument("folder", metavar="RUN_A", help="a run folder")
    verb.add_argument("other", metavar="RUN_B", help="another that answers the same contexts")
    verb.add_argument("--samples", type=int, default=1000, help="bootstrap resamples [%(default)s]")
    verb.add_argument("--seed", type=int, default=42, help="seed of the draws [%(default)s]")
    verb.add_argument(
        "--subset",
        choices=("full", "clean"),
        default="full",
        help="all pairs, or those not in train [%(default)s]",
    )
    verb.add_argument("--output", help="a JSON file for the figures")


def add_report(verbs) -> None:
    verb = verbs.add_parser(
        "report",
        help="write the report of a run anew",
        description="Write report.html into a run folder, as each run does.",
    )
    verb.set_defaults(function="report.page.report")
    verb.add_argument("folder", help="a run folder")


def add_audit(verbs) -> None:
    verb = verbs.add_parser(
        "audit",
        help="find what stands in more than one split",
        description="Count dialogues and pairs of validation and test that stand in train, and "
        "near-duplicates; write the counts and the ids of the clean pairs to a JSON file.",
    )
    verb.set_defaults(function="report.audit.audit_data")
    verb.add_argument("folder", metavar="DATA", help="dialogues, as --data of a run takes them")
    verb.add_argument("--output", default="audit.json", help="the JSON file [%(default)s]")
    verb.add_argument(
        "--no-detokenize",
        dest="detokenize",
        action="store_false",
        help="compare the utterances as they stand, without writing natural text first",
    )


def add_publish(verbs) -> None:
    verb = verbs.add_parser(
        "publish",
        help="put a finished run on the Hub",
        description="Publish a run on the Hub by one commit: weights, tokenizer, settings, code, "
        "metrics, curves and a model card. The folder stays as it is; checkpoints, logs and test "
        "pairs stay at home, but for the exchanges that the card shows. Published again, only "
        "what has changed is sent. Log in before by `hf auth login`, or set HF_TOKEN.",
    )
    verb.set_defaults(function="hub.publish_model.publish")
    verb.add_argument("folder", help="a run folder")
    verb.add_argument("--repo", required=True, metavar="USER/NAME", help="the model's name")
    verb.add_argument(
        "--space", metavar="USER/NAME", help="also make a Space, a chat page that serves the model"
    )
    verb.add_argument(
        "--language", help="language of the dialogues, where the run's settings have another"
    )
    verb.add_argument(
        "--no-samples",
        dest="samples",
        action="store_false",
        help="show no exchanges of the test set",
    )
    add_publishing(verb)


def add_publish_data(verbs) -> None:
    verb = verbs.add_parser(
        "publish-data",
        help="put dialogues on the Hub, as a data set of context and response",
        description="Publish dialogues as Parquet with splits, features and a card, which "
        "load_dataset() loads; --dataset_name USER/NAME trains on them.",
    )
    verb.set_defaults(function="hub.publish_data.publish_data")
    verb.add_argument("folder", metavar="DATA", help="dialogues, as --data of a run takes them")
    verb.add_argument("--repo", required=True, metavar="USER/NAME", help="its name")
    verb.add_argument("--language", default="en", help="language of the dialogues [%(default)s]")
    verb.add_argument(
        "--no-detokenize",
        dest="detokenize",
        action="store_false",
        help="publish the utterances as they stand, without writing natural text first",
    )
    add_publishing(verb)


def add_export(verbs) -> None:
    verb = verbs.add_parser(
        "export",
        help="write a T5 in a form that answers faster on a CPU",
        description="Write a trained T5 in CTranslate2's form (pip install ctranslate2) into its "
        "run folder, where chat and web find it. Replies, speed and sacreBLEU "
        "of both are compared on test contexts; replies that diverge too far are refused.",
    )
    verb.set_defaults(function="serve.export.export")
    verb.add_argument("folder", help="a run folder")
    verb.add_argument(
        "--quantization",
        choices=("float32", "int8"),
        default="float32",
        help="float32 gives the same greedy replies; int8 is faster and smaller, and some replies "
        "differ [%(default)s]",
    )
    verb.add_argument("--output", help="another folder to write")
    verb.add_argument(
        "--samples", type=int, default=200, help="test contexts to compare on [%(default)s]"
    )


def add_web(verbs) -> None:
    verb = verbs.add_parser(
        "web",
        help="talk with a model in the browser",
        description="Serve a chat page for a model on this machine, the same that a Space has.",
    )
    verb.set_defaults(function="serve.web.web")
    verb.add_argument("folder", help="a run folder, or the name of a model on the Hub")
    verb.add_argument(
        "--port", type=int, help="of 127.0.0.1; by default the first free one from 7860 on"
    )
    add_no_export(verb)
    add_loading(verb)


def add_publishing(verb) -> None:
    """Add what both kinds of publishing take."""
    verb.add_argument("--private", action="store_true", help="make a new repository private")
    verb.add_argument(
        "--revision", default="main", help="the branch, made where it is missing [%(default)s]"
    )
    verb.add_argument(
        "--license",
        help="licence of the dialogues as the Hub names it: cc-by-4.0, apache-2.0; that of "
        "DailyDialog is known",
    )
    verb.add_argument(
        "--dry-run", action="store_true", help="only list what would go up, and its size"
    )


def add_no_export(verb) -> None:
    """Add the choice to answer by PyTorch."""
    verb.add_argument(
        "--no-export",
        dest="exported",
        action="store_false",
        help="answer by PyTorch; by default the export in a run folder answers on the CPU",
    )


def add_loading(verb) -> None:
    """Add how a model is loaded."""
    verb.add_argument("--device", help="cpu, cuda, cuda:1, mps; a GPU if there is one by default")
    verb.add_argument(
        "--trust-remote-code", action="store_true", help="run model code of the repository"
    )


ADD_VERBS = (
    add_train,
    add_chat,
    add_attention,
    add_sweep,
    add_compare,
    add_report,
    add_audit,
    add_publish,
    add_publish_data,
    add_export,
    add_web,
)

if __name__ == "__main__":
    main()
