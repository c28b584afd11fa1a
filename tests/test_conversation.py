"""Several turns over one cache, against the same conversation read from the start; and talking on a command line."""

import fcntl
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO

import pytest
import torch
from typer.testing import CliRunner

from runtime.__main__ import app
from runtime.chat import Settings, interruptible, open_conversation
from runtime.conversation import Conversation, Memory, Turn, message_of
from runtime.errors import UserError
from runtime.prompt import user
from runtime.reply import Piece, Reply
from runtime.sessions.onnx import OnnxSession
from runtime.sessions.reference import ReferenceSession
from tests.random_models import relative_rms
from tests.videos import write_video

ENGINES = ["onnx", "genai"]


def conversation(bundle: Path, engine: str = "onnx", **settings: object) -> Conversation:
    return open_conversation(bundle, Settings(engine=engine, greedy=True, **settings))  # type: ignore[arg-type]


def say(
    to: Conversation, text: str, limit: int = 12, images: tuple[str, ...] = (), videos: tuple[str, ...] = ()
) -> Turn:
    turn = Turn()
    pieces = list(to.say(user(text, images=images, videos=videos), turn, limit))
    assert pieces == turn.reply.pieces
    return turn


@pytest.fixture
def boot(bundle: Path) -> str:
    return str(bundle / "goldens" / "boot.png")


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_video(tmp_path_factory.mktemp("film") / "film.mp4", 12, (96, 64), rate=4))


@pytest.mark.parametrize("engine", ENGINES)
def test_later_turns_prefill_what_is_new_and_answer_the_same(bundle: Path, engine: str, boot: str) -> None:
    kept, fresh = conversation(bundle, engine), conversation(bundle, engine)
    say(kept, "What is shown?", images=(boot,))
    second = say(kept, "Continue: The old man went down to the sea")
    fresh.messages += kept.messages[:2]
    whole = say(fresh, "Continue: The old man went down to the sea")
    assert second.tokens == whole.tokens and second.prefilled < whole.prefilled - 50
    assert kept.session.position == fresh.session.position


@pytest.fixture
def rewriting(bundle_copy: Path) -> Path:
    """Its template does with turns that are over what the published one does: an empty thought ends a prompt and is in
    no later one, and arguments of calls are objects."""
    path = bundle_copy / "chat_template.jinja"
    text, begin = path.read_text(), "{{ '<|turn>model\\n' }}"
    assert text.count(begin) == text.count("arguments if arguments is string") == 1
    text = text.replace(begin, "{{ '<|turn>model\\n' + ('' if think else '<|channel>thought\\n<channel|>') }}")
    path.write_text(
        text.replace("(arguments if arguments is string", "(raise_exception('no object') if arguments is string")
    )
    return bundle_copy


def test_turns_that_the_template_writes_anew_are_taken_back(rewriting: Path, boot: str) -> None:
    """As far as the first image: what is behind it is compared, and only what differs is prefilled."""
    kept, fresh = conversation(rewriting), conversation(rewriting)
    say(kept, "What is shown?", images=(boot,))
    second = say(kept, "Continue: The old man went down to the sea")
    third = say(kept, "What is shown?", images=(boot,))
    assert "thought" in kept._memory.text and kept.session.position == len(kept._memory.ids)
    for turn, count in (second, 2), (third, 4):
        fresh.messages[:] = kept.messages[:count]
        fresh._memory = Memory()
        whole = say(fresh, "Continue: The old man went down to the sea" if turn is second else "What is shown?",
                    images=() if turn is second else (boot,))  # fmt: skip
        assert turn.tokens == whole.tokens and turn.prefilled < whole.prefilled - 20


def test_an_engine_that_cannot_go_back_reads_again(rewriting: Path) -> None:
    kept, fresh = conversation(rewriting, "genai"), conversation(rewriting, "genai")
    say(kept, "Continue: The sea")
    second = say(kept, "Continue: The dog")
    fresh.messages += kept.messages[:2]
    whole = say(fresh, "Continue: The dog")
    assert second.tokens == whole.tokens and second.prefilled == whole.prefilled


