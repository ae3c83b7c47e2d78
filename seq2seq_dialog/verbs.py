"""The verbs of the command line: what each takes, and which function carries it out.

Nothing heavy is imported here, so that --help is there at once.
"""

import argparse
from typing import NamedTuple


class Verb(NamedTuple):
    """A verb of the command line."""

    function: str  # its module and name, from the package on
    help: str
    description: str
    arguments: list[tuple[tuple, dict]]


def argument(*names: str, **options) -> tuple[tuple, dict]:
    """Return what `ArgumentParser.add_argument` takes."""
    return names, options


# Arguments that several verbs take.
RUN = argument("folder", help="a run folder")
MODEL = argument("folder", help="a run folder, the name of a model on the Hub, or starter")
MODELS = argument(
    "folder",
    nargs="+",
    metavar="MODEL",
    help="run folders, names of models on the Hub, or starter; several answer the same turn",
)
VOTES = argument(
    "--votes",
    default="votes.jsonl",
    metavar="FILE",
    help="where votes are appended to, of which DPO can learn [%(default)s]",
)
DATA = argument("folder", metavar="DATA", help="dialogues, as --data of a run takes them")
PUBLISHING = [
    argument("--repo", required=True, metavar="USER/NAME", help="its name on the Hub"),
    argument("--private", action="store_true", help="make a new repository private"),
    argument(
        "--revision", default="main", help="the branch, made where it is missing [%(default)s]"
    ),
    argument(
        "--license",
        help="licence of the dialogues as the Hub names it: cc-by-4.0, apache-2.0; that of "
        "DailyDialog is known",
    ),
    argument(
        "--language",
        help="language of the dialogues; by default that of the run's settings, or else en",
    ),
    argument("--dry-run", action="store_true", help="only list what would go up, and its size"),
]
NO_DETOKENIZE = argument(
    "--no-detokenize",
    dest="detokenize",
    action="store_const",
    const=False,
    help="take the utterances as they stand, without writing natural text first",
)
NO_EXPORT = argument(
    "--no-export",
    dest="exported",
    action="store_false",
    help="answer by PyTorch; by default the export in a run folder answers on the CPU",
)
LOADING = [
    argument("--device", help="cpu, cuda, cuda:1, mps; a GPU if there is one by default"),
    argument("--trust-remote-code", action="store_true", help="run model code of the repository"),
]
SAFETY = [
    argument(
        "--safety",
        action="append",
        metavar="MODEL:label>=SCORE",
        help="refuse what is said or answered where a text classifier gives it this label with at "
        "least this score, such as user/toxicity:toxic>=0.8; may be given several times",
    ),
    argument(
        "--safety-words",
        metavar="FILE",
        help="refuse what holds a word or phrase of a text file, one a line",
    ),
    argument("--fallback", metavar="TEXT", help="what is answered where something is refused"),
]
# The fields of `settings.DecodingArguments`, which would take seconds to import.
DECODING_FLAGS = [
    argument("--max_new_tokens", type=int, metavar="N", help="greatest reply in tokens"),
    argument("--num_beams", type=int, metavar="N", help="beams; 1 is greedy, or sampling"),
    argument(
        "--do_sample",
        action=argparse.BooleanOptionalAction,
        help="sample instead of the likeliest; --no-do_sample does not",
    ),
    argument("--temperature", type=float, metavar="T", help="sampling temperature"),
    argument("--top_p", type=float, metavar="P", help="nucleus of the probability to sample from"),
    argument("--top_k", type=int, metavar="N", help="likeliest tokens to sample from; 0: all"),
    argument(
        "--no_repeat_ngram_size",
        type=int,
        metavar="N",
        help="no n-gram of this size twice in a reply; 0 allows all",
    ),
    argument("--repetition_penalty", type=float, metavar="X", help="above 1 repeats less"),
    argument(
        "--length_penalty",
        type=float,
        metavar="X",
        help="exponent of the length in beam scores; above 1 favours long",
    ),
    argument(
        "--candidates",
        type=int,
        metavar="N",
        help="replies to choose from: of beams, or sampled without beams",
    ),
    argument(
        "--rerank",
        metavar="WEIGHTS",
        help="what the reply is chosen by: '{likelihood: 1, context_free: 0.5}'",
    ),
    argument(
        "--reverse_model", metavar="MODEL", help="for the criterion reverse: see exchange_sides"
    ),
    argument(
        "--guidance_weight", type=float, metavar="X", help="against what fits every context; 0: off"
    ),
    argument(
        "--guidance_tokens", type=int, metavar="N", help="first tokens that are guided; 0: all"
    ),
]
DECODING = {names[0].removeprefix("--") for names, _ in DECODING_FLAGS}
# How replies are decoded otherwise, where no flag says so.
DECODING_WAYS = {
    "chat": "Decoding is set in the chat: /set {name}=VALUE, and /set alone shows all.",
    "web": "Decoding is set on the page, under Decoding.",
    "serve": "A request sets temperature, top_p and max_tokens; else all is as the model is saved.",
}
SEED = argument("--seed", type=int, default=42, help="seed of sampling [%(default)s]")
TOKENS_PER_BATCH = argument(
    "--tokens_per_batch",
    type=int,
    default=16384,
    metavar="N",
    help="source plus new tokens of a batch, padding included, for each beam: less takes less "
    "memory [%(default)s]",
)

