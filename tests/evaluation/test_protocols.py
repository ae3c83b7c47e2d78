"""Protocols against figures worked out by hand and against second implementations."""

import json
import math
import random
import subprocess
import sys
import warnings

import nltk
import pytest
import sacrebleu
from datasets import Dataset
from helpers.corpus import rows_of
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
from rouge_score.rouge_scorer import RougeScorer
from seq2seq_dialog.dataset_script.detokenize import detokenize

from seq2seq_dialog.errors import UsageError
from seq2seq_dialog.evaluation.baselines import random_replies
from seq2seq_dialog.evaluation.metrics import distinct
from seq2seq_dialog.evaluation.protocols import (
    PROTOCOLS,
    multiref_tokens,
    read_references,
    score,
    second_human,
)

REPLIES = ["The cat sat on the mat.", "", "Hello there", "A, b c d (e) f!", "yes"]
REFERENCES = ["The cat sat on the mat.", "Nothing.", "Hello there, you!", "a b x d e f", "Yes."]
SEVERAL = [
    ["the cat sat on the mat .", "it sat ."],
    ["nothing .", "."],
    ["hello there , you !", "hi ."],
    ["a b x d e f", "a , b"],
    ["yes .", "yes"],
]


def of(protocol):
    return SEVERAL if protocol == "multiref" else REFERENCES


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_equal_replies_have_the_greatest_scores(protocol):
    texts = ["Do you see the cat?", "I do, on the mat."]
    several = [[" ".join(multiref_tokens(text)), "no"] for text in texts]
    metrics, _ = score(protocol, texts, several if protocol == "multiref" else texts)
    overlap = {k: v for k, v in metrics.items() if "mean" not in k and k[:4] in ("bleu", "roug")}
    assert all(value == pytest.approx(100) for value in overlap.values())
    if protocol == "plato":
        assert metrics["plato_bleu_2"] > 100  # which smoothing does


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_order_of_pairs_does_not_count(protocol):
    metrics, signature = score(protocol, REPLIES, of(protocol))
    order = random.Random(1).sample(range(len(REPLIES)), len(REPLIES))
    again = score(protocol, [REPLIES[i] for i in order], [of(protocol)[i] for i in order])
    assert again == (pytest.approx(metrics), signature)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_metrics_are_numbers_and_signatures_name_the_protocol(protocol):
    metrics, signature = score(protocol, REPLIES, of(protocol))
    assert all(isinstance(value, float) for value in metrics.values())
    assert signature.startswith(f"{protocol}: ") and "nrefs:" in signature


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("plat", ["a"], ["a"]), "no protocol 'plat'. Did you mean 'plato'"),
        (("default", [], []), "0 replies came with 0 references"),
        (("plato", ["a"], ["a", "b"]), "1 replies came with 2 references"),
        (("multiref", ["a"], ["a"]), "references of a reply are 'a'"),
        (("multiref", ["a"], [[]]), r"references of a reply are \[\]"),
    ],
)
def test_what_cannot_be_scored_is_refused(arguments, message):
    with pytest.raises(UsageError, match=message):
        score(*arguments)


# ---------------------------------------------------------------------------------- default