def test_calls_come_back_as_objects(rewriting: Path) -> None:
    """What the model wrote in no such form stays text, which the template may refuse."""
    prompter = conversation(rewriting).prompter
    written = {'call:weather{days:2,city:<|"|>Oslo<|"|>}': "", "call:weather{days:}": "no object"}
    for call, refused in written.items():
        answer = message_of(Reply([Piece("call", ""), Piece("call", call)]))
        if not refused:
            assert 'call:weather{city:<|"|>Oslo<|"|>,days:2}' in prompter.render([*user("Hello"), answer])
        else:
            with pytest.raises(UserError, match=refused):
                prompter.render([*user("Hello"), answer])


def test_control_what_was_said_before_matters(bundle: Path) -> None:
    kept, fresh = conversation(bundle), conversation(bundle)
    say(kept, "Continue: It was a dark night, and")
    text = "Continue: The old man went down to the sea"
    assert say(kept, text, 24).tokens != say(fresh, text, 24).tokens


def test_an_image_in_a_later_turn(bundle: Path, boot: str) -> None:
    """onnxruntime-genai takes none there, so its conversation is read again from the start."""
    answers = []
    for engine in ENGINES:
        to = conversation(bundle, engine)
        say(to, "Continue: The sea")
        answers.append(say(to, "What is shown?", images=(boot,)))
    assert answers[0].tokens == answers[1].tokens and answers[0].reply.text == "boot"
    assert answers[0].prefilled < answers[1].prefilled


@pytest.mark.parametrize("engine", ENGINES)
def test_a_video_in_the_first_turn(bundle: Path, engine: str, film: str) -> None:
    """12 frames of 60 soft tokens; the next turn prefills its own text alone."""
    kept, fresh = conversation(bundle, engine), conversation(bundle, engine)
    first = say(kept, "What is shown?", videos=(film,))
    second = say(kept, "Continue: The sea")
    fresh.messages += kept.messages[:2]
    whole = say(fresh, "Continue: The sea")
    assert second.tokens == whole.tokens and first.prefilled > 700 and second.prefilled < 30


def test_a_video_and_an_image_in_a_later_turn(bundle: Path, film: str, boot: str) -> None:
    answers = []
    for engine in ENGINES:
        to = conversation(bundle, engine, frames=3)
        say(to, "What is shown?", images=(boot,))
        answers.append(say(to, "What is shown?", images=(boot,), videos=(film,)))
    assert answers[0].tokens == answers[1].tokens and answers[0].prefilled < answers[1].prefilled - 50


def test_a_video_in_the_reference(bundle: Path, quantized_checkpoint: Path, film: str, boot: str) -> None:
    """The control has its frames in another order."""
    to = conversation(bundle, frames=5)
    messages = user("What is shown?", [boot], videos=[film])
    inputs = to.prompter(messages).inputs
    assert inputs.pixel_values_videos is not None
    backwards = replace(inputs, pixel_values_videos=inputs.pixel_values_videos[::-1].copy())
    reference = ReferenceSession.open(quantized_checkpoint)
    wanted = torch.from_numpy(reference.prefill(inputs))
    reference.reset()
    other = torch.from_numpy(reference.prefill(backwards))
    found = torch.from_numpy(OnnxSession(bundle / "onnx", exact=True).prefill(inputs))
    assert relative_rms(found, wanted) < 1e-5 < 1e-3 < relative_rms(found, other)


def test_an_answer_that_is_stopped_stays_and_the_next_turn_goes_on(bundle: Path) -> None:
    to, turn = conversation(bundle), Turn()
    list(to.say(user("Continue: It was late in the evening"), turn, stopped=lambda: len(turn.tokens) == 5))
    assert turn.ended == "user" and len(turn.tokens) == 5
    after = say(to, "Continue: The sea")
    assert after.prefilled < 30
    fresh = conversation(bundle)
    fresh.messages += to.messages[:2]
    assert say(fresh, "Continue: The sea").tokens == after.tokens


