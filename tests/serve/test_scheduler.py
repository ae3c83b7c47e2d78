"""What the scheduler tells of a reply, and when it stops computing one."""

import threading

import pytest
import torch
from helpers.corpus import sample_dialogues
from helpers.exports import convert_to
from helpers.servers import lively_model, wait_until

from seq2seq_dialog.models.tokenizer import load_tokenizer
from seq2seq_dialog.portable.context import encode_context
from seq2seq_dialog.serve.chat_completions import ChatRequest
from seq2seq_dialog.serve.inference import generate_response
from seq2seq_dialog.serve.jobs import Abandoned, Job
from seq2seq_dialog.serve.safety import Safety
from seq2seq_dialog.serve.scheduler import Scheduler
from seq2seq_dialog.settings import ModelArguments

CONTEXTS = [turns[:1] for turns in sample_dialogues(8)]
END = 1


@pytest.fixture(scope="module")
def tokenizer(tokenizer_folder):
    return load_tokenizer(ModelArguments(), 64, tokenizer_folder)


@pytest.fixture
def model():
    """A model whose replies have at most six tokens after the start token."""
    model = lively_model()
    model.generation_config.update(max_new_tokens=None, max_length=7, num_beams=1)
    return model


def answers(model, tokenizer):
    """Reply to `CONTEXTS` by a scheduler; return the pieces that are told."""
    scheduler, pieces, ended = Scheduler(model, tokenizer, 9), {}, threading.Semaphore(0)
    for place, context in enumerate(CONTEXTS):

        def tell(piece, place=place):
            pieces[place] = piece
            ended.release()

        scheduler.submit(Job(context, {}, tell, in_pieces=False))
    for _ in CONTEXTS:
        assert ended.acquire(timeout=60)
    scheduler.stop()
    return [pieces[place] for place in range(len(CONTEXTS))]


@pytest.mark.parametrize("num_beams", [1, 2])
def test_a_reply_without_an_end_token_has_ended_by_its_length(model, tokenizer, num_beams):
    model.generation_config.update(num_beams=num_beams, length_penalty=-5.0)  # of beams: short
    pieces = answers(model, tokenizer)
    for context, piece in zip(CONTEXTS, pieces, strict=True):
        (ids,) = model.generate(torch.tensor([encode_context(context, tokenizer)])).tolist()
        tokens = ids[1 : ids.index(END)] if END in ids else ids[1:]
        assert piece.tokens == len(tokens)
        assert piece.finish_reason == ("stop" if END in ids else "length")
    assert {piece.finish_reason for piece in pieces} == {"stop", "length"}


@pytest.mark.parametrize(
    "settings",
    [
        {"guidance_weight": 0.5},
        {"candidates": 2, "num_beams": 2},
        {"candidates": 2, "do_sample": True},
        {"num_beams": 2},
    ],
    ids=str,
)
def test_as_many_whole_replies_as_are_asked_for(model, tokenizer, settings):
    model.generation_config.update(**settings)
    told = []
    job = Job(CONTEXTS[0], {}, told.append, count=3, in_pieces=False)
    compute(job, Scheduler(model, tokenizer, 9))
    assert sorted(piece.index for piece in told) == [0, 1, 2]


def test_a_request_that_says_how_to_sample_is_streamed_from_a_guided_model(model, tokenizer):
    plain = generate_response(CONTEXTS[0], model, tokenizer)
    model.generation_config.guidance_weight = 0.8
    guided = generate_response(CONTEXTS[0], model, tokenizer)
    message = {"role": "user", "content": CONTEXTS[0][0]}
    for asked, reply in (({"temperature": 0}, plain), ({}, guided)):
        request = ChatRequest(model="m", messages=[message], **asked)
        told = []
        job = Job(CONTEXTS[0], request.decoding(), told.append)
        compute(job, Scheduler(model, tokenizer, 9))
        assert "".join(piece.text for piece in told).strip() == reply
        assert (len(told) > 2) == bool(asked)  # token by token, or whole
    assert plain != guided


@pytest.mark.parametrize("num_beams", [1, 2])
def test_an_end_token_that_is_forced_where_the_room_ends_is_no_stop(model, tokenizer, num_beams):
    model.generation_config.update(num_beams=num_beams, min_length=6, forced_eos_token_id=END)
    ends = {(piece.finish_reason, piece.tokens) for piece in answers(model, tokenizer)}
    assert ends == {("length", 5)}


@pytest.mark.parametrize(
    "settings",
    [
        {"num_beams": 2},
        {"num_beams": 2, "renormalize_logits": True},  # by the search of transformers
        {"do_sample": True, "candidates": 3},
        {"do_sample": True, "guidance_weight": 0.5},
    ],
    ids=str,
)
def test_a_reply_that_nobody_waits_for_is_not_computed(model, tokenizer, settings):
    for name, value in {"min_length": 60, "max_length": 60, **settings}.items():
        setattr(model.generation_config, name, value)
    job, steps = Job(CONTEXTS[0], {}, lambda piece: None), []

    def leave(*_):
        steps.append(1)
        job.is_cancelled = True

    model.decoder.register_forward_hook(leave)
    compute(job, Scheduler(model, tokenizer, 9))
    assert 0 < len(steps) < 5


def test_nor_by_an_export_under_a_filter(model, tokenizer, tmp_path, monkeypatch):
    pytest.importorskip("ctranslate2")
    model.generation_config.update(min_new_tokens=60, max_new_tokens=60, do_sample=True)
    model.save_pretrained(tmp_path / "run")
    tokenizer.save_pretrained(tmp_path / "run")
    exported = convert_to(tmp_path / "export", tmp_path / "run", tokenizer)
    (tmp_path / "words.txt").write_text("badger")
    job, steps = Job(CONTEXTS[0], {}, lambda piece: None, count=2), []

    def leave(*_):
        steps.append(1)
        return True

    monkeypatch.setattr(Abandoned, "are_gone", leave)
    compute(job, Scheduler(exported, tokenizer, 9, Safety(words=tmp_path / "words.txt")))
    assert 0 < len(steps) < 5


def compute(job, scheduler):
    """Wait until a job has been computed, or left."""
    scheduler.submit(job)
    scheduler.stop()
    wait_until(lambda: scheduler.has_ended)
