"""The names by which speakers are known to have a role: assistants, users, systems, tools."""

from __future__ import annotations

# Speakers whose replies are learnt where messages have roles, and those they answer.
ASSISTANTS = frozenset(
    [
        "assistant",
        "ai",
        "bot",
        "chatbot",
        "chatgpt",
        "gpt",
        "model",
        "agent",
        "support",
        "advisor",
        "operator",
        "representative",
        "helpdesk",
        "admin",
        "staff",
        "team",
        "teammate",
    ]
)
USERS = frozenset(
    [
        "user",
        "human",
        "prompter",
        "customer",
        "client",
        "caller",
        "visitor",
        "guest",
        "end-user",
        "enduser",
        "requester",
        "lead",
        "contact",
    ]
)
SYSTEM = frozenset({"system", "developer"})
TOOLS = frozenset({"tool", "function", "ipython", "observation", "function_call", "tool_call"})
ROLES = ASSISTANTS | USERS | SYSTEM | TOOLS


def plain_name(name: str | None) -> str:
    """The name of a speaker as it is compared with others."""
    return (name or "").strip().casefold()
