"""LangChain's chat model, in a graph with a checkpointer and a tool node."""

from __future__ import annotations

import uuid
from typing import Any

import openai
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.tools import StructuredTool
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition

from tests.clients.behaviour import KEY, MODEL, TOOLS, Behaviour
from tests.clients.scope import PATIENCE, Scope


class Conversation:
    def __init__(self, scope: Scope) -> None:
        self._model = ChatOpenAI(
            model=MODEL,
            base_url=scope.base_url,
            api_key=KEY,
            max_retries=0,
            timeout=PATIENCE,
            stream_usage=True,
        )
        self._plain = self._graph([])
        self._with_tools = self._graph([StructuredTool.from_function(tool) for tool in TOOLS.values()])
        self._thread: Any = {"configurable": {"thread_id": uuid.uuid4().hex}}

    def _graph(self, tools: list[Any]) -> Any:
        model = self._model.bind_tools(tools) if tools else self._model

        def call(state: MessagesState) -> dict[str, Any]:
            return {"messages": [model.invoke(state["messages"])]}

        graph = StateGraph(MessagesState)
        graph.add_node("model", call)
        graph.add_edge(START, "model")
        if tools:
            graph.add_node("tools", ToolNode(tools))
            graph.add_conditional_edges("model", tools_condition)
            graph.add_edge("tools", "model")
        return graph.compile(checkpointer=InMemorySaver())

    def ask(self, text: str) -> str:
        said = self._plain.invoke({"messages": [HumanMessage(text)]}, self._thread)
        return str(said["messages"][-1].content)

    def stream(self, text: str) -> str:
        asked = {"messages": [HumanMessage(text)]}
        pieces = self._plain.stream(asked, self._thread, stream_mode="messages")
        return "".join(str(piece.content) for piece, _ in pieces if isinstance(piece, AIMessage))

    def leave(self, text: str) -> None:
        stream = self._model.stream([HumanMessage(text)])
        for piece in stream:
            if piece.content:
                break
        stream.close()

    def use_tools(self, text: str) -> str:
        said = self._with_tools.invoke({"messages": [HumanMessage(text)]}, self._thread)
        return str(said["messages"][-1].content)


class TestLangGraph(Behaviour):
    errors = {401: openai.AuthenticationError, 429: openai.RateLimitError, 500: openai.InternalServerError}

    def make(self, scope: Scope) -> Conversation:
        return Conversation(scope)
