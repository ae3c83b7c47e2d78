"""Exports of chats: what each reader makes of a file as messy as real ones, and what it refuses."""

import csv
import io
import json
import re
from collections import Counter, defaultdict
from datetime import datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from seq2seq_dialog.data.files import File
from seq2seq_dialog.data.readers import (
    chatgpt,
    discord,
    irc,
    kakaotalk,
    line_chat,
    slack,
    telegram,
    whatsapp,
)
from seq2seq_dialog.data.rows import load_rows
from seq2seq_dialog.errors import UsageError
from seq2seq_dialog.report.data_card import PROBLEMS
from seq2seq_dialog.settings import DataArguments

READERS = {
    "whatsapp": whatsapp.READER,
    "telegram": telegram.READER,
    "line": line_chat.READER,
    "kakaotalk": kakaotalk.READER,
    "discord": discord.READER,
    "slack": slack.READER,
    "irc": irc.READER,
    "chatgpt": chatgpt.READER,
}
ANDROID = """\
31/12/2023, 20:58 - Messages and calls are end-to-end encrypted. Tap to learn more.
31/12/2023, 20:59 - Ann created group "Party: plans"
31/12/2023, 20:59 - Ann changed the subject from "Party" to "Party: plans"
31/12/2023, 21:05 - Ann: Hi, who brings the salad?
I bring:
  bread
31/12/2023, 21:05 - Ben B.: <Media omitted>
31/12/2023, 21:06 - Ben B.: live location shared
31/12/2023, 21:06 - Ben B.: \u200eIMG-20231231-WA0001.jpg (file attached)
31/12/2023, 21:07 - Ben B.: Me: as always <This message was edited>
1/1/2024, 09:30 - \u202a+49 151 000000\u202c: This message was deleted
1/1/2024, 09:31 - Ann: See you at 10:30 - or later
"""
IOS = """\
\u200e[31.12.23, 21:05:33] Party: \u200eMessages and calls are end-to-end encrypted.
[31.12.23, 21:05:33] Ann: Hast du ein Bild?
\u200e[31.12.23, 21:05:40] ~\u202fBen: \u200eBild weggelassen
\u200e[31.12.23, 21:05:59] ~\u202fBen: Hier \u200e<Anhang: 00000012-PHOTO-2023-12-31-21-05-59.jpg>
\u200e[31.12.23, 21:06:01] ~\u202fBen: report.pdf • \u200e2 Seiten \u200eDokument weggelassen
[31.12.23, 21:06:09] Ann: Toll \u200e<Diese Nachricht wurde bearbeitet.>
\u200e[01.01.24, 00:00:00] Ann: \u200eAnn hat Cem hinzugefügt
[01.01.24, 00:00:01] Ann: Frohes neues @\u2068Ben\u2069!
"""
TELEGRAM = {
    "name": 'Party "2023"',
    "type": "private_group",
    "id": 12345,
    "messages": [
        {"id": 1, "type": "service", "date": "2023-12-31T21:05:00", "actor": "Ann", "text": ""},
        {
            **{"id": 2, "type": "message", "date": "2023-12-31T21:05:33", "from": "Ann"},
            **{"from_id": "user1", "text": ["See ", {"type": "link", "text": "x.org"}, ", Ben!"]},
        },
        {
            **{"id": 3, "type": "message", "date": "2023-12-31T21:06:00", "from": "Ann"},
            **{"from_id": "user2", "text": "Two of us", "reply_to_message_id": 2},
        },
        {
            **{"id": 4, "type": "message", "date": "2023-12-31T21:07:00", "from": None},
            **{"from_id": "user3", "text": "Gone", "forwarded_from": "News"},
        },
        {"id": 5, "type": "message", "from": "Ben", "photo": "photos/1.jpg", "text": ""},
        {"id": 6, "type": "message", "from": "Ben", "text": [{"type": "bold"}]},
        {"id": 7, "type": "message", "from": "Ben", "text": ""},
        "nonsense",
    ],
}
DISCORD = {
    "guild": {"id": "1", "name": "A server", "iconUrl": ""},
    "channel": {"id": "77", "type": "GuildTextChat", "category": "Text", "name": "general"},
    "messages": [
        {
            **{"id": "1", "type": "GuildMemberJoin", "timestamp": "2023-12-31T21:05:00+01:00"},
            **{"content": "Joined the server.", "author": {"id": "5", "name": "ann"}},
        },
        {
            **{"id": "2", "type": "Default", "timestamp": "2023-12-31T21:05:33.123+01:00"},
            **{"content": "Hi\nall", "author": {"name": "ann", "discriminator": "0000"}},
        },
        {
            **{"id": "3", "type": "Reply", "timestamp": "2023-12-31T21:06:00+01:00"},
            **{"content": "Hi @ann", "author": {"name": "Ben", "discriminator": "0042"}},
        },
        {
            **{"id": "4", "type": "Default", "timestamp": "2023-12-31T20:06:30Z", "content": ""},
            **{"author": {"name": "ann"}, "attachments": [{"id": "9", "fileName": "a.png"}]},
        },
        {
            **{"id": "5", "type": "Default", "timestamp": "2023-12-31T20:06:40Z"},
            **{"content": "Level 2!", "author": {"name": "Bot", "isBot": True}},
        },
        {"id": "6", "type": "Default", "content": None, "author": {"name": "ann"}},
    ],
}
DISCORD_CSV = """\
AuthorID,Author,Date,Content,Attachments,Reactions
"5","ann","2023-12-31T21:05:00.0000000+01:00","Joined the server.","",""
"6","Ben#0042","2023-12-31T21:06:00.0000000+01:00","Hi ""ann"",
how are you?","",""
"5","ann","2023-12-31T21:05:33.1230000+01:00","Hi all","","👍 (2)"
"5","ann","2023-12-31T21:06:30.0000000+01:00","","https://x.org/a.png",""
"5","ann"
"""
SLACK_USERS = [
    {"id": "U1", "name": "ann", "profile": {"display_name": "Ann", "real_name": "Ann A."}},
    {"id": "U2", "name": "ben", "profile": {"display_name": "", "real_name": "Ben B."}},
    {"id": "U3", "name": "ann2", "profile": {"display_name": "Ann"}},
]
SLACK = [
    {"type": "message", "subtype": "channel_join", "user": "U1", "text": "x", "ts": "1704053000.1"},
    {
        "type": "message",
        "user": "U1",
        "ts": "1704053133.000200",
        "text": "Hi <@U2>, a &lt; b &amp;c",
    },
    {
        **{"type": "message", "user": "U2", "ts": "1704053140.000100", "text": "<!here> see"},
        **{"thread_ts": "1704053140.000100", "reply_count": 1},
    },
    {
        **{
            "type": "message",
            "user": "U9",
            "ts": "1704053150.000100",
            "thread_ts": "1704053140.000100",
        },
        **{"text": "<https://x.org|x> <#C1|general>", "user_profile": {"real_name": "Cem"}},
    },
    {
        "type": "message",
        "subtype": "bot_message",
        "ts": "1704053160.0",
        "text": "Built",
        "bot_id": "B",
    },
    {"type": "message", "user": "U7", "ts": "1704053165.0", "text": "Standup!", "bot_id": "B7"},
    {"type": "message", "user": "U3", "ts": "1704053170.0", "text": "", "files": [{"id": "F1"}]},
    {"type": "message", "subtype": "tombstone", "user": "USLACKBOT", "ts": "1704053180.0"},
    {"type": "message", "user": "U3", "ts": "1704053190.000000", "text": "Which <mailto:a@x.org>?"},
    {"type": "message", "user": "U3", "text": "No time"},
]
IRSSI = """\
--- Log opened Sun Dec 31 21:05:33 2023
21:05 -!- ann [~ann@x.org] has joined #talk
21:05 < ann> hi ben: how are you? <3
21:06 <@ben> ann: \x0304,01fine\x03, thanks
21:06  * ann waves
21:07 -ChanServ(services@x.org)- welcome
23:59 <+cem> happy new year
--- Day changed Mon Jan 01 2024
00:01 < ann> yes!
"""
LINE = """\
[LINE] Chat history with Ben
Saved on: 2024/01/02 10:00

2023/12/31(Sun)
21:05\tAnn\tHi, who brings the salad?
21:06\tBen\t"Me,
as ""always"", I"
21:06\tBen\t[Sticker]
21:07\tBen\t☎ Call time 0:32
21:07\tBen unsent a message.

2024/01/01(Mon)
午後9:08\tAnn\tThanks
"""
KAKAOTALK = """\
보 님과 카카오톡 대화
저장한 날짜 : 2024-01-02 10:00:00

--------------- 2023년 12월 31일 일요일 ---------------
[안] [오후 9:05] 잘 지내?
[보] [오후 9:06] 응
너는?
[보] [오후 9:06] 사진 2장
[보] [오후 9:06] 삭제된 메시지입니다.
안님이 민님을 초대했습니다.
--------------- 2024년 1월 1일 월요일 ---------------
[안] [오전 12:07] 나도
"""
KAKAOTALK_ON_A_TELEPHONE = """\
Ben KakaoTalk Chats
Date Saved : Jan 2, 2024, 10:00 AM

Dec 31, 2023, 9:05 PM
Dec 31, 2023, 9:05 PM, Ann : Hi: who brings the salad?
Dec 31, 2023, 9:06 PM, Ben : Photo
Dec 31, 2023 at 21:07, Ben : Me,
as always
Jan 1, 2024, 9:08 AM, Ben left this chatroom.
2024년 1월 1일 오후 9:08, Ann : Thanks
"""
WEECHAT = (
    "2023-12-31 21:05:33\t-->\tann (~ann@x.org) has joined #talk\n"
    "2023-12-31 21:05:34\t@ann\thi\n2023-12-31 21:05:35\tben\tann: \ttabs\n"
    "2023-12-31 21:05:36\t *\tann waves\n2023-12-31 21:05:37\t--\tMode #talk [+o ben]\n"
    "2023-12-31 21:05:38\t\tnotice of a script\n2023-12-31 21:05:39\tann\t\n"
)
HEXCHAT = """\
**** BEGIN LOGGING AT Sun Dec 31 23:59:00 2023

Dec 31 23:59:00 *\tNow talking on #talk
Dec 31 23:59:30 <ann>\tnearly there
Jan 01 00:00:01 <ben>\tnow
Jan 01 00:00:02 *\tben waves
**** ENDING LOGGING AT Mon Jan 01 00:01:00 2024

"""
ZNC = """\
[23:59:30] *** Joins: ann (a@x.org)
[23:59:33] <ann> text
[23:59:40] * ann waves
[00:00:10] <ben> [00:00] <ann> quoted
and a stray line
"""
EGGDROP = """\
[00:00] --- Sun Dec 31 2023
[21:05] ann (~ann@x.org) joined #talk.
[21:05] #talk: mode change '+o ann' by ben!b@x.org
[21:05] <ann> hello
[21:06] Action: ann waves
[21:06] <ben> hi
"""


