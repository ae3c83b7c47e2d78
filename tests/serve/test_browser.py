"""The chat page in a browser: type, stream, stop, retry, edit, decode otherwise, compare, vote."""

import re
import shutil
import time
from types import SimpleNamespace

import pytest
import torch
from helpers.servers import wait_until
from transformers import GenerationConfig

from seq2seq_dialog.models.tokenizer import load_tokenizer
from seq2seq_dialog.portable.context import encode_context
from seq2seq_dialog.serve.arena import arena
from seq2seq_dialog.serve.space.app import LAUNCH_OPTIONS, page
from seq2seq_dialog.serve.space.conversation import NO_TAG, Speaker
from seq2seq_dialog.serve.votes import read_votes
from seq2seq_dialog.settings import ModelArguments

playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
PATIENCE = 60_000  # milliseconds


def speaker(name: str, tokenizer, said: list, words: int = 20) -> Speaker:
    """A model that answers with its name, how many turns it read, and so many words as it may.

    Asked to talk slowly, it takes a fifth of a second for each token; asked to fail, it does.
    """

    def answer(messages, streamer=None, **options):
        said.append((name, len(messages), options))
        slowly = "slowly" in messages[-1]["content"]
        if "fail" in messages[-1]["content"]:
            raise ValueError("It does not work.")
        reply = f"{name} {len(messages)}" + options.get("max_new_tokens", words) * " you"
        if streamer is not None:
            streamer.put(torch.tensor([0]))
            for token in tokenizer(reply)["input_ids"]:
                time.sleep(0.2 * slowly)
                streamer.put(torch.tensor([token]))
            streamer.end()
        said.append("whole")
        return reply

    config = GenerationConfig(max_new_tokens=words)
    model = SimpleNamespace(generation_config=config, num_parameters=lambda: 60_000)
    encode = lambda messages: encode_context(messages, tokenizer)  # noqa: E731
    extras = {"Letters": lambda messages, reply, options: f"{len(reply)} letters"}
    return Speaker(name, model, tokenizer, answer, encode, extras)


@pytest.fixture(scope="module")
def site(tokenizer_folder, tmp_path_factory):
    """The pages of one model and of three, what the models were asked, and the file of votes."""
    tokenizer = load_tokenizer(ModelArguments(), 64, tokenizer_folder)
    said, votes = [], tmp_path_factory.mktemp("votes") / "votes.jsonl"
    one = page(speaker("me", tokenizer, said))
    three = arena([speaker(name, tokenizer, said) for name in ("he", "she", "they")], votes)
    urls = [
        demo.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1", **LAUNCH_OPTIONS)
        for demo in (one, three)
    ]
    yield SimpleNamespace(one=urls[0][1], three=urls[1][1], said=said, votes=votes)
    one.close(verbose=False)
    three.close(verbose=False)


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser):
    """Open a page; it must have written no error when the test ends."""
    pages, errors = [], []

    def visit(url: str):
        visited = browser.new_page(viewport={"width": 390, "height": 844})
        pages.append(visited)
        visited.set_default_timeout(PATIENCE)
        visited.on("pageerror", lambda error: errors.append(str(error)))
        visited.goto(url)
        return visited

    playwright.expect.set_options(timeout=PATIENCE)
    yield visit
    for visited in pages:
        visited.close()
    assert errors == []


def say(visited, text: str) -> None:
    box = visited.get_by_label("Your message").locator("visible=true")
    box.fill(text)
    box.press("Enter")


def hears(visited, *replies: str | re.Pattern) -> None:
    """Wait until these are the replies on the page, without what is folded under them."""
    bots = visited.locator(".bot .message:not(.thought) .message-content").locator("visible=true")
    playwright.expect(bots).to_have_text(list(replies))


def reply(name: str, turns: int, words: int = 20) -> str:
    return f"{name} {turns}" + words * " you"


def test_a_dialogue_is_said_retried_edited_and_taken_back(site, visit):
    visited = visit(site.one)
    visited.get_by_text("I have lost my keys").click()
    hears(visited, reply("me", 1))
    say(visited, "Hi!")
    hears(visited, reply("me", 1), reply("me", 3))
    fold = visited.get_by_text("tokens,").last
    fold.click()
    playwright.expect(visited.get_by_text("The model reads").last).to_be_visible()
    asked = len(site.said)
    visited.get_by_label("Retry").last.click()
    wait_until(lambda: len(site.said) > asked, seconds=60)
    playwright.expect(visited.get_by_label("Retry").last).to_be_visible()
    hears(visited, reply("me", 1), reply("me", 3))
    visited.get_by_label("Edit").first.click()
    visited.locator(".user textarea").fill("Where is it?")
    visited.get_by_label("Submit").click()
    hears(visited, reply("me", 1))
    playwright.expect(visited.get_by_text("Where is it?")).to_be_visible()
    visited.get_by_label("Edit").first.click()
    visited.locator(".user textarea").fill("Please fail")
    visited.get_by_label("Submit").click()
    box = visited.get_by_label("Your message")
    playwright.expect(box).to_have_value("Please fail")
    hears(visited, reply("me", 1))
    visited.get_by_label("Undo").last.click()
    playwright.expect(box).to_have_value("Where is it?")


