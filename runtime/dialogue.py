"""A prompt's text from the pieces in a manifest's `Dialogue`, without the chat template: apps on phones do the same."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from runtime.manifest import Dialogue, Marks, Medium, ToolMarks
from runtime.prompt import Message

ROLES = {"assistant": "model", "developer": "system"}  # other names of roles
Tool = Mapping[str, Any]  # {"type": "function", "function": {"name", "description", "parameters"}}


def build_prompt(
    dialogue: Dialogue, messages: Sequence[Message], tools: Sequence[Tool] = (), think: bool = False
) -> str:
    """Messages up to where the model's turn begins, as `Prompter.render` gives them.

    Raises:
        ValueError: tools, calls or media that the dialogue does not describe.
        KeyError: likewise.
    """
    head, rest = (messages[0], messages[1:]) if messages and _role(messages[0]) == "system" else (None, messages)
    text = dialogue.begin + (_system(dialogue, head, tools, think) if head or tools or think else "")
    last = "turn"
    for message in rest:
        written, last = _turn(dialogue, message, last)
        text += written
    generation = dialogue.generation_thinking if think else dialogue.generation
    return text + (generation if last == "turn" else "")


def _role(message: Message) -> str:
    role: str = message["role"]
    return ROLES.get(role, role)


def _system(dialogue: Dialogue, message: Message | None, tools: Sequence[Tool], think: bool) -> str:
    marks = dialogue.turns["system"]
    thinking = dialogue.thinking if think else ""
    said = _content(dialogue, message["content"], "system") if message else ""
    declared = "".join(_declaration(_marks(dialogue), tool.get("function", tool)) for tool in tools)
    return marks.begin + thinking + said + declared + marks.end


def _turn(dialogue: Dialogue, message: Message, last: str) -> tuple[str, str]:
    """Its text, and what it ends with: a turn, a call or a response. The model goes on behind a response."""
    if message["role"] == "tool":
        return _response(_marks(dialogue), message, opened=last == "call"), "response"
    role = _role(message)
    marks = dialogue.turns[role]  # type: ignore[index]  # of another name: a KeyError
    begin = "" if role == "model" and last == "response" else marks.begin
    said = begin + _content(dialogue, message.get("content"), role)
    if calls := message.get("tool_calls"):
        tools = _marks(dialogue)
        return said + "".join(_call(tools, call["function"]) for call in calls) + tools.opened, "call"
    return said + marks.end, "turn"


def _content(dialogue: Dialogue, content: Any, role: str) -> str:
    """Parts in their order, nothing between them."""
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content or []
    media: Mapping[str, Medium] = dialogue.media  # type: ignore[assignment]  # names may be others: a KeyError
    return "".join(
        _text(dialogue, part["text"], role) if part["type"] == "text" else media[part["type"]].placeholder
        for part in parts
    )


def _text(dialogue: Dialogue, text: str, role: str) -> str:
    if role == "model" and dialogue.thought:
        return without_thoughts(text, dialogue.thought)
    return text.strip() if dialogue.trimmed else text


def without_thoughts(text: str, marks: Marks) -> str:
    """What is left of a turn of the model's; a thought without an end hides all that follows."""
    return "".join(part.split(marks.begin)[0] for part in text.split(marks.end)).strip()


# Tools


def _marks(dialogue: Dialogue) -> ToolMarks:
    if dialogue.tools is None:
        raise ValueError("the dialogue describes no tools")
    return dialogue.tools


def _declaration(tools: ToolMarks, function: Mapping[str, Any]) -> str:
    told = {"description": function.get("description", ""), "parameters": function.get("parameters", {})}
    return f"{tools.declaration.begin}{function['name']}{{{_pairs(tools, told)}}}{tools.declaration.end}"


def _call(tools: ToolMarks, function: Mapping[str, Any]) -> str:
    """Arguments that are text already are as the model wrote them."""
    arguments = function["arguments"]
    written = arguments if isinstance(arguments, str) else _pairs(tools, arguments)
    return f"{tools.call.begin}{function['name']}{{{written}}}{tools.call.end}"


def _response(tools: ToolMarks, message: Message, opened: bool) -> str:
    """What is no object is one with the key `value`."""
    content = message["content"]
    body = _pairs(tools, content if isinstance(content, Mapping) else {"value": content})
    begin = tools.response.begin.removeprefix(tools.opened) if opened else tools.response.begin
    return f"{begin}{message.get('name', 'unknown')}{{{body}}}{tools.response.end}"


def _pairs(tools: ToolMarks, values: Mapping[str, Any]) -> str:
    return ",".join(f"{key}:{_value(tools, values[key])}" for key in sorted(values, key=str.lower))


def _value(tools: ToolMarks, value: Any) -> str:
    if isinstance(value, str):
        return tools.quote + value + tools.quote
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return "{" + _pairs(tools, value) + "}"
    if isinstance(value, Sequence):
        return "[" + ",".join(_value(tools, item) for item in value) + "]"
    return str(value)


# Media


def expand(dialogue: Dialogue, text: str, soft: Mapping[str, Sequence[int]]) -> str:
    """The prompt's text with images and clips written out; the tokenizer makes its tokens of that.

    Args:
        soft: by kind, `image` or `audio`, the soft tokens of each in the order of their placeholders.

    Raises:
        ValueError: more or fewer placeholders than media.
    """
    for kind, counts in soft.items():
        medium = dialogue.media[kind]  # type: ignore[index]
        before, *behind = text.split(medium.placeholder)
        if len(behind) != len(counts):
            raise ValueError(f"{len(counts)} of {kind}, {len(behind)} placeholders")
        text = before + "".join(_written_out(medium, counts, behind))
    return text


def _written_out(medium: Medium, counts: Sequence[int], behind: Sequence[str]) -> Iterator[str]:
    for count, text in zip(counts, behind, strict=True):
        yield medium.begin + medium.soft * count + medium.end + text
