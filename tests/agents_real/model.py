"""A made-up model on loopback, in the words of each API that the agents speak, streamed.

What it does goes by what it reads. In a conversation that knows of no interruption it has the agent run one shell
command, then thinks until the agent is gone. In one that does it has the agent run another command, then is done.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

#: The first prompt of every session.
PROMPT = "Please round the prices."
WORK = "echo line >> work.txt; echo staged >> staged.txt; git add staged.txt; echo 'x = 2' > app.py"
AGAIN = "echo again >> again.txt"
#: The word by which a briefing is known.
BRIEFED = "last run in this workspace was interrupted"
_SHELLS = ("Bash", "bash", "shell", "exec_command", "shell_command", "local_shell", "run_shell_command", "Shell")
#: No thought is longer, in seconds: an agent that a test has left behind ends.
_MOST_THOUGHT = 120.0

Json = dict[str, Any]


class Model(ThreadingHTTPServer):
    """The server; `requests` are the texts of what the agents asked, without those for a title or a summary."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.requests: list[str] = []
        self.thinks = threading.Event()
        self.closed = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


@contextlib.contextmanager
def model() -> Iterator[Model]:
    with Model() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server
        finally:
            server.closed.set()
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Model

    def log_message(self, format: str, *args: object) -> None:
        return

    def do_GET(self) -> None:
        models = [{"id": name, "object": "model", "context_length": 200_000} for name in ("made-up", "gpt-5")]
        self._whole({"object": "list", "data": models, "models": []})

    def do_HEAD(self) -> None:
        self._whole({})

    def do_POST(self) -> None:
        text = self._body()
        path = self.path.partition("?")[0]
        value: Json = json.loads(text or "{}")
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            if path.endswith("/messages"):
                self._anthropic(value, text)
            elif path.endswith("/responses"):
                self._responses(value, text)
            elif path.endswith("/chat/completions"):
                self._chat(value, text)
            elif "enerateContent" in path:
                self._gemini(value, text, streams="stream" in path)
            else:
                self._whole({"input_tokens": 100, "totalTokens": 100})

    # -- what to answer

    def _command(self, text: str, shell: str | None) -> str | None:
        """The command that the agent is to run; None where the answer is a text."""
        if shell is None:
            return None
        self.server.requests.append(text)
        wanted = AGAIN if BRIEFED in text else WORK
        return None if wanted.split(";")[0] in text else wanted

    def _thought(self, text: str, shell: str | None) -> Iterator[str]:
        """The words of a text. One who knows of no interruption thinks until somebody ends it."""
        if shell is not None and BRIEFED not in text:
            self.server.thinks.set()
            end = time.monotonic() + _MOST_THOUGHT
            while time.monotonic() < end and not self.server.closed.wait(0.2):
                yield f"{time.monotonic_ns()} "
        yield "Done."

    # -- HTTP

    def _body(self) -> str:
        if self.headers.get("transfer-encoding", "").lower() != "chunked":
            data = self.rfile.read(int(self.headers.get("content-length") or 0))
        else:
            data = b""
            while size := int(self.rfile.readline(), 16):
                data += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        encoding = self.headers.get("content-encoding", "identity")
        assert encoding == "identity", f"the agent was told to send no {encoding}"
        return data.decode("utf-8", "replace")

    def _whole(self, value: Json) -> None:
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _stream(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()

    def _event(self, value: Json | str, name: str | None = None) -> None:
        text = value if isinstance(value, str) else json.dumps(value)
        data = ("" if name is None else f"event: {name}\n") + f"data: {text}\n\n"
        self.wfile.write(f"{len(data.encode()):x}\r\n{data}\r\n".encode())
        self.wfile.flush()

    def _end(self) -> None:
        self.wfile.write(b"0\r\n\r\n")
        self.wfile.flush()

    # -- the APIs

    def _anthropic(self, value: Json, text: str) -> None:
        tools = {tool["name"]: tool.get("input_schema") or {} for tool in value.get("tools") or [] if "name" in tool}
        shell = _shell(tools)
        command = self._command(text, shell)
        usage = {"input_tokens": 100, "output_tokens": 10}
        head = {"id": "msg_1", "type": "message", "role": "assistant", "model": "made-up", "stop_sequence": None}
        why = "end_turn" if command is None else "tool_use"
        if not value.get("stream"):
            said = [{"type": "text", "text": "Done."}]
            self._whole({**head, "content": said, "stop_reason": "end_turn", "usage": usage})
            return
        self._stream()

        def send(kind: str, **more: object) -> None:
            self._event({"type": kind, **more}, kind)

        send("message_start", message={**head, "content": [], "stop_reason": None, "usage": usage})
        if shell is not None and command is not None:
            block = {"type": "tool_use", "id": f"toolu_{len(text)}", "name": shell, "input": {}}
            send("content_block_start", index=0, content_block=block)
            part = json.dumps(_arguments(tools[shell], command))
            send("content_block_delta", index=0, delta={"type": "input_json_delta", "partial_json": part})
        else:
            send("content_block_start", index=0, content_block={"type": "text", "text": ""})
            for word in self._thought(text, shell):
                send("content_block_delta", index=0, delta={"type": "text_delta", "text": word})
        send("content_block_stop", index=0)
        send("message_delta", delta={"stop_reason": why, "stop_sequence": None}, usage={"output_tokens": 10})
        send("message_stop")
        self._end()

    def _responses(self, value: Json, text: str) -> None:
        tools = {tool.get("name") or tool["type"]: tool.get("parameters") or {} for tool in value.get("tools") or []}
        shell = _shell(tools)
        command = self._command(text, shell)
        self._stream()

        def send(kind: str, **more: object) -> None:
            self._event({"type": kind, **more}, kind)

        send("response.created", response={"id": "resp_1", "status": "in_progress"})
        if shell is not None and command is not None:
            arguments = json.dumps(_arguments(tools[shell], command))
            call = {"type": "function_call", "id": "fc_1", "call_id": f"call_{len(text)}", "name": shell}
            item: Json = {**call, "arguments": arguments, "status": "completed"}
        else:
            item = {"type": "message", "id": "msg_1", "role": "assistant", "status": "in_progress", "content": []}
            send("response.output_item.added", output_index=0, item=item)
            words = ""
            for word in self._thought(text, shell):
                send("response.output_text.delta", item_id="msg_1", output_index=0, content_index=0, delta=word)
                words += word
            said = [{"type": "output_text", "text": words, "annotations": []}]
            item = {**item, "status": "completed", "content": said}
        send("response.output_item.done", output_index=0, item=item)
        usage = {"input_tokens": 100, "output_tokens": 10, "total_tokens": 110}
        send("response.completed", response={"id": "resp_1", "status": "completed", "output": [item], "usage": usage})
        self._end()

    def _chat(self, value: Json, text: str) -> None:
        functions = [tool["function"] for tool in value.get("tools") or [] if tool.get("type") == "function"]
        tools = {one["name"]: one.get("parameters") or {} for one in functions}
        shell = _shell(tools)
        command = self._command(text, shell)
        head: Json = {"id": "chatcmpl-1", "created": int(time.time()), "model": value.get("model") or "made-up"}
        usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
        if not value.get("stream"):
            choice = {"index": 0, "message": {"role": "assistant", "content": "Done."}, "finish_reason": "stop"}
            self._whole({**head, "object": "chat.completion", "choices": [choice], "usage": usage})
            return
        self._stream()

        def send(delta: Json, finish: str | None = None, **more: object) -> None:
            choice = {"index": 0, "delta": delta, "finish_reason": finish}
            self._event({**head, "object": "chat.completion.chunk", "choices": [choice], **more})

        send({"role": "assistant", "content": ""})
        if shell is not None and command is not None:
            function = {"name": shell, "arguments": json.dumps(_arguments(tools[shell], command))}
            call = {"index": 0, "id": f"call_{len(text)}", "type": "function", "function": function}
            send({"tool_calls": [call]})
        else:
            for word in self._thought(text, shell):
                send({"content": word})
        send({}, "stop" if command is None else "tool_calls", usage=usage)
        self._event("[DONE]")
        self._end()

    def _gemini(self, value: Json, text: str, *, streams: bool) -> None:
        declared = [one for tool in value.get("tools") or [] for one in tool.get("functionDeclarations") or []]
        tools = {one["name"]: one.get("parametersJsonSchema") or one.get("parameters") or {} for one in declared}
        shell = _shell(tools)
        command = self._command(text, shell)
        usage = {"promptTokenCount": 100, "candidatesTokenCount": 10, "totalTokenCount": 110}

        def answer(part: Json, **more: object) -> Json:
            candidate = {"index": 0, "content": {"role": "model", "parts": [part]}, **more}
            return {"candidates": [candidate], "usageMetadata": usage, "modelVersion": "made-up"}

        if not streams:
            choice = {"model_choice": "flash", "reasoning": "x", "next_speaker": "user"}
            self._whole(answer({"text": json.dumps(choice)}, finishReason="STOP"))
            return
        self._stream()
        if shell is not None and command is not None:
            call = {"name": shell, "args": _arguments(tools[shell], command), "id": f"call{len(text)}"}
            self._event(answer({"functionCall": call}, finishReason="STOP"))
        else:
            for word in self._thought(text, shell):
                self._event(answer({"text": word}))
            self._event(answer({"text": "."}, finishReason="STOP"))
        self._end()


def _shell(tools: Json) -> str | None:
    """The name of the tool that runs a shell command; None where the agent asks for a title or a summary."""
    return next((name for name in _SHELLS if name in tools), None)


def _arguments(schema: Json, command: str) -> Json:
    """The arguments of that tool, in its own schema."""
    properties: Json = schema.get("properties") or {}
    found: Json = {}
    for name, kind in properties.items():
        words = kind.get("type")
        if name in ("command", "cmd"):
            found[name] = ["bash", "-lc", command] if words == "array" else command
        elif name in (schema.get("required") or []):
            found[name] = {"number": 60, "integer": 60, "boolean": False, "array": []}.get(str(words), name)
    return found