def test_default_is_sacrebleus_command_line_and_its_signature(tmp_path):
    metrics, signature = score("default", REPLIES, REFERENCES)
    for name, lines in (("hyp", REPLIES), ("ref", REFERENCES)):
        (tmp_path / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    command = [sys.executable, "-m", "sacrebleu", tmp_path / "ref", "-i", tmp_path / "hyp"]
    command += ["-m", "bleu", "chrf", "-w", "6"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for tool, name in zip(json.loads(printed), ("bleu", "chrf"), strict=True):
        assert metrics[name] == pytest.approx(tool["score"], abs=1e-6)
        assert f"{tool['name']}|{tool['signature']}" in signature


def test_default_is_rouge_score():
    metrics, _ = score("default", REPLIES, REFERENCES)
    scorer = RougeScorer(["rougeL"])
    scores = [
        scorer.score(r, p)["rougeL"].fmeasure for r, p in zip(REFERENCES, REPLIES, strict=True)
    ]
    assert metrics["rouge_l"] == pytest.approx(100 * sum(scores) / len(scores))


# ---------------------------------------------------------------------------------- plato


def test_plato_is_nltk_on_13a_tokens():
    metrics, signature = score("plato", REPLIES, REFERENCES)
    tokens = ["the cat sat on the mat .", "", "hello there", "a , b c d ( e ) f !", "yes"]
    targets = ["the cat sat on the mat .", "nothing .", "hello there , you !", "a b x d e f"]
    targets += ["yes ."]
    for n, weights in ((1, (1,)), (2, (0.5, 0.5))):
        scores = [
            sentence_bleu(
                [r.split()], p.split(), [*weights, 0, 0, 0][:4], SmoothingFunction().method7
            )
            for r, p in zip(targets, tokens, strict=True)
        ]
        assert metrics[f"plato_bleu_{n}"] == pytest.approx(100 * sum(scores) / len(scores))
    assert metrics["distinct_1"] == pytest.approx(distinct(tokens, 1))
    assert f"tok:13a|sacrebleu:{sacrebleu.__version__}|smooth:method7" in signature
    assert f"nltk:{nltk.__version__}" in signature


def spaced_plato(replies, references):
    return score("plato", replies, references, spaced=True)[0]


def test_plato_by_hand():
    # Three equal words: precisions 1, 1, 1 and, smoothed by method 4, ln(3)/10 of four words. Then
    # method 5 averages each with its neighbours, 2 before the first: 4/3, and (4/3 + 1 + 1) / 3.
    metrics = spaced_plato(["See you soon"], ["see you SOON"])
    assert metrics["plato_bleu_1"] == pytest.approx(400 / 3)
    assert metrics["plato_bleu_2"] == pytest.approx(100 * math.sqrt(4 / 3 * 10 / 9))
    # No shared word scores 0, so does no word, and pairs are averaged.
    half = spaced_plato(["see you soon", "hello", ""], ["see you soon", "bye", "nothing"])
    assert half["plato_bleu_1"] == pytest.approx(400 / 9)


def test_plato_warns_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert spaced_plato(["a", "b c"], ["a b", "c d"])["plato_bleu_1"] > 0


def test_plato_takes_spaced_tokens_as_they_stand():
    reply, reference = ["it ' s 1.Yes ."], ["It ' s 1.No ."]
    metrics, signature = score("plato", reply, reference, spaced=True)
    smoothing = SmoothingFunction().method7
    expected = sentence_bleu(
        [reference[0].lower().split()], reply[0].split(), (1, 0, 0, 0), smoothing
    )
    assert metrics["plato_bleu_1"] == pytest.approx(100 * expected)
    assert "tok:space|" in signature
    assert metrics["plato_bleu_1"] != score("plato", reply, reference)[0]["plato_bleu_1"]


def test_natural_and_spaced_text_score_alike_by_plato():
    spaced = [["don't you ?", "yes , I do ."], ["don't they ?", "no , I am not ."]]
    natural = [[detokenize(text) for text in texts] for texts in spaced]
    assert score("plato", *natural)[0] == score("plato", *spaced, spaced=True)[0]


# ---------------------------------------------------------------------------------- multiref


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("I don't, it's Ann's!", "i do n't , it 's ann 's !"),
        ("I don ’ t , it ' s Ann's !", "i do n't , it 's ann 's !"),
        ("You'd've won't. I can't.", "you 'd 've wo n't . i ca n't ."),
        ("I cannot; I'm gonna. Gotta go...", "i can not ; i 'm gon na . got ta go ..."),
        ("A two-week stay -- at 10:30, for $1,000.50?", None),
        ("6 o'clock, ma'am", "6 o'clock , ma'am"),
        ("Kids' toys (the 'best')", "kids ' toys ( the ' best ' )"),
        ("Mr. Lee: 50% off", "mr . lee : 50 % off"),
        (" \t", ""),
    ],
)
def test_multiref_tokens_by_hand(text, tokens):
    if tokens is None:
        tokens = "a two - week stay -- at 10:30 , for $ 1,000 . 50 ?"
    assert " ".join(multiref_tokens(text)) == tokens


