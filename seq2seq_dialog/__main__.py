"""python -m seq2seq_dialog VERB: what one does with trained models."""

from __future__ import annotations

import argparse
from importlib import import_module


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of all verbs; nothing heavy is imported for it."""
    parser = argparse.ArgumentParser(
        prog="python -m seq2seq_dialog",
        description="Use and publish models that run_seq2seq_dialog.py has trained.",
        allow_abbrev=False,
    )
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    chat = verbs.add_parser(
        "chat",
        help="talk with a model in the terminal",
        description="Talk with a model; it remembers the dialogue. /help lists the commands. In a "
        "pipe, each line is something said and each line printed a reply.",
    )
    chat.add_argument("folder", help="a run folder, or the name of a model on the Hub")

    attention = verbs.add_parser(
        "attention",
        help="draw what a reply looks at in its context",
        description="Draw the attention map of a reply: tokens of the context across, of the reply "
        "down, the darker the more weight. Of a transformer, the mean over the heads of its last "
        "layer.",
    )
    attention.add_argument("folder", help="a run folder, or the name of a model on the Hub")
    attention.add_argument("text", help="the context; __eou__ between its turns")
    attention.add_argument("--reply", help="a reply to look at, instead of the model's own")
    attention.add_argument("--output", default="attention.png", help="the picture [%(default)s]")

    sweep = verbs.add_parser(
        "sweep",
        help="draw quality against diversity of several models over temperatures",
        description="Let each model answer the same test contexts, greedily and sampled at each "
        "temperature, and draw BLEU-2 against Distinct-2 and self-BLEU. The points are written "
        "beside the picture, to a .json of its name; an interrupted sweep goes on by the same "
        "command.",
    )
    sweep.add_argument(
        "folder",
        nargs="+",
        help="run folders, or names of models on the Hub; the contexts and references are those "
        "of the first one's predictions.jsonl",
    )
    sweep.add_argument(
        "--temperatures",
        type=float,
        nargs="+",
        default=[0.4, 0.6, 0.8, 1.0, 1.2],
        metavar="T",
        help="sampling temperatures [0.4 0.6 0.8 1.0 1.2]",
    )
    sweep.add_argument("--samples", type=int, default=1000, help="test contexts [%(default)s]")
    sweep.add_argument("--output", default="sweep.png", help="the picture [%(default)s]")
    sweep.add_argument("--seed", type=int, default=42, help="seed of sampling [%(default)s]")

    compare = verbs.add_parser(
        "compare",
        help="test whether two runs differ beyond chance",
        description="Compare the replies of two runs to the same contexts by the paired bootstrap, "
        "whole dialogues drawn: the difference in each metric, its 95 % interval and p.",
    )
    compare.add_argument("folder", metavar="RUN_A", help="a run folder")
    compare.add_argument("other", metavar="RUN_B", help="another that answers the same contexts")
    compare.add_argument(
        "--samples", type=int, default=1000, help="bootstrap resamples [%(default)s]"
    )
    compare.add_argument("--seed", type=int, default=42, help="seed of the draws [%(default)s]")
    compare.add_argument(
        "--subset",
        choices=("full", "clean"),
        default="full",
        help="all pairs, or those not in train [%(default)s]",
    )
    compare.add_argument("--output", help="a JSON file for the figures")

    report = verbs.add_parser(
        "report",
        help="write the report of a run anew",
        description="Write report.html and report.md into a run folder, as each run does.",
    )
    report.add_argument("folder", help="a run folder")

    audit = verbs.add_parser(
        "audit",
        help="find what stands in more than one split",
        description="Count dialogues and pairs of validation and test that stand in train, and "
        "near-duplicates; write the counts and the ids of the clean pairs to a JSON file.",
    )
    audit.add_argument("folder", metavar="DATA", help="dialogues, as --data of a run takes them")
    audit.add_argument("--output", default="audit.json", help="the JSON file [%(default)s]")
    audit.add_argument(
        "--no-detokenize",
        dest="detokenize",
        action="store_false",
        help="compare the utterances as they stand, without writing natural text first",
    )

    publish = verbs.add_parser(
        "publish",
        help="put a finished run on the Hub",
        description="Publish a run on the Hub by one commit: weights, tokenizer, settings, code, "
        "metrics, curves and a model card. The folder stays as it is; checkpoints, logs and test "
        "pairs stay at home, but for the exchanges that the card shows. Published again, only "
        "what has changed is sent. Log in before by `hf auth login`, or set HF_TOKEN.",
    )
    publish.add_argument("folder", help="a run folder")
    publish.add_argument("--repo", required=True, metavar="USER/NAME", help="the model's name")
    publish.add_argument(
        "--space", metavar="USER/NAME", help="also make a Space, a chat page that serves the model"
    )

    publish.add_argument(
        "--language", help="language of the dialogues, where the run's settings have another"
    )
    publish.add_argument(
        "--no-samples",
        dest="samples",
        action="store_false",
        help="show no exchanges of the test set",
    )

    publish_data = verbs.add_parser(
        "publish-data",
        help="put dialogues on the Hub, as a data set of context and response",
        description="Publish dialogues as Parquet with splits, features and a card, which "
        "load_dataset() loads; --dataset_name USER/NAME trains on them.",
    )
    publish_data.add_argument(
        "folder", metavar="DATA", help="dialogues, as --data of a run takes them"
    )
    publish_data.add_argument("--repo", required=True, metavar="USER/NAME", help="its name")
    publish_data.add_argument(
        "--language", default="en", help="language of the dialogues [%(default)s]"
    )
    publish_data.add_argument(
        "--no-detokenize",
        dest="detokenize",
        action="store_false",
        help="publish the utterances as they stand, without writing natural text first",
    )
    for verb in (publish, publish_data):
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

    export = verbs.add_parser(
        "export",
        help="write a T5 in a form that answers faster on a CPU",
        description="Write a trained T5 in CTranslate2's form (pip install ctranslate2) into its "
        "run folder, where chat, web and generate_response find it. Replies, speed and sacreBLEU "
        "of both are compared on test contexts; replies that diverge too far are refused.",
    )
    export.add_argument("folder", help="a run folder")
    export.add_argument(
        "--format", choices=("ctranslate2",), default="ctranslate2", help="[%(default)s]"
    )
    export.add_argument(
        "--quantization",
        choices=("float32", "int8"),
        default="float32",
        help="float32 gives the same greedy replies; int8 is faster and smaller, and some replies "
        "differ [%(default)s]",
    )
    export.add_argument("--output", help="another folder to write")
    export.add_argument(
        "--samples", type=int, default=200, help="test contexts to compare on [%(default)s]"
    )

    web = verbs.add_parser(
        "web",
        help="talk with a model in the browser",
        description="Serve a chat page for a model on this machine, the same that a Space has.",
    )
    web.add_argument("folder", help="a run folder, or the name of a model on the Hub")
    web.add_argument(
        "--port", type=int, help="of 127.0.0.1; by default the first free one from 7860 on"
    )

    for verb in (chat, web):
        verb.add_argument(
            "--no-export",
            dest="exported",
            action="store_false",
            help="answer by PyTorch even where the run folder holds an export",
        )
    for verb in (chat, attention, sweep, web):
        verb.add_argument(
            "--device", help="cpu, cuda, cuda:1, mps; a GPU if there is one by default"
        )
        verb.add_argument(
            "--trust-remote-code", action="store_true", help="run model code of the repository"
        )
    return parser


# The function of each verb.
HOME = {
    "chat": "serve.chat.chat",
    "attention": "report.attention.attention",
    "sweep": "report.sweep.sweep",
    "compare": "report.compare.compare",
    "report": "report.page.report",
    "audit": "data.overlap.audit_data",
    "publish": "hub.publish_model.publish",
    "publish-data": "hub.publish_data.publish_data",
    "web": "serve.web.web",
    "export": "serve.export.export",
}


def main() -> None:
    """Carry out one verb."""
    options = vars(build_parser().parse_args())
    module, function = HOME[options.pop("verb")].rsplit(".", 1)
    folder = options.pop("folder")
    from .errors import run

    def carry_out() -> None:
        getattr(import_module(f".{module}", __package__), function)(folder, **options)

    run(carry_out)


if __name__ == "__main__":
    main()