# The verbs whose flags are the settings, which another parser knows, and their help.
BY_SETTINGS = {
    "train": "train a model from dialogues: train CONFIG [--flag value ...]",
    "search": "search for better settings by many runs: search CONFIG [--flag value ...]",
}
VERBS = {
    "chat": Verb(
        "serve.chat.chat",
        help="talk with models in the terminal",
        description="Talk with a model; it remembers the dialogue. /help lists the commands. "
        "Several models answer the same. In a pipe, each line is something said, unless it begins "
        "with one of the commands. For each line read, each model prints one: its reply, or an "
        "empty line where there is none.",
        arguments=[MODELS, VOTES, *SAFETY, NO_EXPORT, *LOADING],
    ),
    "reply": Verb(
        "serve.reply.reply",
        help="reply to all contexts of a file",
        description="Write a reply to each context of a file, with what else its record holds. Of "
        "a dialogue, its end is answered. The same command completes an interrupted file. Decoding "
        "is as the model has it saved, but for what is given here.",
        arguments=[
            MODEL,
            argument(
                "input",
                nargs="?",
                metavar="INPUT",
                help="JSON Lines with a context (a string, a list of turns or of messages), text "
                "with a context a line, a table with a column of contexts, or any dialogues that "
                "--data takes; standard input by default",
            ),
            argument(
                "--output",
                "-o",
                help="a .jsonl file for the replies, or a .csv file for those to rows of a table; "
                "JSON Lines on standard output by default",
            ),
            *DECODING_FLAGS,
            argument(
                "--num_return_sequences",
                type=int,
                metavar="N",
                help="replies to each context, a list",
            ),
            SEED,
            TOKENS_PER_BATCH,
            *SAFETY,
            NO_EXPORT,
            *LOADING,
        ],
    ),
    "selfchat": Verb(
        "report.selfchat.selfchat",
        help="let a model talk with itself, or two with each other",
        description="Let a model talk with itself, or with another; write the dialogues as JSON "
        "Lines that data reads, how much is repeated within and across them, and a page to read "
        "them. Of two models, the page takes blind votes on whole dialogues, too. Replies are "
        "sampled with temperature 0.7 and top_p 0.9, unless flags or the model's own settings say "
        "how to sample; with --no-do_sample they are as the model has it saved.",
        arguments=[
            MODEL,
            argument("other", nargs="?", metavar="OTHER", help="another model to talk with"),
            argument(
                "--openings",
                metavar="FILE",
                help="first turns: dialogues of any form that --data takes, or text with an "
                "opening a line; by default 24 in English",
            ),
            argument(
                "--dialogues",
                "-n",
                type=int,
                default=100,
                metavar="N",
                help="dialogues; of two models, each opens half [%(default)s]",
            ),
            argument(
                "--turns",
                type=int,
                default=8,
                metavar="N",
                help="turns of a dialogue, the opening among them [%(default)s]",
            ),
            argument(
                "--output",
                "-o",
                default="selfchat.jsonl",
                help="a .jsonl file for the dialogues [%(default)s]; figures and page get its "
                "name; where that exists, with a number",
            ),
            *DECODING_FLAGS,
            SEED,
            TOKENS_PER_BATCH,
            *LOADING,
        ],
    ),
    "attention": Verb(
        "serve.attention.attention",
        help="draw what a reply looks at in its context",
        description="Draw the attention map of a reply: tokens of the context across, of the reply "
        "down, the darker the more weight. Of a transformer, the mean over the heads of its last "
        "layer.",
        arguments=[
            MODEL,
            argument("text", help="the context; __eou__ between its turns"),
            argument("--reply", help="a reply to look at, instead of the model's own"),
            argument(
                "--output",
                default="attention.png",
                help="the picture [%(default)s]; where that exists, with a number",
            ),
            *LOADING,
        ],
    ),
    "sweep": Verb(
        "report.sweep.sweep",
        help="draw quality against diversity of several models over temperatures",
        description="Let each model answer the same test contexts, greedily and sampled at each "
        "temperature, and draw BLEU-2 against Distinct-2 and self-BLEU. The points are written "
        "beside the picture, to a .json of its name; an interrupted sweep goes on by the same "
        "command.",
        arguments=[
            argument(
                "folder",
                nargs="+",
                help="run folders, or names of models on the Hub; the contexts and references are "
                "those of the first one's predictions.jsonl",
            ),
            argument(
                "--temperatures",
                type=float,
                nargs="+",
                default=[0.4, 0.6, 0.8, 1.0, 1.2],
                metavar="T",
                help="sampling temperatures [0.4 0.6 0.8 1.0 1.2]",
            ),
            argument("--samples", type=int, default=1000, help="test contexts [%(default)s]"),
            argument("--output", default="sweep.png", help="the picture [%(default)s]"),
            SEED,
            *LOADING,
        ],
    ),
    "compare": Verb(
        "report.compare.compare",
        help="test whether two runs differ beyond chance",
        description="Compare the replies of two runs to the same contexts by the paired bootstrap, "
        "whole dialogues drawn: the difference in each metric, its 95 % interval and p. Of two "
        "folders of runs under several seeds: the mean difference and its spread over the seeds.",
        arguments=[
            argument("folder", metavar="RUN_A", help="a run folder, or one made with --seeds"),
            argument("other", metavar="RUN_B", help="another that answers the same contexts"),
            argument("--samples", type=int, default=1000, help="bootstrap resamples [%(default)s]"),
            argument("--seed", type=int, default=42, help="seed of the draws [%(default)s]"),
            argument(
                "--subset",
                choices=("full", "clean"),
                default="full",
                help="all pairs, or those not in train [%(default)s]",
            ),
            argument(
                "--output", help="a JSON file for the figures; an earlier comparison is replaced"
            ),
        ],
    ),
    "report": Verb(
        "report.page.report",
        help="write the report of a run anew",
        description="Write report.html into a run folder, as each run does.",
        arguments=[RUN],
    ),
    "convert": Verb(
        "data.convert.convert",
        help="write dialogues of any form as dialogue text or JSON Lines",
        description="Write dialogues to a file: talk.txt, a dialogue a line with __eou__ after "
        "each utterance, or talk.jsonl, which also says who speaks. Chats are cut at long pauses, "
        "messages of one speaker in a row joined. Either may be packed: talk.jsonl.gz.",
        arguments=[
            DATA,
            argument("output", metavar="OUT", help="the file: talk.txt or talk.jsonl"),
            argument(
                "--columns",
                help="names of columns that are not guessed: '{text: body, speaker: author}'",
            ),
            argument(
                "--max-gap",
                type=float,
                help="hours of silence after which a chat is another dialogue",
            ),
            argument(
                "--anonymize",
                action="store_true",
                help="put [name], [email] and [phone] for speakers, addresses and numbers",
            ),
        ],
    ),
    "audit": Verb(
        "report.audit.audit_data",
        help="find what stands in more than one split",
        description="Count dialogues and pairs of validation and test that stand in train, and "
        "near-duplicates; write the counts and the ids of the clean pairs to a JSON file.",
        arguments=[
            DATA,
            argument(
                "--output",
                default="audit.json",
                help="the JSON file [%(default)s]; an earlier audit there is replaced",
            ),
            NO_DETOKENIZE,
        ],
    ),
    "publish": Verb(
        "hub.publish_model.publish",
        help="put a finished run on the Hub",
        description="Publish a run on the Hub by one commit: weights, tokenizer, settings, code, "
        "metrics, curves and a model card. The folder stays as it is; checkpoints, logs and test "
        "pairs stay at home, but for the exchanges that the card shows. Published again, only "
        "what has changed is sent. Log in before by `hf auth login`, or set HF_TOKEN.",
        arguments=[
            RUN,
            *PUBLISHING,
            argument(
                "--card",
                metavar="FILE",
                help="also write the model card to a file; with --dry-run, to read it first",
            ),
            argument(
                "--space",
                metavar="USER/NAME",
                help="also make a Space, a chat page that serves the model",
            ),
            argument(
                "--no-samples",
                dest="samples",
                action="store_false",
                help="show no exchanges of the test set",
            ),
        ],
    ),
    "publish-data": Verb(
        "hub.publish_data.publish_data",
        help="put dialogues on the Hub, as a data set of context and response",
        description="Publish dialogues as Parquet with splits, features and a card, which "
        "load_dataset() loads; --dataset_name USER/NAME trains on them.",
        arguments=[DATA, *PUBLISHING, NO_DETOKENIZE],
    ),
    "export": Verb(
        "serve.export.export",
        help="write a model in a form that answers faster on a CPU",
        description="Write a trained encoder-decoder in CTranslate2's form (pip install "
        "ctranslate2) into its run folder, where chat and web find it. Replies, speed and "
        "sacreBLEU of both are compared on test contexts; replies that diverge too far are "
        "refused.",
        arguments=[
            RUN,
            argument(
                "--quantization",
                choices=("float32", "int8"),
                default="float32",
                help="float32 gives the same greedy replies; int8 is faster and smaller, and some "
                "replies differ [%(default)s]",
            ),
            argument("--output", help="another folder to write"),
            argument(
                "--samples", type=int, default=200, help="test contexts to compare on [%(default)s]"
            ),
        ],
    ),
    "web": Verb(
        "serve.web.web",
        help="talk with models in the browser, compare and vote",
        description="Serve a chat page for a model on this machine, the same that a Space has. "
        "Several models answer side by side, or blind: then votes on two replies are kept, tallied "
        "and, of more than two models, made a ranking.",
        arguments=[
            MODELS,
            argument(
                "--port", type=int, help="of 127.0.0.1; by default the first free one from 7860 on"
            ),
            VOTES,
            *SAFETY,
            NO_EXPORT,
            *LOADING,
        ],
    ),
    "serve": Verb(
        "serve.server.serve",
        help="answer programs over HTTP, as OpenAI's chat completions",
        description="Serve a model under OpenAI's /v1/chat/completions, with streaming, until "
        "Ctrl-C or SIGTERM. Requests are answered together. It listens to this machine alone, "
        "unless it has a key.",
        arguments=[
            MODEL,
            argument("--host", default="127.0.0.1", help="the address to listen at [%(default)s]"),
            argument("--port", type=int, default=8000, help="[%(default)s]"),
            argument(
                "--api-key-env",
                metavar="NAME",
                help="the environment variable that has the key which clients must send",
            ),
            argument(
                "--queue",
                type=int,
                default=64,
                metavar="N",
                help="requests that may wait; more are refused by status 429 [%(default)s]",
            ),
            *SAFETY,
            NO_EXPORT,
            *LOADING,
        ],
    ),
}