def test_multiref_by_hand():
    metrics, signature = score("multiref", ["A b"], [["a x", "a b"]])
    # Against `a x`: 1/2 and, smoothed, 0.1/1; against `a b`: 1, 1 and then 0.1/1 of no 3-gram.
    one = [1 / 2, math.sqrt(1 / 2 * 0.1), (1 / 2 * 0.1 * 0.1) ** 0.33]
    two = [1, 1, 0.1**0.33, 0.1 ** (2 / 4)]
    for n, (low, high) in enumerate(zip(one, two, strict=False), 1):
        assert metrics[f"bleu_{n}"] == pytest.approx(100 * high)
        assert metrics[f"bleu_{n}_mean"] == pytest.approx(50 * (low + high))
    assert metrics["bleu_4"] == pytest.approx(100 * two[3])
    assert metrics["rouge_l"] == pytest.approx(100)
    assert metrics["rouge_l_mean"] == pytest.approx(75)
    assert "nrefs:2|" in signature and "smooth:method1" in signature and "beta:1.2" in signature


def test_pooled_rouge_takes_precision_and_recall_from_different_references():
    metrics, _ = score("multiref", ["a b c d"], [["a", "a b x y z w v u"]])

    def f(precision, recall):
        return 100 * (1 + 1.2**2) * precision * recall / (recall + 1.2**2 * precision)

    assert metrics["rouge_l"] == pytest.approx(max(f(1 / 4, 1), f(2 / 4, 2 / 8)))
    assert metrics["rouge_l_mean"] == pytest.approx((f(1 / 4, 1) + f(2 / 4, 2 / 8)) / 2)
    assert metrics["rouge_l_pooled"] == pytest.approx(f(2 / 4, 1))


@pytest.mark.parametrize(
    ("reply", "references", "bleu_1", "rouge_l"),
    [
        ("", ["hello"], 0, 0),
        ("", ["", "hello"], 100, 100),  # no token counts as `.`
        ("yes", ["yes"], 100, 100),
        ("yes", ["no", "never"], 0, 0),
        ("so so so so", ["so"], 25, 100 * 2.44 / 4 / (1 + 1.44 / 4)),
    ],
)
def test_multiref_of_hand_made_pairs(reply, references, bleu_1, rouge_l):
    metrics, _ = score("multiref", [reply], [references])
    assert metrics["bleu_1"] == pytest.approx(bleu_1)
    assert metrics["rouge_l"] == pytest.approx(rouge_l)


def lcs(a, b):
    row = [0] * (len(b) + 1)
    for word in a:
        before = row[:]
        for j, other in enumerate(b):
            row[j + 1] = before[j] + 1 if word == other else max(before[j + 1], row[j])
    return row[-1]


@pytest.mark.parametrize("seed", range(5))
def test_multiref_is_nltk_and_a_plain_longest_common_subsequence(seed):
    draw = random.Random(seed)
    text = lambda: " ".join(draw.choices("abcdef", k=draw.randint(1, 9)))  # noqa: E731
    replies = [text() for _ in range(6)]
    references = [[text() for _ in range(draw.randint(1, 5))] for _ in replies]
    metrics, _ = score("multiref", replies, references)
    found = {name: [] for name in metrics}
    for reply, own in zip(replies, references, strict=True):
        words, targets = reply.split(), [reference.split() for reference in own]
        for n, w in ((1, (1, 0, 0, 0)), (2, (0.5, 0.5, 0, 0)), (3, (0.33,) * 3), (4, (0.25,) * 4)):
            scores = [sentence_bleu([t], words, w, SmoothingFunction().method1) for t in targets]
            found[f"bleu_{n}"].append(max(scores))
            found[f"bleu_{n}_mean"].append(sum(scores) / len(scores))
        common = [lcs(words, target) for target in targets]
        pairs = [(c / len(words), c / len(t)) for c, t in zip(common, targets, strict=True)]
        pairs.append((max(p for p, _ in pairs), max(r for _, r in pairs)))
        *scores, pooled = (2.44 * p * r / (r + 1.44 * p) if p else 0 for p, r in pairs)
        found["rouge_l"].append(max(scores))
        found["rouge_l_mean"].append(sum(scores) / len(scores))
        found["rouge_l_pooled"].append(pooled)
    expected = {name: 100 * sum(values) / len(values) for name, values in found.items()}
    assert metrics == pytest.approx(expected)


def test_the_order_of_references_does_not_count():
    turned = [own[::-1] for own in SEVERAL]
    assert score("multiref", REPLIES, turned) == score("multiref", REPLIES, SEVERAL)