def gpt_node(parent, role, *parts, kind="text", time=None, hidden=False, recipient="all") -> dict:
    """A node of a conversation of ChatGPT."""
    content = {"content_type": kind, "parts": list(parts)}
    metadata = {"is_visually_hidden_from_conversation": True} if hidden else {}
    message = {"author": {"role": role, "name": None}, "create_time": time, "content": content}
    message |= {"metadata": metadata, "recipient": recipient}
    return {"id": "x", "message": message, "parent": parent, "children": []}


PICTURE = {"content_type": "image_asset_pointer", "asset_pointer": "file-service://x"}
CHATGPT = {
    "title": "Tea",
    "create_time": 1704056733.5,
    "update_time": 1704056790.0,
    "mapping": {
        "root": {"id": "root", "message": None, "parent": ["?"], "children": ["a"]},
        "a": gpt_node("root", "system", "", hidden=True),
        "b": gpt_node("a", "system", "I am a baker.", hidden=True),
        "c": gpt_node("b", "system", "Be kind."),
        "d": gpt_node("c", "user", PICTURE, "Which tea?", "This one?", time=1704056733.5),
        "e": gpt_node("d", "assistant", "An answer that another replaced.", time=1704056734.5),
        "f": gpt_node("d", "assistant", 'search("tea")', kind="code", recipient="browser"),
        "g": gpt_node("f", "tool", "Tea is a drink."),
        "h": gpt_node("g", "assistant", "It is tea.", kind="thoughts"),
        "i": gpt_node("h", "assistant", "Green tea.", time=1704056740.0),
        "j": gpt_node("i", "user", PICTURE),
        "k": gpt_node("j", "assistant", "", time=1704056750.0),
        "l": {"id": "l", "message": {"author": {}}, "parent": "k", "children": []},
        "m": gpt_node("l", "user", {"content_type": "audio_transcription", "text": "And that?"}),
        "n": gpt_node("m", "assistant", "Black tea.", time=1704156750),
    },
    "current_node": "n",
    "conversation_id": "c-1",
}
CHATGPT_FILES = {
    "conversations.json": json.dumps([CHATGPT, {"mapping": {}, "title": "", "id": "c-2"}]),
    "message_feedback.json": json.dumps([{"conversation_id": "c-1", "content": "{}"}]),
}


