"""Chat template -> the literal pieces of text in a manifest's `Dialogue`, found by rendering messages of marked words.

Nothing here knows the marks of turns. What the pieces cannot say is found by comparing, and left out with a reason.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from runtime.checks.dialogue import differing
from runtime.dialogue import expand
from runtime.errors import UserError
from runtime.manifest import Dialogue, Marks, MediaKind, Medium, Tokens, ToolMarks
from runtime.prompt import Message, Prompter, soft_tokens
from runtime.reply import CALL, CALL_END, CHANNEL, CHANNEL_END, QUOTE
from runtime.text_processor import NO_TEMPLATE

USER, MODEL, SYSTEM, NAME, VALUE = "WORDU", "WORDM", "WORDS", "WORDN", "WORDV"  # no template has them
SAMPLED: tuple[MediaKind, ...] = ("image", "audio")  # frames are written out as images


class Undescribed(Exception):
    """A template is of another form than a `Dialogue`; says how."""


def describe(prompter: Prompter, tokens: Tokens) -> tuple[Dialogue | None, dict[str, str]]:
    """The pieces, proven; None, or without tools, with the reasons by part (`all`, `tools`) where that cannot be."""
    if getattr(prompter.processor, "continues", False):
        return None, {"all": NO_TEMPLATE}
    try:
        dialogue = _turns(prompter, tokens)
        _prove(prompter, dialogue)
        _prove_media(prompter, dialogue)
    except (Undescribed, UserError) as error:
        return None, {"all": str(error)}
    try:
        complete = dialogue.model_copy(update={"tools": _tools(prompter)})
        _prove(prompter, complete)
    except (Undescribed, UserError) as error:
        return dialogue, {"tools": str(error)}
    return complete, {}


def _turns(prompter: Prompter, tokens: Tokens) -> Dialogue:
    """Pieces but for tools: what stands before, between and behind marked words."""
    user, model, system = (_said(*pair) for pair in [("user", USER), ("assistant", MODEL), ("system", SYSTEM)])
    user_end = _behind(_render(prompter, [user]), USER)
    model_end = _behind(_render(prompter, [user, model]), MODEL)
    talk = _render(prompter, [user, model, user])
    user_begin = _without(_between(talk, MODEL, USER), model_end)
    begin = _without(_before(talk, USER), user_begin, at_end=True)
    systems = _render(prompter, [system, user])
    system_begin = _without(_before(systems, SYSTEM), begin)
    system_end = _without(_between(systems, SYSTEM, USER), user_begin, at_end=True)
    thinking = _before(_render(prompter, [user], enable_thinking=True), USER)
    return Dialogue(
        begin=begin,
        turns={
            "system": Marks(begin=system_begin, end=system_end),
            "user": Marks(begin=user_begin, end=user_end),
            "model": Marks(begin=_without(_between(talk, USER, MODEL), user_end), end=model_end),
        },
        thinking=_without(_without(thinking, begin + system_begin), system_end + user_begin, at_end=True),
        generation=_generation(prompter, user_end, think=False),
        generation_thinking=_generation(prompter, user_end, think=True),
        trimmed=f" {USER} " not in _render(prompter, [_said("user", f" {USER} ")]),
        thought=_thought(prompter),
        media=_media(prompter, tokens),
        order=["image", "video", "audio", "text"],  # as `prompt.user`
        tools=None,
    )


def _generation(prompter: Prompter, user_end: str, think: bool) -> str:
    text = prompter.render([_said("user", USER)], enable_thinking=think)
    return _without(_behind(text, USER), user_end)


def _thought(prompter: Prompter) -> Marks | None:
    """The marks that replies are read by, where the template takes what is between them out of earlier turns."""
    earlier = _said("assistant", f"{CHANNEL}{NAME}{CHANNEL_END}{MODEL}")
    kept = NAME in _render(prompter, [_said("user", USER), earlier, _said("user", USER)])
    return None if kept else Marks(begin=CHANNEL, end=CHANNEL_END)


def _media(prompter: Prompter, tokens: Tokens) -> dict[MediaKind, Medium]:
    """Of the kinds that the checkpoint takes; frames of a video are written out as images are."""
    ids: dict[MediaKind, tuple[int | None, ...]] = {
        "image": (tokens.begin_image, tokens.image, tokens.end_image),
        "audio": (tokens.begin_audio, tokens.audio, tokens.end_audio),
        "video": (tokens.begin_image, tokens.video, tokens.end_image),
    }
    plain = _render(prompter, [_said("user", USER)])
    found: dict[MediaKind, Medium] = {}
    for kind, some in ids.items():
        if None in some:
            continue
        message = {"role": "user", "content": [{"type": kind}, {"type": "text", "text": USER}]}
        placeholder = _without(_before(_render(prompter, [message]), USER), _before(plain, USER))
        begin, soft, end = prompter.processor.tokenizer.convert_ids_to_tokens(list(some))
        found[kind] = Medium(placeholder=placeholder, begin=begin, soft=soft, end=end)
    return found


def _tools(prompter: Prompter) -> ToolMarks:
    """From one declaration, one call and its response.

    Raises:
        Undescribed: they are of another form, or calls have other marks than replies are read by.
    """
    user, response = _said("user", USER), {"role": "tool", "name": NAME, "content": VALUE}
    tool = {"type": "function", "function": {"name": NAME, "description": VALUE, "parameters": {}}}
    call = {"role": "assistant", "content": MODEL,
            "tool_calls": [{"type": "function", "function": {"name": NAME, "arguments": {"key": VALUE}}}]}  # fmt: skip
    system = _said("system", SYSTEM)
    end = _between(_render(prompter, [system, user]), SYSTEM, USER)
    declared = _without(_between(_render(prompter, [system, user], tools=[tool]), SYSTEM, USER), end, at_end=True)
    called = _behind(_render(prompter, [user, call]), MODEL)
    answered = _without(_behind(_render(prompter, [user, call, response]), MODEL), called)
    alone = _behind(_render(prompter, [user, response]), USER)
    quote = _between(called, "{key:", VALUE)
    call_end, opened = _halves(_behind(called, VALUE + quote + "}"), alone, answered)
    marks = ToolMarks(
        declaration=Marks(begin=_before(declared, NAME), end=_behind(declared, ",parameters:{}}")),
        call=Marks(begin=_before(called, NAME), end=call_end),
        response=Marks(begin=opened + _before(answered, NAME), end=_behind(answered, VALUE + quote + "}")),
        opened=opened,
        quote=quote,
    )
    if (marks.call.begin, marks.call.end, quote) != (f"{CALL}call:", CALL_END, QUOTE):
        raise Undescribed(f"calls are written as {called!r}, which replies are not read by")
    return marks


def _halves(text: str, alone: str, answered: str) -> tuple[str, str]:
    """A call's end and what it opens, told apart by a response by itself, which opens itself."""
    at = alone.find(answered)
    opened = alone[:at]
    for start in range(len(opened)):  # a turn's end may come before
        if text.endswith(opened[start:]):
            return text.removesuffix(opened[start:]), opened[start:]
    raise Undescribed("a response is of another form behind a call than by itself")