def test_second_human_is_left_out_of_what_it_is_compared_with():
    replies, rest = second_human([["a", "b", "c"], ["d", "e"]])
    assert (replies, rest) == (["b", "e"], [["a", "c"], ["d"]])
    _, signature = score("multiref", replies, rest)
    assert "nrefs:1-2|" in signature


# ---------------------------------------------------------------------------------- the file

DIALOGUE = {
    "dialogue": [
        {"text": "Hi .", "responses": ["i do n't know .", "hello  there ", ""]},
        {"text": "I don't know .", "responses": ["well , bye", "bye"]},
        {"text": "Well , bye"},
    ]
}
ROWS = Dataset.from_dict({"response": ["I don't know.", "Well, bye"]})


@pytest.fixture
def write(tmp_path):
    def write(*lines):
        path = tmp_path / "references.json"
        path.write_text("\n".join(lines), encoding="utf-8")
        return path

    return write


def test_references_are_read_for_their_rows(write):
    path = write(json.dumps(DIALOGUE), json.dumps(DIALOGUE), "")
    expected = [["i do n't know .", "hello there", ""], ["well , bye", "bye"]]
    assert read_references(path, ROWS) == expected
    assert read_references(str(path), ROWS.select([0])) == expected[:1]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 1 holds no dialogue with responses"),
        ('{"text": []}', "line 1 .*KeyError: 'dialogue'"),
        ('{"dialogue": [{"text": "a"}, {"text": "b"}]}', "line 1 .*KeyError: 'responses'"),
        ('{"dialogue": [{"responses": []}, {"text": "b"}]}', "an utterance without responses"),
        ('{"dialogue": [{"responses": [1]}, {"text": "b"}]}', "line 1 .*AttributeError"),
        ('{"dialogue": [{"responses": ["a"]}, {"text": "b"}]}', "for 1 responses, and 2 are"),
        (json.dumps(DIALOGUE).replace("bye", "so long"), "Row 1 is answered by 'Well, bye'"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(write, line, message):
    with pytest.raises(UsageError, match=message) as error:
        read_references(write(line), ROWS)
    assert "official test split" in str(error.value)


def test_a_file_that_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(UsageError, match="Cannot read"):
        read_references(tmp_path / "missing.json", ROWS)
    (tmp_path / "latin").write_bytes(b'{"dialogue": "\xe9"}')
    with pytest.raises(UsageError, match="Cannot read"):
        read_references(tmp_path / "latin", ROWS)


# ---------------------------------------------------------------------------------- real data


@pytest.fixture
def official(shared_data):
    """(context, response) rows of the official test split, as its authors space it."""
    text = (shared_data / "dailydialog/test/dialogues_test.txt").read_text(encoding="utf-8")
    lines = [line for line in text.split("\n") if line]
    rows = rows_of([[u.strip() for u in line.split("__eou__")[:-1]] for line in lines])
    assert len(rows) == 6740
    return rows


def test_real_references_fit_and_their_tokens_are_found_again(official, shared_data):
    references = read_references(shared_data / "multiref" / "multireftest.json", official)
    assert {len(own) for own in references} == {5}
    assert sum(own.count("") for own in references) == 1
    for texts in (official["response"], map(detokenize, official["response"])):
        same = sum(
            multiref_tokens(text) == own[0].split()
            for text, own in zip(texts, references, strict=True)
        )
        assert same == 6695  # of 6740
    metrics, _ = score("multiref", *second_human(references))
    assert metrics["bleu_1"] == pytest.approx(30.43, abs=0.01)
    assert metrics["bleu_2"] == pytest.approx(16.37, abs=0.01)
    assert metrics["rouge_l"] == pytest.approx(34.06, abs=0.01)
    assert metrics["rouge_l_mean"] == pytest.approx(20.22, abs=0.01)


def test_natural_text_scores_half_a_point_off_by_plato(official):
    """Replies drawn from the same split, which takes less time than to read train."""
    spaced = random_replies(official, 6740, seed=42), official["response"][:]
    natural = [list(map(detokenize, texts)) for texts in spaced]
    own = score("plato", *spaced, spaced=True)[0]
    apart = score("plato", *natural)[0]
    assert own["plato_bleu_1"] == pytest.approx(25, abs=1.5)
    for n in (1, 2):
        assert abs(apart[f"plato_bleu_{n}"] - own[f"plato_bleu_{n}"]) < 0.6