def as_json(content) -> str:
    return json.dumps(content, ensure_ascii=False, indent=1)


SLACK_FILES = {"talk/2023-12-31.json": as_json(SLACK), "users.json": as_json(SLACK_USERS)}
# Of which reader, and its files, the first of which is read.
SAMPLES = {
    "Android": ("whatsapp", {"_chat.txt": ANDROID}),
    "iOS": ("whatsapp", {"_chat.txt": IOS}),
    "one Telegram chat": ("telegram", {"result.json": as_json(TELEGRAM)}),
    "Telegram account": (
        "telegram",
        {"result.json": as_json({"about": "Here", "contacts": {}, "chats": {"list": [TELEGRAM]}})},
    ),
    "LINE": ("line", {"chat.txt": LINE}),
    "KakaoTalk": ("kakaotalk", {"chat.txt": KAKAOTALK}),
    "KakaoTalk on a telephone": ("kakaotalk", {"chat.txt": KAKAOTALK_ON_A_TELEPHONE}),
    "Discord": ("discord", {"general.json": as_json(DISCORD)}),
    "Discord CSV": ("discord", {"general.csv": DISCORD_CSV}),
    "Slack": ("slack", SLACK_FILES),
    "irssi": ("irc", {"talk.log": IRSSI}),
    "WeeChat": ("irc", {"talk.weechatlog": WEECHAT}),
    "HexChat": ("irc", {"talk.log": HEXCHAT}),
    "ZNC": ("irc", {"talk/2023-12-31.log": ZNC}),
    "eggdrop": ("irc", {"talk.log": EGGDROP}),
    "ChatGPT": ("chatgpt", CHATGPT_FILES),
    "one ChatGPT conversation": ("chatgpt", {"tea.json": as_json(CHATGPT)}),
    "dialogues": (None, {"dialogues_text.txt": "Hello . __eou__ Hi , Ann . __eou__\n" * 3}),
    "dated prose": (None, {"a.txt": "31/12/2023 at 9:05 we met - Ann: late, as ever.\n" * 3}),
    "Chinese prose": (None, {"a.txt": "2023年12月31日 下午9:05 开会 - 记录: 无\n" * 3}),
    "Bulgarian prose": (None, {"a.txt": "31.12.2023 г., 21:05 ч. Ann: започна\n" * 3}),
    "prose": (None, {"a.txt": "At 21:05 Ann said: hi.\n\n31/12/2023 - a day: like any.\n"}),
    "minutes": (None, {"a.txt": "21:05 The meeting began.\n21:07 Ann: we should stop.\n"}),
    "roles": (None, {"a.json": as_json({"messages": [{"role": "user", "content": "hi"}]})}),
    "list": (None, {"a.json": as_json([{"id": 1, "type": "message", "text": "hi"}])}),
    "table": (None, {"a.csv": "id,author,date,content\n1,ann,2023-12-31,hi\n"}),
    "nothing": (None, {"a.txt": ""}),
}


def stored(folder, files: dict[str, str]) -> File:
    """Write files, and give the first of them as a file of a source."""
    places = {}
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())
        places[name] = (str(path),)
    first = next(iter(files))
    return File(first, places[first], places)


def read(folder, reader: str, files: dict[str, str]):
    """Return the transcripts of the first file, and the numbers of each kind of problem."""
    problems = defaultdict(list)
    transcripts = list(
        READERS[reader].read(
            stored(folder, files), lambda kind, number: problems[kind].append(number)
        )
    )
    assert problems.keys() <= PROBLEMS.keys()
    return transcripts, dict(problems)


