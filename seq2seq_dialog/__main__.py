"""python -m seq2seq_dialog VERB: what one does with a trained model."""

from __future__ import annotations

import argparse


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of all verbs; nothing heavy is imported for it."""
    parser = argparse.ArgumentParser(
        prog="python -m seq2seq_dialog",
        description="Use a model that run_seq2seq_dialog.py has trained.",
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
    chat.add_argument("--device", help="cpu, cuda, cuda:1, mps; a GPU if there is one by default")
    chat.add_argument(
        "--trust-remote-code", action="store_true", help="run model code of that repository"
    )
    return parser


def main() -> None:
    """Carry out one verb."""
    args = build_parser().parse_args()
    from .arguments import run
    from .chat import chat

    run(lambda: chat(args.folder, args.device, args.trust_remote_code))


if __name__ == "__main__":
    main()