def test_what_cannot_be_said_changes_nothing(bundle: Path) -> None:
    to = conversation(bundle)
    say(to, "Continue: The sea")
    before, position = list(to.messages), to.session.position
    for text, reason in [(" ", "nothing was said"), ("word " * 20000, "leave no room")]:
        with pytest.raises(UserError, match=reason):
            say(to, text)
    with pytest.raises(UserError, match="not a readable image"):
        say(to, "What is shown?", images=(str(bundle / "manifest.json"),))
    assert to.messages == before and to.session.position == position
    assert say(to, "Continue: The dog").prefilled < 30


def test_an_answer_ends_where_the_context_does(bundle: Path) -> None:
    to = conversation(bundle)
    to._context = 30
    turn = say(to, "Continue: It was late in the evening when", limit=100)
    assert turn.ended == "context" and to.session.position < 30


def test_tools_and_thinking_reach_the_template(bundle: Path, tmp_path: Path) -> None:
    tools = tmp_path / "tools.json"
    tools.write_text(json.dumps([{"type": "function", "function": {"name": "weather", "parameters": {}}}]))
    to = conversation(bundle, tools=tools, think=True, system="Be short.")
    say(to, "Continue: The sea", 2)
    assert "declaration:weather" in to._memory.text and "<|think|>" in to._memory.text
    assert "Be short." in to._memory.text


@pytest.mark.parametrize("text", ["", "{}", "[1]", '[{"function": {}}]', "[" * 10**5])
def test_unreadable_tools_are_told(bundle: Path, tmp_path: Path, text: str) -> None:
    tools = tmp_path / "tools.json"
    tools.write_text(text)
    with pytest.raises(UserError, match=r"no list of tools"):
        conversation(bundle, tools=tools)


@pytest.fixture
def restored() -> Iterator[None]:
    before = signal.getsignal(signal.SIGINT)
    yield
    assert signal.getsignal(signal.SIGINT) is before


def test_the_first_interrupt_asks_and_the_second_ends(restored: None) -> None:
    with pytest.raises(KeyboardInterrupt), interruptible() as stopped:
        assert not stopped()
        signal.raise_signal(signal.SIGINT)
        assert stopped()
        signal.raise_signal(signal.SIGINT)


def test_an_interrupt_after_an_answer_keeps_the_conversation(bundle: Path) -> None:
    """At a terminal; the second turn prefills its own text alone."""
    keyboard, terminal = pty.openpty()
    command = [sys.executable, "-m", "runtime", "chat", str(bundle), "--greedy", "--limit", "4"]
    with (
        subprocess.Popen(command, stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True,
                         preexec_fn=own_terminal) as chat,
        os.fdopen(keyboard, "r+b", buffering=0) as keys,  # closing it ends what still runs there
    ):  # fmt: skip
        os.close(terminal)
        answered(keys, "", "> ")
        first = answered(keys, "Hello there, old man.\n", "tokens/s", "> ")
        time.sleep(1)  # between the prompt and readline's wait for keys, Python keeps a signal until the next key
        answered(keys, "never mi\x03", "Ctrl-D ends", "> ")
        second = answered(keys, "Continue: The sea\n", "tokens/s", "> ")
        keys.write(b"\x04")
        assert chat.wait(30) == 0
    assert "positions prefilled" in first
    assert int(second.split("positions prefilled")[0].split()[-1]) < 30