def said(transcripts) -> list[tuple[str, str]]:
    return [(message.speaker, message.text) for t in transcripts for message in t.messages]


WHO_SAYS_WHAT = {
    "Android": (
        [
            ("Ann", "Hi, who brings the salad?\nI bring:\n  bread"),
            ("Ben B.", "Me: as always"),
            ("Ann", "See you at 10:30 - or later"),
        ],
        {"system_line": [1, 2, 3], "media": [7, 8, 9], "deleted_message": [11]},
    ),
    "iOS": (
        [
            ("Ann", "Hast du ein Bild?"),
            ("Ben", "Hier"),
            ("Ann", "Toll"),
            ("Ann", "Frohes neues @Ben!"),
        ],
        {"system_line": [1, 7], "media": [3, 5]},
    ),
    "one Telegram chat": (
        [("Ann (user1)", "See x.org, Ben!"), ("Ann (user2)", "Two of us"), ("user3", "Gone")],
        {
            **{"system_line": [1], "forwarded_message": [4], "media": [5]},
            **{"unreadable": [6, 8], "empty_utterance": [7]},
        },
    ),
    "LINE": (
        [("Ann", "Hi, who brings the salad?"), ("Ben", 'Me,\nas "always", I'), ("Ann", "Thanks")],
        {"system_line": [1, 2, 10, 9], "media": [8]},
    ),
    "KakaoTalk": (
        [("안", "잘 지내?"), ("보", "응\n너는?"), ("안", "나도")],
        {"system_line": [1, 2, 10], "media": [8], "deleted_message": [9]},
    ),
    "KakaoTalk on a telephone": (
        [("Ann", "Hi: who brings the salad?"), ("Ben", "Me,\nas always"), ("Ann", "Thanks")],
        {"system_line": [1, 2, 9], "media": [6]},
    ),
    "Discord": (
        [("ann", "Hi\nall"), ("Ben#0042", "Hi @ann")],
        {"system_line": [1], "media": [4], "bot_message": [5], "unreadable": [6]},
    ),
    "Discord CSV": (
        [("ann", "Hi all"), ("Ben#0042", 'Hi "ann",\nhow are you?')],
        {"system_line": [1], "media": [4], "unreadable": [5]},
    ),
    "Slack": (
        [
            ("Ann (U1)", "Hi @Ben B., a < b &c"),
            ("Ben B.", "@here see"),
            ("Ann (U3)", "Which mailto:a@x.org?"),
            ("Ben B.", "@here see"),
            ("Cem", "x #general"),
        ],
        {
            **{"system_line": [1], "bot_message": [5, 6], "media": [7], "deleted_message": [8]},
            "unreadable": [10],
        },
    ),
    "irssi": (
        [
            ("ann", "hi ben: how are you? <3"),
            ("ben", "ann: fine, thanks"),
            ("cem", "happy new year"),
            ("ann", "yes!"),
        ],
        {"system_line": [1, 2, 5, 6, 8]},
    ),
    "WeeChat": (
        [("ann", "hi"), ("ben", "ann: \ttabs")],
        {"system_line": [1, 4, 5, 6], "empty_utterance": [7]},
    ),
    "HexChat": ([("ann", "nearly there"), ("ben", "now")], {"system_line": [1, 3, 6, 7]}),
    "ZNC": (
        [("ann", "text"), ("ben", "[00:00] <ann> quoted")],
        {"system_line": [1, 3], "unreadable": [5]},
    ),
    "eggdrop": ([("ann", "hello"), ("ben", "hi")], {"system_line": [1, 2, 3, 5]}),
    "ChatGPT": (
        [
            ("user", "Which tea?\nThis one?"),
            ("assistant", "Green tea."),
            ("user", "And that?"),
            ("assistant", "Black tea."),
        ],
        {
            **{"system_line": [2, 7], "system_message": [3], "media": [4, 9]},
            **{"tool_message": [5, 6], "empty_utterance": [10], "unreadable": [11]},
        },
    ),
}


@pytest.mark.parametrize("sample", WHO_SAYS_WHAT)
def test_who_says_what_and_what_is_left_out(tmp_path, sample):
    reader, files = SAMPLES[sample]
    transcripts, problems = read(tmp_path, reader, files)
    expected, expected_problems = WHO_SAYS_WHAT[sample]
    assert said(transcripts) == expected
    assert problems == expected_problems


@pytest.mark.parametrize("sample", SAMPLES)
def test_each_format_is_recognised_by_its_reader_alone(tmp_path, sample):
    reader, files = SAMPLES[sample]
    for line_end in ("\n", "\r\n"):
        changed = {name: text.replace("\n", line_end) for name, text in files.items()}
        file = stored(tmp_path, changed)
        assert [name for name in READERS if READERS[name].recognises(file)] == [
            name for name in [reader] if name
        ]


def test_no_other_file_of_an_export_is_a_chat(tmp_path):
    file = stored(tmp_path, {"users.json": as_json(SLACK_USERS)})
    assert not any(reader.recognises(file) for reader in READERS.values())


