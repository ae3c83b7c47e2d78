"""Files of a finished run whose figures stand nowhere else, and a checker of pages."""

from html.parser import HTMLParser

HOSTILE = 'Say <script>alert("x")</script> | or *this*\nin a line `of` [its](http://x.y) own & more'

VOID = {"meta", "link", "br"}
SYSTEMS = ("model", "nearest training context", "second human reference")


def result(system, protocol, subset, seed, **more):
    """A row of evaluation.json with figures that stand nowhere else."""
    names = {
        "default": ("bleu", "bleu_2", "chrf", "rouge_l", "distinct_2", "rouge_1", "reply_words"),
        "plato": ("plato_bleu_1", "plato_bleu_2"),
        "multiref": ("bleu_1", "meteor"),
    }
    metrics = {name: seed + i + seed / 97 for i, name in enumerate(names[protocol])}
    return {
        "system": system,
        "protocol": protocol,
        "subset": subset,
        "split": "test",
        "decoding": "greedy, max_new_tokens=40" if system == "model" else "",
        "signature": f"nrefs:1|protocol:{protocol}",
        "pairs": 30 if subset == "full" else 20,
        "metrics": metrics,
        **more,
    }


def evaluation():
    results = [
        result(system, protocol, subset, 3 + 10 * i + 30 * j + k)
        for j, protocol in enumerate(("default", "plato", "multiref"))
        for i, system in enumerate(SYSTEMS)
        for k, subset in enumerate(("full", "clean"))
        if protocol != "multiref" or subset == "full"
    ]
    for row in results[:2]:
        row["metrics"]["perplexity"] = 1234.5 + row["pairs"]
        row["intervals"] = {"bleu": [2.51, 4.49], "perplexity": [1000.2, 1e9]}
    about = {
        "distinct_1": 5.5,
        "entropy_4": 9.25,
        "copied": 12.5,
        "generic": 61.2,
        "length_ratio": 0.77,
    }
    group = {"pairs": 15, "bleu_2": 1.5, "distinct_2": 20.5, "generic": 50.0}
    return {
        "split": "test",
        "decoding": {"num_beams": 1},
        "overlap": {
            "pairs": 30,
            "clean_pairs": 20,
            "pairs_in_train": {"1": 9, "3": 8, "all": 7},
        },
        "results": results,
        "diversity": {
            "model": {
                "full": about,
                "clean": about,
                "by_turn": [
                    {"turns": "1", "perplexity": 71.5, **group},
                    {"turns": "9-", **group},
                ],
                "by_length": [{"words": "3-4", "perplexity": 33.25, **group}],
            },
            "nearest training context": {"full": about},
        },
        "verdict": ["The model does not beat <the rest>."],
    }


class Checker(HTMLParser):
    """Collects tags, and notices elements that are not closed in the order they were opened."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.said = [], [], ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.said += data

    def all(self, name):
        return [attrs for tag, attrs in self.tags if tag == name]
