"""Any text and any bytes: the reader and the context builder hold what they promise.

A long run, which takes 1 second otherwise:

    FUZZ_SECONDS=600 FUZZ_SEED=1 pytest tests/data/test_any_text.py -k bytes
"""

import bz2
import gzip
import io
import os
import random
import time
import zipfile
from collections import Counter

import pytest
from helpers.damage import mutated
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from seq2seq_dialog.dataset_script.dialogues import CONTROL, make_rows, read, scan_text
from seq2seq_dialog.dataset_script.sources import BOM, find_sources

from seq2seq_dialog.portable.context import encode_context, encode_texts, join_turns

relaxed = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
any_text = st.text(st.characters(exclude_categories=["Cs"]))
special = st.sampled_from(["</s>", "<pad>", "<unk>", "__eou__", "＜／ｓ＞", "<", "s>", "__", " "])
hostile = st.lists(st.one_of(special, any_text), max_size=6).map("".join)
# What the reader leaves as it is: no control characters, no marks of its own, no outer space.
utterance = any_text.map(
    lambda text: CONTROL.sub("", text).replace("__eou__", "").replace(BOM, "").strip()
).filter(bool)


@relaxed
@given(dialogues=st.lists(st.lists(utterance, min_size=1, max_size=5), min_size=1, max_size=5))
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_what_is_written_is_read(tmp_path, encoding, dialogues):
    text = "\n".join(" __eou__ ".join([*turns, ""]) for turns in dialogues)
    (tmp_path / "talk.txt").write_bytes(text.encode(encoding))
    (source,) = find_sources(str(tmp_path / "talk.txt"))
    assert [dialogue.utterances for dialogue in read(source)] == dialogues
    for dialogue in read(source):
        assert [pair.response for pair in dialogue.pairs] == dialogue.utterances[1:]


@relaxed
@given(turns=st.lists(hostile.filter(str.strip), min_size=1, max_size=5))
def test_turns_are_parted_by_as_many_separators_and_end_once(tokenizer, turns):
    separator = tokenizer.convert_tokens_to_ids("__eou__")
    tokenizer.model_max_length = 10_000
    ids = encode_context(turns, tokenizer)
    assert ids.count(separator) == len(turns) - 1
    assert ids.index(tokenizer.eos_token_id) == len(ids) - 1
    assert tokenizer.pad_token_id not in ids
    # A batch gives what each text gives.
    assert encode_texts(turns, tokenizer) == [encode_texts([t], tokenizer)[0] for t in turns]


@given(
    turns=st.lists(st.lists(st.integers(5, 9), max_size=9), min_size=1, max_size=6),
    room=st.integers(1, 30),
)
def test_the_latest_whole_turns_are_kept(turns, room):
    ids, cut = join_turns(turns, 1, ([2], [3]), room + 2)
    assert ids[0] == 2 and ids[-1] == 3 and len(ids) <= room + 2
    kept = turns[cut:]
    if kept:
        assert ids[1:-1] == [token for turn in kept for token in (*turn, 1)][:-1]
        assert not cut or len(ids) - 2 + 1 + len(turns[cut - 1]) > room
    else:
        assert ids[1:-1] == turns[-1][-room:]


def _seeds() -> list[bytes]:
    """Files of every kind that is read."""
    text = "Is it warm ? __eou__ Almost , Ann’s 猫 . __eou__ Fine . __eou__\n" * 9
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("dialogues_text.txt", text)
        archive.writestr("dialogues_act.txt", "1 2 1\n" * 9)
    outer = io.BytesIO()
    with zipfile.ZipFile(outer, "w") as archive:
        inner = packed.getvalue().replace(b"dialogues_text.txt", b"dialogues_test.txt")
        archive.writestr("test.zip", inner)
    raw = text.encode()
    encoded = [text.encode(name) for name in ("utf-16", "utf-32", "utf-16-le", "gb18030")]
    packed_texts = [gzip.compress(raw), bz2.compress(raw), packed.getvalue(), outer.getvalue()]
    return [raw, raw.replace(b"\n", b"\r"), *encoded, *packed_texts, b""]


def test_any_bytes_are_read_or_refused_in_words(tmp_path):
    seconds, seed = (float(os.environ.get(f"FUZZ_{name}", 1)) for name in ("SECONDS", "SEED"))
    generator, seeds, outcomes = random.Random(seed), _seeds(), Counter()
    path, end = tmp_path / "talk.txt", time.monotonic() + seconds
    while time.monotonic() < end:
        data = mutated(generator.choice(seeds), generator)
        path.write_bytes(data)
        try:
            for source in find_sources(str(path)):
                scan_text(source, Counter())
                list(make_rows(read(source), "train", True, natural=True))
            outcomes["read"] += 1
        except (ValueError, FileNotFoundError) as error:
            assert type(error) in (ValueError, FileNotFoundError), (error, data)
            assert str(path) in str(error) or "talk:" in str(error), (error, data)
            outcomes["refused"] += 1
        except Exception as error:
            raise AssertionError(f"{error!r} of {data!r}") from error
    print(f"{dict(outcomes)} in {seconds:g} s, seed {seed:g}")
    assert outcomes["read"] and outcomes["refused"]