TIMES = {
    "Android": [datetime(2023, 12, 31, 21, 5), datetime(2024, 1, 1, 9, 31)],
    "iOS": [datetime(2023, 12, 31, 21, 5, 33), datetime(2024, 1, 1, 0, 0, 1)],
    "one Telegram chat": [datetime(2023, 12, 31, 21, 5, 33), datetime(2023, 12, 31, 21, 7)],
    "LINE": [datetime(2023, 12, 31, 21, 5), datetime(2024, 1, 1, 21, 8)],
    "KakaoTalk": [datetime(2023, 12, 31, 21, 5), datetime(2024, 1, 1, 0, 7)],
    "KakaoTalk on a telephone": [datetime(2023, 12, 31, 21, 5), datetime(2024, 1, 1, 21, 8)],
    "Discord": [
        datetime(2023, 12, 31, 20, 5, 33, 123000),
        datetime(2023, 12, 31, 20, 6),  # what a bot says after it is left out
    ],
    "Discord CSV": [
        datetime(2023, 12, 31, 20, 5, 33, 123000),
        datetime(2023, 12, 31, 20, 6),
    ],
    "Slack": [
        datetime(2023, 12, 31, 20, 5, 33, 200),
        datetime(2023, 12, 31, 20, 6, 30),
    ],
    "irssi": [datetime(2023, 12, 31, 21, 5), datetime(2024, 1, 1, 0, 1)],
    "WeeChat": [datetime(2023, 12, 31, 21, 5, 34), datetime(2023, 12, 31, 21, 5, 35)],
    "HexChat": [datetime(2023, 12, 31, 23, 59, 30), datetime(2024, 1, 1, 0, 0, 1)],
    "ZNC": [datetime(2023, 12, 31, 23, 59, 33), datetime(2024, 1, 1, 0, 0, 10)],
    "eggdrop": [datetime(2023, 12, 31, 21, 5), datetime(2023, 12, 31, 21, 6)],
    "ChatGPT": [datetime(2023, 12, 31, 21, 5, 33, 500000), datetime(2024, 1, 2, 0, 52, 30)],
}


@pytest.mark.parametrize("sample", TIMES)
def test_when_it_is_said(tmp_path, sample):
    messages = read(tmp_path, *SAMPLES[sample])[0][0].messages
    assert [messages[0].time, messages[-1].time] == TIMES[sample]