def own_terminal() -> None:
    """Ctrl-C there interrupts, even if these tests run in the background of a shell, which has them ignore it."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def answered(keys: IO[bytes], typed: str, *until: str) -> str:
    """What a terminal shows after something was typed, up to these words, without colours; within two minutes."""
    keys.write(typed.encode())
    shown, start = b"", 0
    for text in until:
        while text.encode() not in shown[start:]:
            assert select.select([keys], [], [], 120)[0], f"no {text!r} in {shown!r}"
            shown += keys.read(1024)
        start = shown.index(text.encode(), start) + len(text)  # one read may bring what comes next as well
    return re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", shown.decode())


def test_the_command(bundle: Path, boot: str) -> None:
    arguments = ["chat", str(bundle), "--greedy", "--image", boot, "--limit", "8"]
    result = CliRunner().invoke(app, arguments, input="What is shown?\n\nContinue: The sea\n")
    lines = result.output.splitlines()
    assert result.exit_code == 0 and "boot" in lines[0] and "tokens/s" in result.output
    assert "error: nothing was said" in result.output and result.output.count("positions prefilled") == 2


def test_the_command_with_a_video(bundle: Path, boot: str, film: str) -> None:
    arguments = ["--greedy", "--image", boot, "--video", film, "--frames", "2", "--image-tokens", "140", "--limit", "3"]
    result = CliRunner().invoke(app, ["chat", str(bundle), *arguments, "--prompt", "What is shown?"])
    positions = int(result.output.split(" positions prefilled")[0].split()[-1])
    assert result.exit_code == 0 and 140 + 2 * 60 - 20 < positions < 140 + 2 * 70 + 40


@pytest.mark.parametrize(
    "said, told",
    [
        ("", "nothing was said"),
        ("word " * 20000, "leave no room for an answer in the context"),
        ("What is <|image|>?", "the processor refuses the prompt"),
        ("caf\udce9", "is not UTF-8"),
    ],
    ids=["empty", "long", "placeholder", "no UTF-8"],
)
def test_a_prompt_that_cannot_be_said_ends_the_command(bundle: Path, said: str, told: str) -> None:
    result = CliRunner().invoke(app, ["chat", str(bundle), "--prompt", said, "--prompt", "Hello"])
    assert result.exit_code == 2 and told in result.stderr and len(result.stderr.splitlines()) == 1
    assert not result.stdout


@pytest.mark.parametrize("line, told", [(b"\xff\xfe\n", "is not UTF-8"), (b"x" * (1 << 24) + b"yy\n", "16 MiB")])
def test_lines_of_stdin_that_are_no_text(bundle: Path, line: bytes, told: str) -> None:
    result = CliRunner().invoke(app, ["chat", str(bundle), "--greedy", "--limit", "2"], input=b"Hello\n" + line)
    assert result.exit_code == 2 and "positions prefilled" in result.stdout
    assert told in result.stderr and len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("name", ["onnx/decoder.onnx", "onnx/vision.onnx", "onnx/genai_config.json", "tokenizer.json"])
@pytest.mark.parametrize("content", [None, b"", b"\xff" * 1000], ids=["missing", "empty", "other"])
@pytest.mark.parametrize("engine", ENGINES)
def test_a_damaged_bundle_is_told(bundle_copy: Path, boot: str, name: str, content: bytes | None, engine: str) -> None:
    (bundle_copy / name).unlink() if content is None else (bundle_copy / name).write_bytes(content)
    arguments = ["chat", str(bundle_copy), "--engine", engine, "--image", boot, "--prompt", "What is shown?"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2 and isinstance(result.exception, SystemExit)
    assert result.stderr.startswith("error: ") and len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "arguments, told",
    [
        (["--image-tokens", "100"], "no image takes up to 100 soft tokens"),
        (["--engine", "coreml"], "no artifact for engine 'coreml'; there are onnx, genai"),
        (["--engine", "reference"], "--quantized"),
        (["--tools", "missing.json"], "no list of tools"),
    ],
)
def test_bad_input_is_one_line(bundle: Path, arguments: list[str], told: str) -> None:
    result = CliRunner().invoke(app, ["chat", str(bundle), *arguments, "--prompt", "x"])
    assert result.exit_code == 2 and told in result.stderr and len(result.stderr.splitlines()) == 1


def test_the_reference_answers_too(bundle: Path, quantized_checkpoint: Path, boot: str) -> None:
    to = conversation(bundle, "reference", quantized=quantized_checkpoint)
    assert say(to, "What is shown?", images=(boot,)).reply.text == "boot"