# Proof


def _prove(prompter: Prompter, dialogue: Dialogue) -> None:
    if wrong := list(differing(prompter, dialogue)):
        raise Undescribed(f"pieces of text make other prompts than the template of {len(wrong)} conversations, "
                          f"such as: {wrong[0]}")  # fmt: skip


def _prove_media(prompter: Prompter, dialogue: Dialogue) -> None:
    """A written out image and clip are the processor's tokens."""
    for kind in (kind for kind in SAMPLED if kind in dialogue.media):
        text = dialogue.begin + dialogue.media[kind].placeholder + USER
        inputs = prompter.process(text, **_sample(kind))
        counts = soft_tokens(inputs.image_position_ids if kind == "image" else inputs.input_features_mask)
        if not np.array_equal(prompter.encode(expand(dialogue, text, {kind: counts})), inputs.input_ids):
            raise Undescribed(f"the processor writes out the placeholder of {kind} in another form")


def _sample(kind: str) -> dict[str, Any]:
    """Two soft tokens."""
    from PIL import Image

    if kind == "image":
        return {"images": [Image.new("RGB", (96, 48))]}
    return {"clips": [np.zeros(1000, np.float32)]}


# Rendering and cutting


def _said(role: str, text: str) -> Message:
    return {"role": role, "content": text}


def _render(prompter: Prompter, messages: Sequence[Message], **options: Any) -> str:
    """All turns, and no more."""
    return prompter.render(messages, add_generation_prompt=False, **options)


def _before(text: str, word: str) -> str:
    return _parts(text, word)[0]


def _behind(text: str, word: str) -> str:
    """From its last place on."""
    return _parts(text, word)[-1]


def _between(text: str, first: str, second: str) -> str:
    return _before(text.partition(first)[2], second)


def _parts(text: str, word: str) -> list[str]:
    if word not in text:
        raise Undescribed(f"the template does not write {word!r} out where it is said")
    return text.split(word)


def _without(text: str, piece: str, at_end: bool = False) -> str:
    if not (text.endswith(piece) if at_end else text.startswith(piece)):
        raise Undescribed(f"{piece!r} is not {'behind' if at_end else 'before'} all of {text!r}")
    return text.removesuffix(piece) if at_end else text.removeprefix(piece)