DAMAGED = {  # reader, file, what the message says
    "Telegram": ("telegram", as_json(TELEGRAM)[:-40], r"result.json, line \d+ is not JSON"),
    "Discord": ("discord", as_json(DISCORD)[:-40], r"line \d+ is not JSON"),
    "Slack": ("slack", as_json(SLACK)[:-40], r"line \d+ is not JSON"),
    "ChatGPT": ("chatgpt", as_json([CHATGPT])[:-40], r"line \d+ is not JSON"),
    "no mapping": (
        "chatgpt",
        as_json([CHATGPT, {"title": "Tea"}]),
        "conversation 2 has no mapping, but each has to. Export it again",
    ),
    "no current node": (
        "chatgpt",
        as_json([CHATGPT | {"current_node": "z"}]),
        "conversation 1 has no way from the node 'z' to its first one.*Export it again",
    ),
    "a circle of nodes": (
        "chatgpt",
        as_json([CHATGPT | {"mapping": {"n": gpt_node("n", "user", "Hi")}}]),
        "conversation 1 has no way from the node 'n'",
    ),
    "no messages": (
        "telegram",
        as_json({"about": "", "chats": {"list": [TELEGRAM, {"id": 2}]}}),
        "chat 2 has no list of messages, but each has to. Export it again",
    ),
    "no chats": ("telegram", as_json({"about": "", "contacts": {}}), "has no chats.*Choose chats"),
    "no channel": ("discord", as_json(DISCORD | {"messages": {}}), "no list of messages"),
    "open quotation": ("discord", DISCORD_CSV[:-40], r"line \d+ is not CSV \(unexpected end"),
    "other order of dates": (
        "whatsapp",
        "31/12/2023, 21:05 - Ann: a\n12/31/2023, 21:06 - Ann: b\n",
        "line 2: the date 12/31/2023 is not day/month/year, but all .* same order. Export",
    ),
    "no date": ("whatsapp", "45/12/2023, 21:05 - Ann: a\n", "line 1: the date 45/12/2023 is not"),
    "no header": ("whatsapp", "Ann: a\n", "no message from line 1 on.*Export the chat again"),
    "no times": ("irc", "21:05 <ann> hi\n" + "ann: hi\n" * 2, "line 2 and 1 others of 3 .*Restore"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_file_is_refused_with_the_place_and_the_way_out(tmp_path, case):
    reader, text, message = DAMAGED[case]
    with pytest.raises(UsageError, match=re.compile(message, re.S)):
        read(tmp_path, reader, {"result.json": text})


@pytest.mark.parametrize("case", ["Telegram", "Discord", "Slack", "ChatGPT", "open quotation"])
def test_a_damaged_file_is_recognised(tmp_path, case):
    reader, text, _ = DAMAGED[case]
    assert READERS[reader].recognises(stored(tmp_path, {"a": text}))


# ---------------------------------------------------------------------------------- WhatsApp


@pytest.mark.parametrize(
    ("header", "when"),
    [
        ("31/12/2023, 21:05 - ", datetime(2023, 12, 31, 21, 5)),
        ("12/31/23, 9:05 PM - ", datetime(2023, 12, 31, 21, 5)),
        ("12/31/23, 9:05\u202fPM - ", datetime(2023, 12, 31, 21, 5)),
        ("31/12/23 9:05 p.\xa0m. - ", datetime(2023, 12, 31, 21, 5)),
        ("31/12/23 12:05 a.m. - ", datetime(2023, 12, 31, 0, 5)),
        ("31/12/2023 à 21:05 - ", datetime(2023, 12, 31, 21, 5)),
        ("31/12/23 a las 21:05 - ", datetime(2023, 12, 31, 21, 5)),
        ("2023-12-31, 21:05 - ", datetime(2023, 12, 31, 21, 5)),
        ("31-12-2023 21:05 - ", datetime(2023, 12, 31, 21, 5)),
        ("31. 12. 2023 21:05 - ", datetime(2023, 12, 31, 21, 5)),
        ("[2023/12/31, 21:05:33] ", datetime(2023, 12, 31, 21, 5, 33)),
        ("[12/31/23, 9:05:33 PM] ", datetime(2023, 12, 31, 21, 5, 33)),
        ("\u200e[31.12.2023 klo 21.05.33] ", datetime(2023, 12, 31, 21, 5, 33)),
        ("31/12/2023 ore 21:05 - ", datetime(2023, 12, 31, 21, 5)),  # words that are not known
        ("31/12/2023 tam da 9:05 - ", datetime(2023, 12, 31, 9, 5)),
        ("31/12/23 a la(s) 9:05 p. m. - ", datetime(2023, 12, 31, 21, 5)),
        ("2023/12/31 下午9:05 - ", datetime(2023, 12, 31, 21, 5)),
        ("2023/12/31 上午12:05 - ", datetime(2023, 12, 31, 0, 5)),
        ("2023/12/31 晚上9:05 - ", datetime(2023, 12, 31, 21, 5)),
        ("2023年12月31日 下午9:05 - ", datetime(2023, 12, 31, 21, 5)),
        ("2023年12月31日21:05 - ", datetime(2023, 12, 31, 21, 5)),
        ("[2023/12/31 下午9:05:33] ", datetime(2023, 12, 31, 21, 5, 33)),
        ("[2023/12/31 午後0:05:33] ", datetime(2023, 12, 31, 12, 5, 33)),
        ("2023년 12월 31일 오후 9:05 - ", datetime(2023, 12, 31, 21, 5)),
        ("2023년 12월 31일 오전 12:05 - ", datetime(2023, 12, 31, 0, 5)),
        ("[2023. 12. 31. 오후 9:05:33] ", datetime(2023, 12, 31, 21, 5, 33)),
        ("31.12.2023, kl. 21:05 - ", datetime(2023, 12, 31, 21, 5)),
        ("31/12/23, 9:05 μ.μ. - ", datetime(2023, 12, 31, 21, 5)),
        ("31/12/23, 9:05 \xb5.\xb5. - ", datetime(2023, 12, 31, 21, 5)),  # the sign of micro
        ("31/12/2023 em 9:05 - ", datetime(2023, 12, 31, 9, 5)),
        ("31/12/23, 9:05\u202fΠ.Μ. - ", datetime(2023, 12, 31, 9, 5)),
        ("31/12/2023, 9:05 PTG - ", datetime(2023, 12, 31, 21, 5)),
        ("31/12/2023, 9.05 pg - ", datetime(2023, 12, 31, 9, 5)),
        ("31.12.2023 г., 21:05 ч. - ", datetime(2023, 12, 31, 21, 5)),
        ("31.12.2023 г., 9:05 ч. сл.об. - ", datetime(2023, 12, 31, 21, 5)),
        ("31.12.2023 ÖS 9:05 - ", datetime(2023, 12, 31, 21, 5)),
        ("[31.12.2023 öö 12:05:33] ", datetime(2023, 12, 31, 0, 5, 33)),
        ("٣١\u200f/١٢\u200f/٢٠٢٣، ٩:٠٥ م - ", datetime(2023, 12, 31, 21, 5)),
        ("\u200f[٣١\u200f/١٢\u200f/٢٠٢٣، ٩:٠٥:٣٣ ص] ", datetime(2023, 12, 31, 9, 5, 33)),
        ("31\u200f/12\u200f/2023, 9:05\xa0\u200fم - ", datetime(2023, 12, 31, 21, 5)),
        ("31/12/2023, 9:05 CH - ", datetime(2023, 12, 31, 21, 5)),
        ("31/12/2023, 12:05 SA - ", datetime(2023, 12, 31, 0, 5)),
    ],
)
def test_forms_of_date_and_time(tmp_path, header, when):
    files = {"_chat.txt": f"{header}Ann: hi"}
    assert whatsapp.READER.recognises(stored(tmp_path, files))
    (transcript,), problems = read(tmp_path, "whatsapp", files)
    assert transcript.messages == [("Ann", "hi", when)] and not problems


@pytest.mark.parametrize(
    ("first", "second", "refused"),
    [
        ("asubuhi 9:05", "jioni 9:05", "'asubuhi'"),
        ("asubuhi 9:05", "jioni 21:05", None),  # of a 24-hour clock
        ("下午9:05", "傍晚6:05", "'傍晚'"),
        ("ore 9:05", "ore 10:05", None),
        ("a la 1:05", "a las 9:05", None),
    ],
)
def test_a_half_of_the_day_that_is_not_known_is_not_lost(tmp_path, first, second, refused):
    files = {"_chat.txt": f"31/12/23 {first} - Ann: hi\n31/12/23 {second} - Ben: ho\n"}
    if refused:
        with pytest.raises(UsageError, match=f"{refused} stands before .*24-hour clock, and exp"):
            read(tmp_path, "whatsapp", files)
    else:
        assert len(said(read(tmp_path, "whatsapp", files)[0])) == 2


@pytest.mark.parametrize(
    ("dates", "days"),
    [
        (["1/2/24", "2/2/24", "1/3/24"], [(2, 1), (2, 2), (3, 1)]),  # else time would go back
        (["1/2/24", "1/3/24", "2/1/24"], [(1, 2), (1, 3), (2, 1)]),
        (["3/2/24", "4/2/24"], [(2, 3), (2, 4)]),  # a day, not a month
        (["3/4/24", "3/5/24"], [(3, 4), (3, 5)]),
        (["24/3/4", "24/3/5"], [(3, 4), (3, 5)]),
    ],
)
def test_one_order_of_day_and_month_is_chosen_for_all(tmp_path, dates, days):
    text = "".join(f"{day}, 21:05 - Ann: hi\n" for day in dates)
    (transcript,), _ = read(tmp_path, "whatsapp", {"_chat.txt": text})
    assert [(m.time.month, m.time.day) for m in transcript.messages] == days
    assert {message.time.year for message in transcript.messages} == {2024}


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        *((text, "media") for text in ("<Media omitted>", "<Medien ausgeschlossen>", "null")),
        *((text, "media") for text in ("<Multimedia omitido>", "<Médias omis>", "<Media omessi>")),
        *((text, "media") for text in ("<Mídia oculta>", "<Без медиафайлов>", "image omitted")),
        *((text, "media") for text in ("imagen omitida", "image absente", "immagine omessa")),
        *((text, "media") for text in ("imagem ocultada", "\u200eGIF omitted", "Sticker omis")),
        ("PTT-20231231-WA0001.opus (Datei angehängt)", "media"),
        ("Ann A.vcf (archivo adjunto)", "media"),
        ("VID-20231231-WA0001.mp4 (plik załączony)", "media"),
        ("\u200e<adjunto: 00000001-STICKER-2023.webp>", "media"),
        ("location: https://maps.google.com/?q=1.5,2.5", "media"),
        ("This message was deleted.", "deleted_message"),
        ("\u200eYou deleted this message.", "deleted_message"),
        ("Diese Nachricht wurde gelöscht.", "deleted_message"),
        ("Eliminaste este mensaje.", "deleted_message"),
        ("Ce message a été supprimé", "deleted_message"),
        ("Questo messaggio è stato eliminato", "deleted_message"),
        ("Mensagem apagada", "deleted_message"),
        ("\u200eMissed voice call", "system_line"),
        ("", "empty_utterance"),
        ("<This message was edited>", "empty_utterance"),
    ],
)
def test_what_nobody_typed_is_left_out(tmp_path, text, kind):
    files = {"_chat.txt": f"31/12/23, 21:05 - Ann: {text}\n31/12/23, 21:05 - Ben: hi\n"}
    transcripts, problems = read(tmp_path, "whatsapp", files)
    assert said(transcripts) == [("Ben", "hi")] and problems == {kind: [1]}


