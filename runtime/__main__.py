"""Command line of the runtime: `python -m runtime verify BUNDLE`, and so chat, bench, report and inspect."""

import sys
from collections.abc import Iterator
from json import dumps
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from runtime.errors import UserError, bad_input_told, printable
from runtime.manifest import Measure, Verification
from runtime.measures import group_rows, margin, worst_last
from runtime.progress import status

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
LONGEST_INPUT = 1 << 24  # bytes of a line, more than the longest context has tokens for
LOG_WIDTH = 160  # of the table where nothing says how wide lines may be


@app.callback()
def commands() -> None:
    """Open a bundle and see what it is, and whether it is what it should be."""


@app.command("verify")
def verify_command(
    bundle: Annotated[Path, typer.Argument(help="Folder that an export wrote.")],
    quantized: Annotated[Path | None, typer.Option(help="Quantized checkpoint [build/quantized/NAME].")] = None,
    source: Annotated[Path | None, typer.Option(help="Source checkpoint [as the quantized one records].")] = None,
    evaluation: Annotated[Path | None, typer.Option(help="Held-out data [runtime/evaluation].")] = None,
    gate: Annotated[list[str] | None, typer.Option(help="name=value, overrides a bound; repeatable.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="Run this check only; repeatable.")] = None,
    reference: Annotated[
        str, typer.Option(help="none, whole (if it fits the memory) or streamed (slow, in 4 GB of memory).")
    ] = "whole",
    baseline: Annotated[Path | None, typer.Option(help="Older bundle that this one must not fall behind.")] = None,
    junit: Annotated[Path | None, typer.Option(help="JUnit XML file to write, a test case for each measure.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Markdown file to append a summary to.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Exits 0 if all gates hold, 1 if one fails, 2 for bad input."""
    from runtime.baseline import compare
    from runtime.gates import GATES, override  # torch, transformers and engines take seconds to import
    from runtime.references import find_kind
    from runtime.report.junit import write_junit
    from runtime.report.summary import append_summary
    from runtime.verify import verify

    with bad_input_told(), status() as told:
        gates = override(GATES, gate or [])
        kind = find_kind(reference)
        result = verify(bundle, quantized, source, evaluation, gates, only or [], told, kind)
        if baseline:
            result = compare(bundle, baseline, result, gates, told)
        if junit:
            write_junit(result, bundle, junit)
        if markdown:
            append_summary(result, bundle, markdown)
    if json:
        typer.echo(result.model_dump_json(indent=1))
    else:
        show(result, bundle, wide_console())
    raise typer.Exit(0 if result.passed else 1)


@app.command("chat")
def chat_command(
    bundle: Annotated[Path, typer.Argument(help="Folder that an export wrote.")],
    engine: Annotated[
        str | None, typer.Option(help="onnx, genai, executorch, coreml, coreai or reference [the bundle's first].")
    ] = None,
    image: Annotated[list[Path] | None, typer.Option(help="Shown in the first turn; repeatable.")] = None,
    video: Annotated[list[Path] | None, typer.Option(help="Shown, without sound; repeatable.")] = None,
    audio: Annotated[list[Path] | None, typer.Option(help="Played in the first turn; repeatable.")] = None,
    image_tokens: Annotated[
        int | None, typer.Option(help="Soft tokens of an image at most: 70, 140, 280, 560 or 1120 [the checkpoint's].")
    ] = None,
    frames: Annotated[int | None, typer.Option(min=1, help="Taken from a video at most [the checkpoint's].")] = None,
    system: Annotated[str, typer.Option(help="Instructions that come before all turns.")] = "",
    think: Annotated[bool, typer.Option("--think", help="Let the model think first.")] = False,
    tools: Annotated[Path | None, typer.Option(help="JSON list of functions that the model may call.")] = None,
    prompt: Annotated[list[str] | None, typer.Option(help="Said instead of lines from stdin; repeatable.")] = None,
    greedy: Annotated[bool, typer.Option("--greedy", help="The likeliest token each time.")] = False,
    temperature: Annotated[float | None, typer.Option(min=0, help="Instead of the checkpoint's.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of sampling [another each time].")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Tokens of an answer.")] = 2048,
    quantized: Annotated[Path | None, typer.Option(help="Quantized checkpoint, for the reference.")] = None,
) -> None:
    """A turn for each line, over one cache. Ctrl-C stops an answer, Ctrl-D ends. Exits 2 for bad input."""
    from runtime.chat import Settings, open_conversation, talk

    settings = Settings(engine, quantized, image or (), audio or (), video or (), image_tokens, frames, system, think,
                        tools, greedy, temperature, seed, limit)  # fmt: skip
    with bad_input_told():
        with status():
            conversation = open_conversation(bundle, settings)
        lines = iter(prompt) if prompt else _lines()
        talk(conversation, lines, settings, Console(), strict=bool(prompt))


def _lines() -> Iterator[str]:
    """Of stdin, asked for where a person types them.

    Raises:
        UserError: one that is longer than any context, or not UTF-8.
    """
    while line := _ask() if sys.stdin.isatty() else sys.stdin.buffer.readline(LONGEST_INPUT + 1):
        if len(line) > LONGEST_INPUT:
            raise UserError(f"a line of more than {LONGEST_INPUT >> 20} MiB on stdin: say less")
        try:
            yield line.decode().removesuffix("\n")
        except UnicodeDecodeError as error:
            raise UserError(f"a line on stdin is not UTF-8 ({error.reason}): convert it with iconv") from None


def _ask() -> bytes:
    """A line, as a person edits it; nothing at the end. Ctrl-C drops what was typed, as it may come after an answer."""
    while True:
        try:
            return (input("> ") + "\n").encode(errors="surrogateescape")
        except EOFError:
            return b""
        except KeyboardInterrupt:
            print("\nCtrl-D ends")


@app.command("bench")
def bench_command(
    bundle: Annotated[Path, typer.Argument(help="Folder that an export wrote.")],
    engine: Annotated[
        list[str] | None, typer.Option(help="onnx, genai, executorch, coreml, coreai; repeatable [all that run here].")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Of each engine [one per core].")] = None,
    prefill: Annotated[str | None, typer.Option(help="Lengths of prompts [16,128,512; on a phone 16,128,256].")] = None,
    context: Annotated[
        str | None, typer.Option(help="Positions behind which tokens are decoded [128,1024; on a phone 128,256].")
    ] = None,
    tokens: Annotated[int, typer.Option(min=1, help="Decoded behind each.")] = 16,
    repeats: Annotated[int, typer.Option(min=1, help="Rounds that count.")] = 5,
    warmup: Annotated[int, typer.Option(min=0, help="Rounds before them.")] = 1,
    loads: Annotated[int, typer.Option(min=1, help="Times that each artifact is loaded.")] = 3,
    vs: Annotated[str | None, typer.Option(help="llama.cpp: a peer in the same rounds.")] = None,
    gguf: Annotated[Path | None, typer.Option(help="Model of the peer.")] = None,
    device: Annotated[str | None, typer.Option(help="adb or adb:SERIAL: an Android phone [this machine].")] = None,
    runner: Annotated[Path | None, typer.Option(help="ExecuTorch's runner, built for the phone.")] = None,
    runner_arguments: Annotated[str | None, typer.Option(help="Its command line, with {model}, {prompt} ...")] = None,
    out: Annotated[Path | None, typer.Option(help="File to write the JSON to.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the JSON line alone.")] = False,
) -> None:
    """Speed and memory of its engines, which take turns. Ends with one JSON line. Exits 2 for bad input."""
    from runtime.bench.command import Settings, run  # numpy and pydantic take time to import
    from runtime.bench.plan import Wanted

    wanted = Wanted(prefill, context, tokens, repeats, warmup, loads, threads)
    with bad_input_told():
        settings = Settings(engine or (), vs, gguf, device, runner, runner_arguments, out, json)
        run(bundle, wanted, settings, wide_console())


@app.command("report")
def report_command(
    bundle: Annotated[Path, typer.Argument(help="Folder that an export wrote.")],
    out: Annotated[Path | None, typer.Option(help="HTML file to write [beside the bundle, of its name].")] = None,
    quantized: Annotated[Path | None, typer.Option(help="Quantized checkpoint [build/quantized/NAME].")] = None,
    bench: Annotated[Path | None, typer.Option(help="What `bench --out` wrote, for speed and memory.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Tells a bundle on one HTML page. Exits 0 whatever the verdict on it is, 2 for bad input."""
    from runtime.report.page import write_report  # matplotlib takes a second to import

    with bad_input_told():
        path, verdict = write_report(bundle, out, quantized, bench)
    told = {"report": str(path), "verdict": verdict.text}
    typer.echo(dumps(told) if json else f"{verdict.text}: {printable(path)}")


@app.command("inspect")
def inspect_command(
    path: Annotated[Path, typer.Argument(help="Bundle, checkpoint, .pte, .onnx or .mlpackage.")],
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Says what is inside, reading headers only. Exits 2 for bad input."""
    from runtime.inspection import show  # pydantic's models and engines take time to import
    from runtime.inspection.kinds import inspect

    with bad_input_told(), status() as told:
        told(f"inspecting {printable(path)}")
        description = inspect(path)
    if json:
        typer.echo(description.model_dump_json(indent=1))
    else:
        show.show(description, wide_console())


def wide_console() -> Console:
    """On stdout, as wide as a terminal, or as tables need in a log."""
    return Console(width=None if sys.stdout.isatty() else LOG_WIDTH)


def show(result: Verification, bundle: Path, console: Console) -> None:
    """For people: a row for each measure with a column for each kind of input, failures and near ties, the verdict."""
    kinds = list(dict.fromkeys(measure.modality or "all" for measure in result.measures))
    table = Table("check", "engine", "measure", *kinds, "gate", "margin", box=None, pad_edge=False)
    for same in group_rows(result.measures):
        tightest = worst_last(same)[-1]
        cells, last = _cells(same, kinds, _gate(tightest)), [_gate(tightest), _margin_text(tightest)]
        table.add_row(same[0].check, same[0].engine or "", same[0].name, *cells, *last)
    console.print(table)
    for measure in filter(_is_explained, result.measures):
        where = " ".join(filter(None, (measure.check, measure.engine, measure.modality, measure.name)))
        told = f"{measure.value:.3g}", _gate(measure), escape(measure.note)
        style = "yellow" if measure.passed else "bold red"
        console.print(f"[{style}]{where}[/]: {'; '.join(filter(None, told))}")
    for name, reason in result.skipped.items():
        console.print(f"[yellow]skipped {name}[/]: {escape(reason)}")
    failed = sum(not measure.passed for measure in result.measures)
    verdict = "[bold green]verified[/]" if result.passed else f"[bold red]{failed} gates failed[/]"
    console.print(f"{verdict} {escape(printable(bundle))}: {', '.join(result.ran)}")
    if result.passed and not result.compared:
        console.print("[yellow]nothing was compared with the model: goldens and lowering were not checked[/]")


def _is_explained(measure: Measure) -> bool:
    """Whether people want its note too."""
    return not measure.passed or "near tie" in measure.note or (measure.check == "delegation" and bool(measure.note))


def _cells(same: list[Measure], kinds: list[str], gate: str) -> list[str]:
    """Values by kind, the worst where a kind was measured several times; with its own gate where that is another."""
    cells = dict.fromkeys(kinds, "")
    for measure in worst_last(same):
        value = f"{measure.value:.3g}" + (f" ({_gate(measure)})" if _gate(measure) != gate else "")
        cells[measure.modality or "all"] = value if measure.passed else f"[bold red]{value}[/]"
    return list(cells.values())


def _margin_text(measure: Measure) -> str:
    if measure.bound is None:
        return ""
    return f"[green]{margin(measure):.1%}[/]" if measure.passed else "[bold red]FAILED[/]"


def _gate(measure: Measure) -> str:
    return f"{'>=' if measure.at_least else '<='} {measure.bound:.3g}" if measure.bound is not None else ""


if __name__ == "__main__":
    app()