def test_what_is_typed_is_shown_and_read_as_it_is(site, visit):
    visited = visit(site.one)
    typed = "What does <b>bold</b> &amp; R&D do? It costs $$5 or $$6"
    say(visited, typed)
    hears(visited, reply("me", 1))
    shown = visited.locator(".user .message-content").inner_text()
    assert shown.replace(NO_TAG, "") == typed
    say(visited, "And? " * 1000)  # too long
    playwright.expect(visited.get_by_text("at most 4,000 letters")).to_be_visible()
    box = visited.get_by_label("Your message")
    playwright.expect(box).to_have_value("And? " * 1000)
    visited.get_by_label("Undo").last.click()
    playwright.expect(box).to_have_value(typed)
    say(visited, typed)
    hears(visited, reply("me", 1))
    visited.get_by_label("Edit").first.click()
    edited = visited.locator(".user textarea")
    assert edited.input_value().replace(NO_TAG, "") == typed
    edited.fill(edited.input_value() + "!")
    visited.get_by_label("Submit").click()
    playwright.expect(visited.get_by_text("$$6!")).to_be_visible()


@pytest.mark.parametrize("button", ["Stop", "Clear"])
def test_a_reply_is_seen_as_it_grows_and_can_be_stopped(site, visit, button):
    visited = visit(site.one)
    say(visited, "Talk slowly")
    bots = visited.locator(".bot .message-content")
    playwright.expect(bots).to_contain_text("me 1 you")
    visited.get_by_label(button).click()
    playwright.expect(visited.get_by_label("Send")).to_be_visible()
    if button == "Stop":
        assert len(bots.inner_text()) < len(reply("me", 1))
    time.sleep(0.5)
    playwright.expect(bots).to_have_count(int(button == "Stop"))
    assert site.said[-1] != "whole"  # the model has stopped, too
    say(visited, "Hi!")
    playwright.expect(bots.last).to_have_text(reply("me", 3 if button == "Stop" else 1))


def test_decoding_has_its_effect_at_once_and_a_reload_begins_anew(site, visit):
    visited = visit(site.one)
    visited.get_by_role("button", name="Decoding").click()
    visited.get_by_label("number input for Longest reply").fill("2")
    visited.get_by_label("Letters").check()
    say(visited, "Hi!")
    hears(visited, reply("me", 1, words=2))
    visited.locator(".bot").get_by_text("Letters", exact=True).click()
    playwright.expect(visited.get_by_text("12 letters", exact=True)).to_be_visible()
    visited.reload()
    playwright.expect(visited.get_by_text("begin with one of these")).to_be_visible()
    say(visited, "Hi!")
    hears(visited, reply("me", 1))


def test_several_models_answer_the_same_turn(site, visit):
    visited = visit(site.three)
    say(visited, "Hi!")
    hears(visited, reply("he", 1), reply("she", 1), reply("they", 1))
    visited.get_by_label("Undo").locator("visible=true").first.click()
    hears(visited)


def test_votes_are_blind_and_kept_and_the_names_told_on_request(site, visit):
    visited = visit(site.three)
    visited.get_by_role("tab", name="Blind").click()
    tell = visited.get_by_role("button", name="Tell the names")
    playwright.expect(tell).to_be_disabled()
    for number in range(1, 11):
        say(visited, f"Hi {number}")
        hears(visited, *[re.compile("( you){20}$")] * 2 * number)
        playwright.expect(visited.get_by_label("Send").locator("visible=true")).to_be_visible()
        button = ("Left is better", "Tie", "Right is better", "Both bad")[number % 4]
        visited.get_by_role("button", name=button).click()
        word = "vote" if number == 1 else "votes"
        playwright.expect(visited.get_by_text(f"{number} {word}", exact=True)).to_be_visible()
    votes = read_votes(site.votes)
    assert len(votes) == 10 and votes[1]["context"][-1] == "Hi 2"
    decided = [vote for vote in votes if vote["vote"] == "better"]
    assert all(vote["chosen"].startswith(f"{vote['chosen_model']} ") for vote in decided)
    assert {"better", "tie", "both bad"} == {vote["vote"] for vote in votes}
    standings = visited.locator(".block.standings")
    assert "they" not in standings.inner_text() and "Bradley-Terry" in standings.inner_text()
    tell.click()
    playwright.expect(standings).to_contain_text("they")
    visited.reload()
    visited.get_by_role("tab", name="Blind").click()
    playwright.expect(visited.get_by_text("10 votes", exact=True)).to_be_visible()