@pytest.mark.parametrize(
    ("text", "typed"),
    [
        ("<3", "<3"),
        ("<br>", "<br>"),
        ("I <3 this>that", "I <3 this>that"),
        ("null and void", "null and void"),
        ("The image omitted a detail", "The image omitted a detail"),
        ("Who deleted this message?", "Who deleted this message?"),
        ("12:30: lunch", "12:30: lunch"),
        ("see <https://x.org/a.html>", "see <https://x.org/a.html>"),
        ("See a.pdf (page 2)", "See a.pdf (page 2)"),
        ("Lovely\u200f \u200e<This message was edited>", "Lovely"),
        ("Nuevo <Se editó este mensaje.>", "Nuevo"),
        ("IMG-20231231-WA0001.jpg (file attached)\nMy cat", "My cat"),
        ("My cat \u200e<attached: 00000001-PHOTO.jpg>", "My cat"),
        ("31/12/23, 21:05 is\n[31.12.23, 21:05:33] Cem: pasted", None),
        ("👩\u200d🍳 cooks", "👩\u200d🍳 cooks"),
    ],
)
def test_what_is_typed_is_kept(tmp_path, text, typed):
    files = {"_chat.txt": f"31/12/23, 21:05 - Ann: {text}\n31/12/23, 21:05 - Ben: hi\n"}
    transcripts, problems = read(tmp_path, "whatsapp", files)
    assert said(transcripts) == [("Ann", typed or text), ("Ben", "hi")] and not problems


def test_a_name_may_hold_a_colon(tmp_path):
    names = ["Team: Ann", "Team: Ben", "Cem"]
    lines = [f"31/12/23, 21:05 - {name}: hi: you" for name in names * 3]
    lines.append("31/12/23, 21:06 - Cem: hello")
    transcripts, _ = read(tmp_path, "whatsapp", {"_chat.txt": "\n".join(lines)})
    assert Counter(speaker for speaker, _ in said(transcripts)) == {
        **dict.fromkeys(names, 3),
        "Cem": 4,
    }


# ---------------------------------------------------------------- what is written is read

relaxed = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
line = st.text(st.characters(exclude_categories=["Cc", "Cf", "Cs"], exclude_characters="<"))
line = line.map(str.strip).filter(bool)
# A colon and a space may part names, too.
lines = st.lists(line, min_size=1, max_size=3).map("\n".join).filter(lambda text: ": " not in text)


def chat(text, names):
    """A chat: hours since the last message, who speaks, and what."""
    message = st.tuples(st.integers(0, 30), st.sampled_from(names), text)
    return st.lists(message, min_size=1, max_size=6)


def timed(messages) -> list[tuple[str, str, datetime]]:
    when = datetime(2023, 12, 25, 21, 5)
    result = []
    for hours, speaker, text in messages:
        when += timedelta(hours=hours)
        result.append((speaker, text, when))
    return result


@relaxed
@given(messages=chat(lines, ["Ann", "Ben B.", "+49 151 000000", "Zoë 🦊"]))
@pytest.mark.parametrize(
    "form",
    [
        "%d/%m/%Y, %H:%M - ",
        "%m/%d/%y, %I:%M\u202f%p - ",
        "%Y-%m-%d, %H:%M - ",
        "[%d.%m.%y, %H:%M:%S] ",
        "\u200e[%m/%d/%y, %I:%M:%S %p] ",
        "[%Y/%m/%d, %H:%M:%S] ",
    ],
)
def test_a_whatsapp_chat_is_read_as_it_is_written(tmp_path, form, messages):
    expected = timed(messages)
    text = "\n".join(f"{when:{form}}{speaker}: {said}" for speaker, said, when in expected)
    (transcript,), problems = read(tmp_path, "whatsapp", {"_chat.txt": text})
    assert transcript.messages == expected and not problems


