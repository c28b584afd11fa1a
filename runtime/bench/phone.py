"""A bench on an Android phone: the bundle goes there, ExecuTorch's command-line runner times itself."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote, split

from runtime.bench.adb import Adb
from runtime.bench.memory import highest, middle
from runtime.bench.observer import Run, read_run, script
from runtime.bench.plan import Wanted, plan_work
from runtime.bench.progress import Expect, Told, untold
from runtime.bench.push import Local, push
from runtime.bench.result import Bench, EngineSpeed, Figure, Machine, MemoryUse, Resident, TextSpeed, Work
from runtime.errors import UserError
from runtime.manifest import FILE, Manifest, read_manifest

FORMAT, MODEL, DATA, TOKENIZER = "executorch", "model.pte", "model.ptd", "tokenizer.json"
TEXT = "It was late in the evening when the old man came down to the sea and looked for his boat. "
ROOT = "/data/local/tmp/gemma4-edge"  # where adb's shell may write and run programs
RUNNER, SCRIPT = "runner", "run{}.sh"  # in there
ARGUMENTS = ("--model_path {model} --data_path {data} --tokenizer_path {tokenizer} --prompt {prompt} "
             "--max_new_tokens {tokens} --cpu_threads {threads} --temperature 0")  # fmt: skip
HEURISTIC = -1  # threads: executorch counts the fast cores
PREFILL, CONTEXTS = "16,128,256", "128,256"  # other runners than ours prefill in one step, of at most 280 positions


@dataclass(frozen=True)
class Phone:
    """How to run there."""

    runner: Path  # executable for the phone's processor
    serial: str | None = None
    arguments: str = ARGUMENTS


def bench_phone(bundle: Path, wanted: Wanted, phone: Phone, expect: Expect = untold) -> Bench:
    """Every prompt in a new process, round after round.

    Raises:
        UserError: no bundle there, nothing in it for ExecuTorch, no runner, or see `Adb`, `push` and `read_run`.
    """
    manifest = read_manifest(bundle)
    wanted = replace(wanted, prefill=wanted.prefill or PREFILL, context=wanted.context or CONTEXTS)
    work, notes = plan_work(wanted, manifest.limits.context)
    files = bundle_files(bundle, manifest, phone.runner)
    adb, folder = Adb(phone.serial), f"{ROOT}/{bundle.resolve().name}"
    sent = push(adb, files, folder, expect)
    adb.shell(f"chmod 755 {quote(f'{folder}/{RUNNER}')}")
    machine = describe_phone(adb)
    runs = _run_all(adb, folder, bundle, work, phone.arguments, expect(steps(work)))
    notes += [f"on the phone: {', '.join(f'{count} files {outcome}' for outcome, count in sorted(sent.items()))}",
              "images and clips are not timed on a phone, as runners take text"]  # fmt: skip
    return Bench(
        bundle=bundle.resolve().name, target=manifest.target, recipe=manifest.recipe.name,
        context=manifest.limits.context, device=f"adb:{adb.serial}",
        work=work.model_copy(update={"loads": len(work.lengths) * work.repeats}), machine=machine,
        engines=[_speed(runs, work)], ratios=[], skipped={}, notes=notes,
    )  # fmt: skip


def bundle_files(bundle: Path, manifest: Manifest, runner: Path) -> list[Local]:
    """Those that the engine and its tokenizer read, the manifest, and the runner.

    Raises:
        UserError: one is not there.
    """
    if FORMAT not in manifest.artifacts:
        raise UserError("only ExecuTorch has a command-line runner for phones, and the bundle has no such artifact: "
                        "export it with --target android")  # fmt: skip
    if not runner.is_file():
        raise UserError(f"{runner} is no file: name a runner built for the phone with --runner (see README, Bench)")
    kept = [file for file in manifest.files if file.path.startswith(f"{FORMAT}/") or "/" not in file.path]
    missing = [file.path for file in kept if not (bundle / file.path).is_file()]
    if missing:
        raise UserError(f"{bundle / missing[0]} is missing: export the bundle again")
    named = [Local(bundle / file.path, file.path, file.sha256) for file in kept]
    return [*named, Local.of(bundle / FILE, FILE), Local.of(runner, RUNNER)]


def describe_phone(adb: Adb) -> Machine:
    """As it describes itself."""
    wanted = {
        "maker": "getprop ro.product.manufacturer", "model": "getprop ro.product.model",
        "chip": "getprop ro.soc.model", "android": "getprop ro.build.version.release", "kernel": "uname -srm",
        "cores": "nproc", "memory": "grep MemTotal /proc/meminfo",
    }  # fmt: skip
    told = adb.shell("; ".join(f'echo "{name}=$({command} 2>/dev/null)"' for name, command in wanted.items()))
    found = dict(line.split("=", 1) for line in told.splitlines() if "=" in line)
    name = " ".join(filter(None, (found.get(key, "").strip() for key in ("maker", "model", "chip"))))
    cores = int(found.get("cores") or 0)
    return Machine(
        name=name or adb.serial, system=f"Android {found.get('android') or '?'}, {found.get('kernel') or '?'}",
        cores=cores, threads=cores, memory=int([*found.get("memory", "").split(), "0", "0"][1]) * 1024,
        load=None, packages={},  # Android counts threads that sleep in drivers too: its load says nothing
    )  # fmt: skip


# Runs


def steps(work: Work) -> int:
    return (work.warmup + work.repeats) * len(work.lengths)


def _run_all(adb: Adb, folder: str, bundle: Path, work: Work, arguments: str, told: Told) -> list[list[Run]]:
    """Of each length, without those that warm up."""
    for number, prompt in enumerate(make_prompts(bundle, work.lengths)):
        adb.write(script(command(bundle, prompt, work, arguments)), f"{folder}/{SCRIPT.format(number)}")
    runs: list[list[Run]] = [[] for _ in work.lengths]
    for round_ in range(work.warmup + work.repeats):
        for number, same in enumerate(runs):
            told(f"round {round_ + 1}, {work.lengths[number]} positions")
            same.append(read_run(adb.shell(f"cd {quote(folder)} && sh {SCRIPT.format(number)}")))
    return [same[work.warmup :] for same in runs]


def command(bundle: Path, prompt: str, work: Work, arguments: str) -> str:
    """The runner's command line, for a shell in the phone's folder.

    Raises:
        UserError: the arguments name something that there is not.
    """
    there = f"{FORMAT}/{DATA}" if (bundle / FORMAT / DATA).is_file() else ""
    values = {"model": f"{FORMAT}/{MODEL}", "data": there, "tokenizer": TOKENIZER, "prompt": prompt,
              "tokens": work.tokens + 1, "threads": work.threads or HEURISTIC}  # fmt: skip
    try:
        parts = [part.format_map(values) for part in split(arguments)]
    except (ValueError, KeyError, IndexError, AttributeError) as error:
        names = ", ".join(f"{{{key}}}" for key in values)
        raise UserError(f"--runner-arguments {arguments!r} ({error!r}): there are {names}") from None
    return " ".join(quote(part) for part in [f"./{RUNNER}", *parts])


def make_prompts(bundle: Path, lengths: Sequence[int]) -> list[str]:
    """Text of about so many tokens; the runner says how many it made of it."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(bundle / TOKENIZER))
    ids = tokenizer.encode(TEXT * max(lengths), add_special_tokens=False).ids  # a sentence has several tokens
    return [tokenizer.decode(ids[:length]) for length in lengths]


# What it comes to


def _speed(runs: Sequence[Sequence[Run]], work: Work) -> EngineSpeed:
    every = [run for same in runs for run in same]
    samples = [sample for run in every for sample in run.samples]
    if not samples:
        raise UserError("the runner ended before its memory was looked at: ask for more --tokens")
    return EngineSpeed(
        engine=FORMAT,
        load=Figure.of([run.load for run in every]),
        first_token=None,
        threads=max((run.threads for run in every if run.threads), default=None),
        text=[_text(same, length in work.contexts) for same, length in zip(runs, work.lengths, strict=True)],
        media=[],
        memory=MemoryUse(imported=None, loaded=None, steady=Resident.of(middle(runs[-1][-1].samples or samples)),
                         peak=Resident.at_peak(highest(samples))),
        notes=["each prompt is the first of a new process"],
    )  # fmt: skip


def _text(runs: Sequence[Run], decodes: bool) -> TextSpeed:
    return TextSpeed(
        length=runs[0].prompt,
        first_token=Figure.of([run.first_token for run in runs]),
        prefill=Figure.of([run.prompt / run.first_token for run in runs]),
        decode=Figure.of([run.generated / run.decode for run in runs]) if decodes else None,
    )
