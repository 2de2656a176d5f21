from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from console.exchange.request_body import body
from proxy.dialects.chat_completions.request import decode

MESSAGE = '{"role":  "user", "content": "h\\u00e9"}'


@pytest.mark.parametrize(
    "sent",
    [
        '{"model": "gpt-4o", "messages": [%s], "temperature": 0.30}',
        '{"messages":[%s],"model":"gpt-4o"}',
        ' {\n "tools": [{"messages": [1]}], "me\\u0073sages" : [%s] , "model": "x", "seed": 1e3 }\n',
    ],
)
def test_a_request_is_restored_as_it_was_sent(sent: str) -> None:
    sent = sent.replace("%s", MESSAGE)
    kept = decode(sent.encode()).without_messages()
    assert body(kept, [MESSAGE]) == sent


def test_the_restored_model_is_the_providers_name_for_it() -> None:
    kept = decode(b'{"model": "ollama/llama3", "messages": [%b]}' % MESSAGE.encode()).without_messages()
    assert body(kept, [], model="llama3") == '{"model": "llama3", "messages": []}'


@pytest.mark.parametrize("kept", ["", "{}", "[]", "{", '{"a"', '{"a": 1,', '{"a": }', "null", '{"model": "x"}'])
def test_messages_remain_when_parameters_were_forgotten(kept: str) -> None:
    assert json.loads(body(kept, [MESSAGE])) == {"messages": [json.loads(MESSAGE)]}


@given(st.dictionaries(st.text(max_size=5), st.recursive(st.integers() | st.text(max_size=5), st.lists), max_size=4))
def test_other_fields_of_a_request_are_kept(fields: dict[str, object]) -> None:
    kept = json.dumps(fields | {"messages": []})
    assert json.loads(body(kept, [MESSAGE])) == fields | {"messages": [json.loads(MESSAGE)]}