@relaxed
@given(messages=chat(line, ["ann", "b[o]b", "c_d-e", "`x|", "Zoë"]))
@pytest.mark.parametrize(
    ("stamp", "form"),
    [
        ("%Y-%m-%d %H:%M:%S", "\t{}\t{}"),
        ("%Y-%m-%d %H:%M:%S", "\t@{}\t{}"),
        ("%b %d %H:%M:%S", " <{}>\t{}"),
        ("[%Y-%m-%d %H:%M:%S]", " <{}> {}"),
        ("%Y-%m-%dT%H:%M:%SZ", " <+{}> {}"),
    ],
)
def test_an_irc_log_is_read_as_it_is_written(tmp_path, stamp, form, messages):
    expected = timed(messages)
    rows = (when.strftime(stamp) + form.format(speaker, text) for speaker, text, when in expected)
    text = "\n".join(rows)
    file = {"talk.20231225.log": text}
    assert irc.READER.recognises(stored(tmp_path, file))
    (transcript,), problems = read(tmp_path, "irc", file)
    assert transcript.messages == expected and not problems


@relaxed
@given(messages=chat(lines, ["ann", "Ben#0042"]))
def test_a_discord_table_is_read_as_it_is_written(tmp_path, messages):
    expected = timed(messages)
    table = io.StringIO()
    writer = csv.writer(table, quoting=csv.QUOTE_ALL, lineterminator="\n")
    writer.writerow(["AuthorID", "Author", "Date", "Content", "Attachments", "Reactions"])
    writer.writerows(
        ["5", speaker, when.isoformat(), text, "", ""] for speaker, text, when in expected
    )
    (transcript,), problems = read(tmp_path, "discord", {"general.csv": table.getvalue()})
    assert transcript.messages == expected and not problems


# ------------------------------------------------------------------------- single formats


def test_all_chats_of_a_telegram_account_are_read(tmp_path):
    left = TELEGRAM | {"id": 9, "messages": TELEGRAM["messages"][2:]}
    account = {"about": "Here", "chats": {"list": [TELEGRAM]}, "left_chats": {"list": [left]}}
    transcripts, problems = read(tmp_path, "telegram", {"result.json": as_json(account)})
    assert [(t.id, len(t.messages)) for t in transcripts] == [("12345", 3), ("9", 2)]
    assert problems["unreadable"] == [6, 8, 12, 14]


def test_of_chatgpt_the_answers_are_learnt_and_each_conversation_is_whole(tmp_path):
    for split in ("train", "test"):
        stored(tmp_path / "export" / split, CHATGPT_FILES)
    args = DataArguments(data=str(tmp_path / "export"), data_cache=str(tmp_path / "cache"))
    rows, problems = load_rows(args)
    first = ["instruction: Be kind.", "Which tea? This one?"]
    pairs = [(row["context"], row["response"]) for row in rows["train"]]
    assert pairs == [(first, "Green tea."), ([*first, "Green tea.", "And that?"], "Black tea.")]
    assert problems["train"]["read_as"] == "2 files as ChatGPT conversations"


def test_a_thread_of_slack_is_a_transcript_of_its_own(tmp_path):
    transcripts, _ = read(tmp_path, "slack", SLACK_FILES)
    assert [(t.id, len(t.messages), t.is_whole) for t in transcripts] == [
        ("channel", 3, False),
        ("1704053140.000100", 2, True),
    ]


def test_slack_people_without_a_list_have_their_ids(tmp_path):
    transcripts, _ = read(
        tmp_path, "slack", {"a/2023-12-31.json": SLACK_FILES["talk/2023-12-31.json"]}
    )
    assert said(transcripts)[0] == ("U1", "Hi @U2, a < b &c")


def test_who_slack_people_are_may_be_told_later(tmp_path):
    folder = tmp_path / "slack"
    for split in ("train", "test"):
        stored(folder / split, {"talk/2023-12-31.json": SLACK_FILES["talk/2023-12-31.json"]})
    args = DataArguments(data=str(folder), data_cache=str(tmp_path / "cache"))
    before = str(load_rows(args)[0]["train"][:])
    for split in ("train", "test"):
        (folder / split / "users.json").write_text(SLACK_FILES["users.json"])
    after = str(load_rows(args)[0]["train"][:])
    assert "@U2" in before and "@U2" not in after


def test_the_newest_first_is_turned_round(tmp_path):
    reversed_ = DISCORD | {"messages": DISCORD["messages"][::-1]}
    transcripts, _ = read(tmp_path, "discord", {"a.json": as_json(reversed_)})
    assert said(transcripts) == WHO_SAYS_WHAT["Discord"][0]


def test_a_day_on_which_nobody_spoke_is_a_log(tmp_path):
    files = {"talk/2023-12-31.log": "[21:05:33] *** Joins: ann (a@x.org)\n"}
    assert irc.READER.recognises(stored(tmp_path, files))
    (transcript,), problems = read(tmp_path, "irc", files)
    assert not transcript.messages and problems == {"system_line": [1]}


def test_a_log_without_a_date_goes_on_at_midnight(tmp_path):
    text = "[23:59] <ann> a\n[00:01] <ben> b\n"
    (transcript,), _ = read(tmp_path, "irc", {"talk.log": text})
    first, second = (message.time for message in transcript.messages)
    assert second - first == timedelta(minutes=2)
