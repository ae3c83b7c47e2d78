"""What a dry run guesses of the languages of dialogues."""

import importlib
import sys

import pytest
from datasets import concatenate_datasets
from helpers.corpus import rows_of
from helpers.trainers import make_trainer

from seq2seq_dialog.report import preview
from seq2seq_dialog.report.preview import (
    NOT_TOLD,
    decode_examples,
    guess_languages,
    language_doubt,
    measure,
)

DIALOGUES = {
    "en": ["u coming tonight?", "idk, got work till 9", "ok come after then, we save u pizza"],
    "de": ["Kommst du heute noch vorbei?", "Eher nicht, bin total müde.", "Schade, dann morgen!"],
    "fr": ["T'es où ?", "J'arrive dans cinq minutes.", "Ok, je t'attends devant la gare."],
    "es": ["¿Ya cenaste?", "Todavía no, ¿y tú?", "Tampoco. ¿Pedimos algo?"],
    "pt": ["Oi, tudo bem?", "Tudo, e você? Faz tempo!", "Pois é, vamos marcar um café."],
    "it": ["Hai visto le mie chiavi?", "Sono sul tavolo, come sempre.", "Che farei senza di te?"],
    "nl": ["Heb je zin in koffie?", "Ja graag, zonder suiker.", "Dan zie ik je om drie uur."],
    "pl": ["Gdzie jesteś?", "Już jadę, straszne korki.", "Dobra, czekamy na ciebie."],
    "tr": ["Bugün hava çok güzel.", "Evet, parka gidelim mi?", "Olur, bir saat sonra çıkarım."],
    "ru": ["Ты где?", "Ещё на работе, скоро буду.", "Купи хлеба, пожалуйста."],
    "zh": ["你吃饭了吗？", "还没有，你呢？", "我们一起去吃面吧。"],
    "ja": ["今どこ？", "まだ駅にいるよ。", "じゃあ、先に店に入ってるね。"],
    "ar": ["أين أنت الآن؟", "في الطريق، سأصل بعد قليل.", "حسنا، نحن ننتظرك."],
    NOT_TOLD: ["😀😀", "12:30?", "ok", "👍"],
}


def test_a_dry_run_needs_no_module_that_windows_lacks(monkeypatch):
    monkeypatch.setitem(sys.modules, "resource", None)
    importlib.reload(preview)


@pytest.mark.parametrize("language", DIALOGUES)
def test_the_language_of_a_dialogue_is_guessed_by_all_its_turns(language):
    assert guess_languages(rows_of([DIALOGUES[language]])) == ({language: 1.0}, 1)


def test_neighbours_with_one_id_are_two_dialogues():
    rows = concatenate_datasets([rows_of([DIALOGUES[language]]) for language in ("de", "en")])
    assert guess_languages(rows) == ({"de": 0.5, "en": 0.5}, 2)


def test_shares_are_of_dialogues_and_of_a_sample_that_is_evenly_spaced(monkeypatch):
    german, english, short = (DIALOGUES[name] for name in ("de", "en", NOT_TOLD))
    rows = rows_of([german] * 4 + [english] * 3 + [short] + [german[:2]] * 2)
    shares, dialogues = guess_languages(rows)
    assert list(shares.items()) == [("de", 0.6), ("en", 0.3), (NOT_TOLD, 0.1)] and dialogues == 10
    monkeypatch.setattr(preview, "DIALOGUES", 2)
    assert guess_languages(rows_of([german] + [short] * 2 + [english] + [short] * 3)) == (
        {"de": 0.5, "en": 0.5},
        2,
    )


@pytest.mark.parametrize(
    ("shares", "language", "told"),
    [
        ({"de": 0.9, "en": 0.1}, "en", "in the language de, but language is en: set --language de"),
        ({"zh": 0.6, "en": 0.4}, "de", "in the language zh, but language is de: set --language zh"),
        ({"de": 0.9}, "de", None),
        ({"pt": 1.0}, "pt-BR", None),
        ({"de": 0.5, "en": 0.5}, "en", None),
        ({NOT_TOLD: 1.0}, "en", None),
    ],
)
def test_another_language_than_that_of_the_settings_is_doubted(shares, language, told):
    doubt = language_doubt(shares, language)
    assert doubt is None if told is None else told in doubt


@pytest.mark.parametrize("count", [1, 2, 3, 60])
def test_examples_are_different_ones_however_few_there_are(features, tokenizer, count):
    examples = decode_examples(features.select(range(count)), tokenizer)
    assert len({str(example) for example in examples}) == min(count, preview.SHOWN)


def test_steps_are_measured_as_training_takes_them(model, tokenizer, features, tmp_path):
    trainer = make_trainer(model, tokenizer, features, tmp_path, activation_checkpointing=True)
    trainer.first_step, taken = 7, []

    def training_step(model, inputs, targets):
        taken.append((model.is_activation_checkpointing, trainer.state.global_step))

    trainer.training_step = training_step
    measure(trainer)
    assert taken == [(True, 7)] * preview.TRIAL_BATCHES and trainer.state.global_step == 0
