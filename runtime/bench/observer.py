"""What a run on a phone tells: samples of its memory, and the line that ExecuTorch's runners print about themselves."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from runtime.bench.memory import Memory, parse_status
from runtime.errors import UserError

MARK = "PyTorchObserver "  # print_report in extension/llm/runner/stats.h of executorch
SAMPLED = "VmHWM|RssAnon|RssFile|RssShmem|Threads"  # of proc_pid_status(5)
LOOK = 0.1  # seconds between two samples
END = "ended"  # the line between samples and what the runner wrote


@dataclass(frozen=True)
class Run:
    """One prompt by one process."""

    prompt: int  # tokens
    generated: int  # tokens behind the first
    load: float  # seconds
    first_token: float  # seconds from the loaded model on
    decode: float  # seconds of those behind the first
    samples: list[Memory]
    threads: int | None


def script(command: str) -> str:
    """For a phone's shell: runs the command, and meanwhile looks at its memory.

    A process that has ended but was not waited for has a status without memory. Times are subtracted elsewhere, as
    Android's shell counts in 32 bits.
    """
    return f"""begun=$(date +%s%N)
{command} > output.txt 2>&1 < /dev/null &
pid=$!
while status=$(grep -E '{SAMPLED}' /proc/$pid/status 2>/dev/null); do
  case "$status" in *VmHWM*) echo "$status" ;; *) break ;; esac
  sleep {LOOK}
done
wait $pid
echo "{END} $? $begun $(date +%s%N)"
cat output.txt
"""


def read_run(output: str) -> Run:
    """
    Args:
        output: of the script.

    Raises:
        UserError: the runner failed, or does not tell its times.
    """
    status, _, said = output.partition(f"{END} ")
    code, begun, ended, *_ = [*said.split(maxsplit=3), "", "", ""]
    if code != "0":
        raise UserError(f"the runner ended with code {code or 'unknown'} on the phone ({_last_line(said)}): "
                        "try other --runner-arguments, shorter prompts, or run it by hand")  # fmt: skip
    report = _report(said)
    samples = [parse_status(text) for text in status.split("VmHWM") for text in [f"VmHWM{text}"] if "RssShmem" in text]
    threads = [int(count) for count in re.findall(r"Threads:\s+(\d+)", status)]
    try:
        return _run(report, (int(ended) - int(begun)) / 1e9, samples, max(threads, default=None))
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise UserError(f"the runner's line {MARK.strip()} is not as expected ({error!r}): it must be a runner of "
                        "executorch 1.5") from None  # fmt: skip


def _run(report: Mapping[str, Any], passed: float, samples: list[Memory], threads: int | None) -> Run:
    """Runners whose model was loaded before they were asked to generate say nothing about it: then all the time that
    was no inference counts, that of the tokenizer too."""
    unit = report["SCALING_FACTOR_UNITS_PER_SECOND"]

    def between(start: str, end: str) -> float:
        return max(1, report[end] - report[start]) / unit  # no clock tells less than a tick

    loaded = report["model_load_end_ms"] > report["model_load_start_ms"]
    load = between("model_load_start_ms", "model_load_end_ms")
    return Run(
        prompt=report["prompt_tokens"],
        generated=report["generated_tokens"],
        load=load if loaded else max(0.0, passed - between("inference_start_ms", "inference_end_ms")),
        first_token=between("inference_start_ms", "first_token_ms"),
        decode=between("prompt_eval_end_ms", "inference_end_ms"),
        samples=samples,
        threads=threads,
    )


def _report(said: str) -> dict[str, Any]:
    lines = [line.partition(MARK)[2] for line in said.splitlines() if MARK in line]
    if not lines:
        raise UserError(f"the runner printed no line {MARK.strip()} ({_last_line(said)}): it must be one of "
                        "executorch's own, which end with their statistics")  # fmt: skip
    try:
        return dict(json.loads(lines[-1]))
    except ValueError as error:
        raise UserError(f"the runner's line {MARK.strip()} is no JSON ({error}): is it cut short?") from None


def _last_line(said: str) -> str:
    lines = [line.strip() for line in said.splitlines()[1:] if line.strip()]
    return lines[-1][:200] if lines else "it wrote nothing"
