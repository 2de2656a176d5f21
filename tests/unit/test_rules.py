"""Rules tell the requests that no person made. The texts are worded like those of the programs, not copied."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from proxy.dialects.chat_completions.request import decode
from proxy.rules.rule import Asked, Rule, rule_for
from proxy.rules.rules_file import from_environment

READY_MADE = from_environment({}).rules


def held(user: object = "", system: str = "", rules: tuple[Rule, ...] = READY_MADE, **headers: str) -> str:
    messages = [{"role": "system", "content": system}] if system else []
    messages += [{"role": "user", "content": user}] if user else []  # type: ignore[dict-item]
    chat = decode(json.dumps({"model": headers.pop("model", "gpt-4o"), "messages": messages}).encode())
    sent = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return rule_for(rules, Asked.of(chat, sent))


@pytest.mark.parametrize(
    ("rule", "user", "system"),
    [
        ("open-webui", "### Task:\nGenerate a brief title of three words for the history.\n### Output:", ""),
        ("open-webui", "### Task:\nGenerate 1-3 tags for the themes.\n<chat_history>", ""),
        ("open-webui", "### Task:\nSuggest 3 follow-up questions.", ""),
        ("open-webui", "### Task:\nAnalyze the chat history and say whether to search.", ""),
        ("open-webui", "### Task:\nGenerate a detailed prompt for a picture.", ""),
        ("open-webui", "### Task:\nYou are an autocompletion system. Go on with <text>.", ""),
        ("open-webui-task", "### Task:\nInvent a name.\n<chat_history>\nUSER: hi\n</chat_history>", ""),
        ("open-webui-emoji", "Your task is to reflect the speaker's likely facial expression in one emoji.", ""),
        (
            "open-webui-tools",
            "Query: weather",
            "Available Tools: []\nYour task is to choose and return the correct tool.",
        ),
        ("librechat-title", "Provide a concise, 5-word-or-less title for the conversation: User: hi", ""),
        ("librechat-title", "Analyze this conversation and provide: 1. the language 2. a title", ""),
        (
            "librechat-title-system",
            "",
            "Detect user language and write a concise title for this conversation.",
        ),
        ("langchain-summary", "Progressively summarize the lines of conversation below.", ""),
        ("lobechat-title", "user: hi", "You are a professional conversation summarizer. Ten words."),
        ("lobechat-title", "user: hi", "你是一名擅长会话的助理"),
        ("nextchat-title", "Please generate a four to five word title of our talk.", ""),
        ("nextchat-summary", "hi", "Summarize the discussion briefly in 200 words or less to use as a prompt later."),
        ("chatbox-title", "Based on the chat history, give this conversation a name. Ten characters.", ""),
        ("big-agi-title", "- You: hi", "You are an AI conversation titles assistant. Few words."),
        ("opencode-title", "Generate a title:", "You are a title generator. Only the title."),
        (
            "claude-code-title",
            "<session>\nhi\n</session>",
            "An agent.\nGenerate a concise, sentence-case title (3-7 words) of the goal of this coding session.",
        ),
        ("continue-title", "Given the following... please reply with a title for the chat. Hello", ""),
        ("continue-autocomplete", "You are a HOLE FILLER. <QUERY>", ""),
        ("fill-in-the-middle", "<fim_prefix>def f(<fim_suffix>", ""),
        ("aider-commit-message", "diff", "You are an expert software engineer that writes short Git commit messages."),
        ("aider-summary", "# USER", "*Briefly* summarize this partial conversation about programming."),
        ("cline-summary", 'result\n<explicit_instructions type="summarize_task">\nThe context is short.', ""),
        ("coding-agent-summary", "Your task is to create a detailed summary of the conversation so far.", ""),
        ("roo-code-enhance", "Generate an enhanced version of this prompt: fix it", ""),
        ("commit-message", "diff --git a/x b/x", "Write git commit messages."),
        ("litellm-health-check", "Hey from litellm", ""),
        ("title", "Please create a short title for this conversation. Only the title.", ""),
        ("title", "Generate a very short title (max 6 words) for a conversation that starts so.", ""),
        ("title-system", "hi", "You will generate a short title based on the first message a user begins with."),
    ],
)
def test_each_ready_made_rule_holds_for_what_its_program_sends(rule: str, user: str, system: str) -> None:
    assert held(user, system) == rule


@pytest.mark.parametrize(
    ("user", "system"),
    [
        ("### Task:\nRespond to the user query using the provided context.\n<context>..</context>", ""),
        ("What is the title of the book that I told you about?", ""),
        ("Create a title page for my thesis.", ""),
        ("Suggest three books.", "You are a helpful assistant. Talk about titles when asked."),
        ("Write a commit message for this change.", "You are an expert software engineer."),
        ("Summarize this article: ...", ""),
        ("How do I write git commit messages?", "You are a helpful assistant."),
        ("Analyze the chat history of my team.", ""),
        ("", "You are a helpful assistant."),
    ],
)
def test_no_rule_holds_for_what_people_ask(user: str, system: str) -> None:
    assert held(user or "Hello", system) == ""


def test_a_rule_looks_at_the_last_user_message_alone_however_it_is_written() -> None:
    task = "### Task:\nGenerate a short title.\n"
    assert held([{"type": "text", "text": f"  {task}"}]) == "open-webui"
    messages = [{"role": "user", "content": task}, {"role": "user", "content": "Hello"}]
    assert rule_for(READY_MADE, Asked.of(decode(json.dumps({"messages": messages}).encode()), [])) == ""


def test_all_conditions_of_a_rule_must_hold(tmp_path: Path) -> None:
    (tmp_path / "rules.toml").write_text(
        """
        [[rules]]
        name = "report"
        models = ["gpt-*", "o3"]
        headers = { X-Job = "nightly*" }
        user = 'write the report'
        user_contains = 'today'
        """
    )
    rules = from_environment({"RESERVOIR_RULES": str(tmp_path / "rules.toml")}).rules
    text = "Write the report of today"
    assert held(text, rules=rules, X_Job="nightly 7") == "report"
    assert held(text, rules=rules, x_job="weekly") == ""
    assert held(text, rules=rules) == ""
    assert held(text, rules=rules, model="mistral-small", x_job="nightly") == ""
    assert held("Write the report", rules=rules, x_job="nightly") == ""
    assert held("### Task:\nGenerate a short title.", rules=rules) == "open-webui", "ready-made rules stay"


def test_a_ready_made_rule_can_be_switched_off(tmp_path: Path) -> None:
    (tmp_path / "rules.toml").write_text('without = ["open-webui", "repeated"]')
    rules = from_environment({"RESERVOIR_RULES": str(tmp_path / "rules.toml")})
    assert held("### Task:\nSuggest 3 follow-up questions.", rules=rules.rules) == ""
    assert not rules.polls
    assert from_environment({}).polls


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("rules = 7", "write tables"),
        ("other = 7", "'other' is not one of them"),
        ("without = ['none']", "'none' is not one of them"),
        ("[[rules]]\nuser = 'x'", "rule 1.name: write a name"),
        ("[[rules]]\nname = 'a'", "rule a: write a condition"),
        ("[[rules]]\nname = 'a'\nuser = '('", "rule a.user: write a regular expression"),
        ("[[rules]]\nname = 'a'\nuser = '.*'", "does not match an empty text"),
        ("[[rules]]\nname = 'a'\nuser = '(a+)+b'", "no repetition"),
        ("[[rules]]\nname = 'a'\nuser = '(?:x(a|b*)){2,}c'", "no repetition"),
        ("[[rules]]\nname = 'a'\nmodels = 'gpt'", "a list of patterns"),
        ("[[rules]]\nname = 'a'\nheaders = { a = 1 }", "names and patterns"),
        ("[[rules]]\nname = 'a'\nuser = 'x'\nuse = 'y'", "'use' is not one of them"),
        ("[[rules]]\nname = 'a'\nuser = 'x'\n[[rules]]\nname = 'a'\nuser = 'y'", "there twice"),
        ("[[rules]]\nname = 'repeated'\nuser = 'x'", "is built in"),
        ("[[rules", "is not TOML"),
    ],
)
def test_a_wrong_file_is_refused_with_a_sentence(text: str, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "rules.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match="RESERVOIR_RULES") as error:
        from_environment({"RESERVOIR_RULES": str(path)})
    assert sentence in str(error.value)
    assert str(path) in str(error.value)


def test_a_missing_file_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        from_environment({"RESERVOIR_RULES": "/nowhere/rules.toml"})


@pytest.mark.parametrize(
    "text",
    ["generate a " * 200_000, "### Task:\ngenerate " + "t " * 1_000_000, " " * 3_000_000, "diff --git\n" * 90_000],
)
def test_no_text_holds_up_the_rules(text: str) -> None:
    started = time.perf_counter()
    assert held(text, system=text) in ("", "open-webui")
    assert time.perf_counter() - started < 2, "it takes some milliseconds"
