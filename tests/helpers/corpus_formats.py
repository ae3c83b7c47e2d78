"""Small files in the forms of published dialogue corpora, with their mess, and their messages."""

import json
from typing import NamedTuple

from seq2seq_dialog.data.readers import (
    chatterbot,
    convokit,
    cornell,
    dstc,
    empathetic,
    json_corpora,
    named_turns,
    parlai,
    subtitles,
)


class Sample(NamedTuple):
    """A file, or the first of several that lie together, and what is read of it."""

    reader: object  # a module
    files: dict[str, str | bytes]
    transcripts: list[list[str]]  # messages as `speaker: text`
    notes: dict[str, int] = {}  # noqa: RUF012 (never written to)
    learnt: str | None = None


def lines(*objects) -> str:
    """JSON, an object a line."""
    return "".join(json.dumps(content) + "\n" for content in objects)


def utterance(name: str, reply_to: str | None, speaker: str, text, **others) -> dict:
    fields = {"id": name, "conversation_id": "a1", "speaker": speaker, "text": text}
    return fields | {"reply-to": reply_to, "meta": {}, "vectors": []} | others


SAMPLES = {
    "cornell": Sample(
        cornell,
        {
            "movie_conversations.txt": "u0 +++$+++ u2 +++$+++ m0 +++$+++ ['L4', 'L5', 'L6']\n"
            "u0 +++$+++ u2 +++$+++ m0 +++$+++ ['L9', 'L10']\n",
            # Newest first; quotation marks of cp1252; tags; a line without text.
            "movie_lines.txt": b"L10 +++$+++ u2 +++$+++ m0 +++$+++ VERA +++$+++ Not <u>now</u>.\r\n"
            b"L9 +++$+++ u0 +++$+++ m0 +++$+++ TOM +++$+++ It\x92s caf\xe9 time\x85\r\n"
            b"L6 +++$+++ u0 +++$+++ m0 +++$+++ TOM +++$+++ \r\n"
            b"L5 +++$+++ u2 +++$+++ m0 +++$+++ VERA +++$+++ Who: you?\r\n"
            b"L4 +++$+++ u0 +++$+++ m0 +++$+++ TOM +++$+++ I can drive.\r\n",
        },
        [["TOM: I can drive.", "VERA: Who: you?"], ["TOM: It’s café time…", "VERA: Not now."]],
        {"empty_utterance": 1},
    ),
    "cornell, its lines": Sample(
        cornell,
        {
            "corpus/movie_lines.txt": "L4 +++$+++ u0 +++$+++ m0 +++$+++ TOM +++$+++ I drive.\n",
            "corpus/movie_conversations.txt": "u0 +++$+++ u2 +++$+++ m0 +++$+++ ['L4']\n",
        },
        [],
    ),
    "convokit": Sample(
        convokit,
        {
            "utterances.jsonl": lines(
                utterance("a1", None, "ann", "Which bike?", timestamp=60),
                utterance("a2", "a1", "bob", "A green one.", timestamp="120.5"),
                utterance("a3", "a1", "cat", "The old one."),
                utterance("a4", "a2", "ann", "[deleted]"),
                utterance("a5", "a4", "bob", "Why?"),
                utterance("a6", "a3", "ann", None),
                utterance("a7", "gone", "dan", "Late here.", conversation_id="a7"),
                utterance("a8", "a8", "eve", "Alone.", conversation_id="a8"),
            )
        },
        [
            ["ann: Which bike?", "bob: A green one."],
            ["bob: Why?"],
            ["ann: Which bike?", "cat: The old one."],
            ["dan: Late here."],
            ["eve: Alone."],
        ],
        {"deleted_message": 1, "empty_utterance": 1},
    ),
    "convokit, as it was": Sample(
        convokit,
        {
            "utterances.jsonl": lines(
                {"id": 1, "root": 1, "user": "ann", "reply_to": None, "text": "Tea?"},
                {"id": 2, "root": 1, "user": "bob", "reply_to": 1, "text": "Yes.\nTwo cups."},
            )
        },
        [["ann: Tea?", "bob: Yes.\nTwo cups."]],
    ),
    "persona chat": Sample(
        parlai,
        {
            "train_both_original.txt": "1 your persona: i keep bees .\n"
            "2 your persona: my hat is red .\n"
            "3 partner's persona: i sell tea .\n"
            "4 hi , how are you ?\tbusy , it is harvest time .\t\ti am fine .|busy .\n"
            "5 __SILENCE__\tand you ?\t\tand you ?|no .\r\n"
            "1 your persona: i dive .\n"
            "2 hello\\nthere\ta__PIPE__b\n"
        },
        [
            [
                "user: hi , how are you ?",
                "assistant: busy , it is harvest time .",
                "assistant: and you ?",
            ],
            ["user: hello\nthere", "assistant: a|b"],
        ],
        {"crlf": 1, "empty_utterance": 1},
        "assistant",
    ),
    "babi": Sample(
        parlai,
        {
            "dialog-babi-task1-trn.txt": "1 good morning\thello\n2 <SILENCE>\tfor how many ?\n"
            "3 resto_rome R_cuisine italian\n4 for six\tok\n\n1 hi\thello\n"
        },
        [
            [
                "user: good morning",
                "assistant: hello",
                "assistant: for how many ?",
                "user: for six",
                "assistant: ok",
            ],
            ["user: hi", "assistant: hello"],
        ],
        {"empty_utterance": 1, "system_line": 1},
        "assistant",
    ),
    "parlai": Sample(
        parlai,
        {
            "train.txt": "text:your persona: i keep bees.\\nhi there\tlabels:hello: you|hey\t"
            "id:x\tepisode_done:False\n"
            "text:bye\teval_labels:so long\tepisode_done:True\n"
            "text:again\tlabels:\tepisode_done:True\n"
        },
        [
            ["user: hi there", "assistant: hello: you", "user: bye", "assistant: so long"],
            ["user: again"],
        ],
        {"empty_utterance": 1},
        "assistant",
    ),
    "empathetic": Sample(
        empathetic,
        {
            "valid.csv": f"{empathetic.HEADER},selfeval,tags\n"
            'hit:0_conv:1,1,proud,I won_comma_ once.,4,"I won_comma_ you know,5|5|5_4|5|5,\n'
            "hit:0_conv:1,2,proud,I won_comma_ once.,7,Did you?,5|5|5_4|5|5,\n"
            "hit:0_conv:1,3,proud,I won_comma_ once.,4, ,5|5|5_4|5|5,\n"
            "hit:1_conv:2,1,sad,It rains.,7,It rains ,5|5|5_4|5|5,<TAG>,a_comma_ b|c\n"
        },
        [['4: "I won, you know', "7: Did you?"], ["7: It rains"]],
        {"empty_utterance": 1},
    ),
    "multiwoz 2.1": Sample(
        json_corpora,
        {
            "data.json": """{
                "PMUL1.json": {"goal": {"taxi": {}}, "log": [
                    {"text": "A taxi, please.", "metadata": {}},
                    {"text": "Where to? ", "metadata": {"taxi": {}}}
                ]},
                "SNG2.json": {"goal": {}, "log": [{"text": "Hi"}, {"text": " "}, {"text": "Bye"}]}
            }"""
        },
        [["user: A taxi, please.", "assistant: Where to?"], ["user: Hi", "user: Bye"]],
        {"empty_utterance": 1},
    ),
    "schema guided": Sample(
        json_corpora,
        {
            "dialogues_001.json": """[{"dialogue_id": "1_00000", "services": [], "turns": [
                {"frames": [{"actions": []}], "speaker": "USER", "utterance": "A train."},
                {"frames": [], "speaker": "SYSTEM", "utterance": "When?"}
            ]}]"""
        },
        [["user: A train.", "assistant: When?"]],
    ),
    "taskmaster": Sample(
        json_corpora,
        {
            "sample.json": """{"conversation_id": "dlg-1", "instruction_id": "x", "utterances": [
                {"index": 0, "speaker": "ASSISTANT", "text": "Tea?"},
                {"index": 1, "speaker": "user", "text": "Green.", "segments": []}
            ]}"""
        },
        [["assistant: Tea?", "user: Green."]],
    ),
    "topical chat": Sample(
        json_corpora,
        {
            "test_freq.json": """{"t_1": {"article_url": "x", "config": "C", "content": [
                {"message": "Seen it? ", "agent": "agent_1", "sentiment": "Happy"},
                {"message": "No.", "agent": "agent_2", "knowledge_source": ["FS1"]}
            ], "conversation_rating": {"agent_1": "Good"}}}"""
        },
        [["agent_1: Seen it?", "agent_2: No."]],
    ),
    "wizard of wikipedia": Sample(
        json_corpora,
        {
            "train.json": """[{"chosen_topic": "Bees", "persona": "i keep bees", "dialog": [
                {"speaker": "0_Wizard", "text": "Bees dance.", "checked_sentence": {}},
                {"speaker": "1_Apprentice", "text": "Do they?", "retrieved_passages": []}
            ]}]"""
        },
        [["0_Wizard: Bees dance.", "1_Apprentice: Do they?"]],
    ),
    "dstc": Sample(
        dstc,
        {
            "call/log.json": """{"session-id": "voip-1", "caller-id": "x", "turns": [
                {"turn-index": 0, "output": {"transcript": "Hello."}, "input": {"live": {}}},
                {"turn-index": 1, "output": {"transcript": "Which part?"}, "input": {}}
            ]}""",
            "call/label.json": """{"session-id": "voip-1", "turns": [
                {"turn-index": 0, "transcription": "thai food"},
                {"turn-index": 1, "transcription": ""}
            ]}""",
        },
        [["assistant: Hello.", "user: thai food", "assistant: Which part?"]],
        {"empty_utterance": 1},
    ),
    "dstc, its labels": Sample(
        dstc,
        {"label.json": '{"session-id": "voip-1", "turns": [{"transcription": "thai food"}]}'},
        [],
    ),
    "chatterbot": Sample(
        chatterbot,
        {
            "tea.yml": "\ufeffcategories:\r\n- tea\r\nconversations:\r\n- - Do you drink tea?\r\n"
            "  - Yes\r\n- - Tea or water?\r\n  - Note: 12\r\n  -\r\n  - Why?\r\n- Alone - here\r\n"
        },
        [
            ["None: Do you drink tea?", "None: Yes"],
            ["None: Tea or water?", "None: Note: 12", "None: Why?"],
            ["None: Alone - here"],
        ],
        {"bom": 1, "crlf": 10, "empty_utterance": 1},
    ),
    "subrip": Sample(
        subtitles,
        {
            "film.srt": "1\n00:00:01,500 --> 00:00:03,000\n<i>Where did you</i>\n{\\an8}put it,\n\n"
            "2\n00:00:03,100 --> 00:00:04,000\nin the house?\n\n"
            "3\n00:00:05,000 --> 00:00:06,000\n- In the shed.\n- [DOOR CLOSES] Good...\n\n"
            "4\n00:00:06,500 --> 00:00:07,000\n...enough.\n\nMAN: Stop\n"  # a blank line inside
            "5\n00:00:07,100 --> 00:00:08,000\nVOICE: Who is it?\n\n"
            "6\n00:00:30,000 --> 00:00:31,000\n♪ la la ♪\n(SIGHS)\n\n"
            "7\n01:00:00,000 --> 01:00:01,000\nSubtitles by nobody\n"
        },
        [
            [
                "None: Where did you put it, in the house?",
                "None: In the shed.",
                "None: Good... ...enough.",
                "None: Stop",
                "None: Who is it?",
            ]
        ],
        {"sound_description": 2, "system_line": 1},
    ),
    "webvtt": Sample(
        subtitles,
        {
            "talk.vtt": "WEBVTT Kind: captions\n\nNOTE made by hand\nfor us\n\nintro\n"
            "00:01.000 --> 00:02.000 align:start\n<v.loud Ann>Tea &amp;</v>\n\nNOTE again\n\n"
            "00:02.000 --> 00:03.000\n<v Ann>milk?\n<v Bob>Yes.\n"
        },
        [["Ann: Tea & milk?", "Bob: Yes."]],
    ),
    "a recorded meeting": Sample(
        subtitles,
        {
            "meeting.vtt": "WEBVTT\n\n1\n00:00:01.000 --> 00:00:02.000\nAnn Lee: Shall we "
            "start?\n\n"
            "2\n00:00:02.000 --> 00:00:03.000\nBob: Yes.\n\n"
            "3\n00:00:03.000 --> 00:00:04.000\nAll here.\n"
        },
        [["Ann Lee: Shall we start?", "Bob: Yes.", "Bob: All here."]],
    ),
    "captions that roll": Sample(
        subtitles,
        {
            "talk.en.vtt": "WEBVTT\nKind: captions\n\n00:00:00.160 --> 00:00:02.000 align:start\n"
            " \nso<00:00:00.320><c> here</c><00:00:00.500><c> we</c>\n\n"
            "00:00:02.000 --> 00:00:02.010\nso here we\n \n\n"
            "00:00:02.010 --> 00:00:04.000\nso here we\nare<00:00:02.400><c> then</c>\n"
        },
        [["None: so here we", "None: are then"]],
    ),
    "captions that roll, as SubRip": Sample(
        subtitles,
        {
            "talk.srt": "1\n00:00:00,160 --> 00:00:02,000\nso here we\n\n"
            "2\n00:00:02,000 --> 00:00:02,010\nso here we\n\n"
            "3\n00:00:02,010 --> 00:00:04,000\nso here we\nare then\n\n"
            "4\n00:00:04,000 --> 00:00:04,010\nare then\n\n"
            "5\n00:00:04,010 --> 00:00:06,000\nare then\nno no\n"
        },
        [["None: so here we", "None: are then", "None: no no"]],
    ),
    "who speaks outside the picture": Sample(
        subtitles,
        {
            "film.srt": "1\n00:00:01,000 --> 00:00:02,000\nMAN: Where is he?\nWOMAN: Gone.\n\n"
            "2\n00:00:02,000 --> 00:00:03,000\nMAN 1: Get down!\n\n"
            "3\n00:00:03,000 --> 00:00:04,000\nPOLICE OFFICER #2: No.\nNo.\n\n"
            "4\n00:00:05,000 --> 00:00:06,000\nIt is 10 PAST 8: late.\n\n"
            "5\n00:00:06,000 --> 00:00:07,000\nCome.\n\n6\n00:00:07,000 --> 00:00:08,000\nNow.\n\n"
            "7\n00:00:08,000 --> 00:00:09,000\nPlease.\n\n8\n00:00:09,000 --> 00:00:10,000\nGo.\n"
        },
        [
            [
                *("None: Where is he?", "None: Gone.", "None: Get down!", "None: No. No."),
                *("None: It is 10 PAST 8: late.", "None: Come.", "None: Now.", "None: Please."),
                "None: Go.",
            ]
        ],
    ),
    "subtitles without full stops": Sample(
        subtitles,
        {"film.srt": "0:0:1,0 --> 00:00:02,000\n你好\n\n2\n00:00:02,000 --> 00:00:03,000\n再见\n"},
        [["None: 你好", "None: 再见"]],
    ),
    "interview": Sample(
        named_turns,
        {
            "interview.txt": "Interview of March\n\nQ: Since when?\n\nA: Since May. I said: go\n"
            "and they went.\n\n"
            "[laughs]\n\nQ: Really?\n\nA:\nYes.\n\nQ: \n\nA: No.\n"
        },
        [
            [
                "Q: Since when?",
                "A: Since May. I said: go\nand they went.",
                "Q: Really?",
                "A: Yes.",
                "A: No.",
            ]
        ],
        {"system_line": 1, "sound_description": 1, "empty_utterance": 1},
    ),
    "chats": Sample(
        named_turns,
        {
            "chats.txt": "User: Hi\nBot: Hello\nUser: Tea?\nBot: http://tea.example\n\n"
            "User: Bye\nBot: So long\nUser: Bye\nBot: Bye\n"
            "-----\nAnn (00:12): Yes\nBob: No\nAnn: 安\n"
        },
        [
            ["User: Hi", "Bot: Hello", "User: Tea?", "Bot: http://tea.example"],
            ["User: Bye", "Bot: So long", "User: Bye", "Bot: Bye"],
            ["Ann: Yes", "Bob: No", "Ann: 安"],
        ],
    ),
    "chats with times": Sample(
        named_turns,
        {
            "log.txt": "2024-01-02 10:32:11 Ann: hi\n2024-01-02 10:32:15 Bob Lee: hello\n"
            "2024-01-02 23:05 Ann: tea?\nor coffee?\n[2024-01-02 23:06:00] Bob Lee: no\n"
            "2024-01-02T23:07:00.5Z Ann: why?\n-----\n"
            "Ann (10:32 AM): hi\nBob Lee [9:05pm]: hello\n(1:05 p.m.) Ann: tea?\nBob Lee: no\n"
        },
        [
            ["Ann: hi", "Bob Lee: hello", "Ann: tea?\nor coffee?", "Bob Lee: no", "Ann: why?"],
            ["Ann: hi", "Bob Lee: hello", "Ann: tea?", "Bob Lee: no"],
        ],
    ),
}
# What no reader here may take for its own.
OTHERS = {
    "dialogues": "Hello . __eou__ Hi , Ann . __eou__\nAnn: no __eou__ Bob: yes __eou__\n" * 3,
    "named dialogues": "Ann: Hello . __eou__ Bob: Hi . __eou__\nBob: Tea ? __eou__\n" * 3,
    "prose": "It rained.\nShe said: come in, and he came.\n\nNote: the door was open.\nHe left.\n",
    "diary": "2024-01-02 10:32 It rained.\n2024-01-03 10:32 She said: come in.\n"
    "2024-01-04 We met at (10:32 AM): he was late.\n2024-01-05 10:32:11 He left.\n",
    "log of a program": "2024-01-02 10:32:11 INFO: began\n2024-01-02 10:32:12 root ERROR: no file\n"
    "2024-01-02 10:32:13 INFO: goes on\n2024-01-02 10:32:14 root ERROR: no file\n",
    "log in brackets": "[2024-01-02 10:32:11] app.INFO: hi\n[2024-01-02 10:32:12] app.ERROR: no\n"
    * 3,
    "measurements": "2024-01-02 10:32 temperature: 20.5 °C\n2024-01-02 10:33 pressure: 1012\n" * 3,
    "records": "name: Ann\nage: 3\ntown: Rome\n\nname: Bob\nage: 4\ntown: Bonn\n",
    "headers": "Name: x\nVersion: 1\nTag: a\nTag: b\nTag: c\nNeeds: e\nNeeds: f\nNeeds: g\n",
    "code": "class A:\n    a: int\n    b: str\n    a: int\n    b: str\n    a: int\n    b: str\n",
    "settings": "categories:\n- tea\nconversations: 3\nseed: 12\n",
    "table": "speaker,text\nann,hi\nbob,hello\n",
    "numbered": "1 first\n2 second\n3 third\n",
    "fields": "time:3\ttext:hi\nhost:a\ttext:ho\n",
    "numbers": "1\tone\n2\ttwo\n",
    "messages": lines({"messages": [{"role": "user", "content": "Hi"}]}),
    "pairs": json.dumps([{"text": "Hi", "speaker": "a"}, {"text": "Hello", "speaker": "b"}]),
    "chat": "[01.02.24, 10:00:00] Ann: hi\n[01.02.24, 10:00:01] Bob: hello\n"
    "[01.02.24, 10:00:02] Ann: tea?\n[01.02.24, 10:00:03] Bob: no\n",
    "irc": "[10:00] <ann> hi\n[10:01] <bob> hello: you\n* bob waves\n",
    "damaged JSON": '{"goal": {}, "log": [{"text": "Hi"',
    "empty": "",
    "a number": "12",
    "empty list": "[]",
    "lists": "[[], {}, 1]",
    "no turns": '{"a": {"goal": {}, "log": []}}',
    "log without session": '{"turns": [{"transcription": "hi"}]}',
}
