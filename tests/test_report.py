"""The page says what the manifest says, reaches for nothing outside, and lets no string of a manifest in unescaped."""

import json
import re
from collections.abc import Iterable
from html.parser import HTMLParser
from pathlib import Path

import pytest
from typer.testing import CliRunner

from runtime.__main__ import app
from runtime.bench.result import Bench, EngineSpeed, Figure, MemoryUse, Resident, TextSpeed, Work
from runtime.bench.result import Machine as BenchMachine
from runtime.errors import UserError
from runtime.manifest import (
    FORMAT_VERSION,
    Artifact,
    CacheMemory,
    File,
    Limits,
    Manifest,
    Measure,
    Program,
    Recipe,
    Sampling,
    Source,
    TensorDigest,
    Tokens,
    Verification,
    read_manifest,
    write_manifest,
)
from runtime.measures import margin
from runtime.report import sizes
from runtime.report.page import render, write_report
from runtime.report.rounding import Record, Rounding, TensorError
from runtime.report.text import margin_left
from runtime.report.verdict import gates_of, judge
from runtime.units import size

NAME = "little-int4"
LAYER = "model.language_model.layers.{}.mlp.up_proj.weight"
VOID = {"meta", "link", "br", "hr", "img", "input"}
HOSTILE = "<script>alert(1)</script>\"'&$x$"


def digest(name: str, shape: tuple[int, ...], dtype: str = "int4", group: int | None = 32) -> TensorDigest:
    return TensorDigest(name=name, shape=shape, dtype=dtype, group=group, sha256="0" * 64,
                        scales_sha256="1" * 64 if dtype.startswith("int") else None)  # fmt: skip


TENSORS = [
    digest("model.language_model.embed_tokens.weight", (100, 64)),
    digest(LAYER.format(0), (128, 64)),
    digest(LAYER.format(1), (128, 64), "int8", None),
    digest("model.embed_vision.embedding_projection.weight", (64, 48), "bfloat16", None),
]
RECORD = Record(
    tensors=TENSORS,
    errors=[TensorError(name=tensor.name, error=0.08 + 0.0011 * i, plain_error=0.1 + 0.0013 * i)
            for i, tensor in enumerate(TENSORS[:3])],
    error=0.0817,
    plain_error=0.1019,
)  # fmt: skip


def steady(value: float) -> Figure:
    return Figure(median=value, spread=0.05, values=[value] * 3)


HELD = Resident(anonymous=10**9, file=2 * 10**9, total=3 * 10**9)
SPEED = TextSpeed(length=16, first_token=steady(0.13), prefill=steady(123), decode=steady(4.56))
BENCH = Bench(
    bundle=NAME, target="android", recipe="int4", context=2000, device="adb:0123",
    work=Work(lengths=[16], contexts=[16], tokens=8, repeats=1, warmup=0, loads=1, threads=None),
    machine=BenchMachine(name="a phone", system="Android", cores=8, threads=8, memory=10**9, load=None, packages={}),
    engines=[EngineSpeed(
        engine="executorch", load=steady(7), first_token=None, threads=4, text=[SPEED], media=[], notes=[],
        memory=MemoryUse(imported=None, loaded=HELD, steady=HELD, peak=HELD),
    )],
    ratios=[], skipped={}, notes=[],
)  # fmt: skip


def measure(name: str, value: float, bound: float | None, modality: str | None = None, **others: object) -> Measure:
    facts = {"check": "lowering", "engine": "onnxruntime", "at_least": False, "passed": True} | others
    return Measure.model_validate({"name": name, "value": value, "bound": bound, "modality": modality} | facts)


MEASURES = [
    measure("kl_mean", 1.2e-4, 2e-3, "text"),
    measure("kl_mean", 1.83e-3, 2e-3, "image"),
    measure("kl_max", 0.0273, None, "text", note="int8 in torch 2.0e-02"),
    measure("top_1", 0.9957, 0.99, "text", at_least=True),
    measure("top_1", 0.9731, 0.943, "image", at_least=True),
    measure("files_wrong", 0, 0, check="files", engine=None),
]
FAILED = measure("quantization_kl", 0.2317, 0.2, "text", check="quantization", engine=None, passed=False)


def manifest(measures: Iterable[Measure] | None = MEASURES, **others: object) -> Manifest:
    there = list(measures or [])
    verification = None if measures is None else Verification(
        ran=["files", "lowering"], skipped={"rounding": "needs --quantized"}, reference="whole", measures=there,
        passed=all(measure.passed for measure in there),
    )  # fmt: skip
    program = Program(file="onnx/decoder.onnx", inputs=[], outputs=[])
    made = Manifest(
        format_version=FORMAT_VERSION,
        target="android",
        source=Source(name="little", revision=None, sha256="2" * 64, model_type="gemma4_unified", licence="apache-2.0"),
        recipe=Recipe(name="int4", description="int4 in groups of 32", bits_per_weight=5.678, kv_bits=32),
        artifacts={"onnx": Artifact(programs={"decoder": program}, cache=CacheMemory(fixed=5000, per_position=24))},
        files=[File(path=path, size=size, sha256="3" * 64) for path, size in
               [("config.json", 321), ("goldens/text.json", 77), ("onnx/decoder.onnx", 4321),
                ("onnx/model.data", 98765), ("onnx/tokenizer.json", 1234), ("tokenizer.json", 1234)]],
        tokens=Tokens(bos=2, eos=[1], pad=0, suppress=[], image=None, audio=None, video=None, begin_image=None,
                      end_image=None, begin_audio=None, end_audio=None),
        sampling=Sampling(do_sample=False, temperature=1, top_k=64, top_p=0.95),
        limits=Limits(context=2000, sliding_window=128, image_soft_tokens=None, audio_soft_tokens=None,
                      minimum_memory=753_000),
        tensors=TENSORS,
        goldens=[],
        tools={"onnxruntime": "1.32.0"},
        verification=verification,
    )  # fmt: skip
    return made.model_copy(update=others)


class Page(HTMLParser):
    """Text, elements and what they refer to; fails where elements do not close in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.elements: list[str] = []
        self.references: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        named = {"href", "src", "xlink:href", "data", "srcset", "action", "poster"}
        self.references += [value or "" for name, value in attrs if name in named]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.texts))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A bundle as far as the report looks at it."""
    made = tmp_path / NAME
    made.mkdir()
    write_manifest(made, manifest())
    return made


# What is told


@pytest.mark.parametrize(
    ("measures", "verdict"),
    [
        (MEASURES, "verified"),
        ([*MEASURES, FAILED], "1 gate failed"),
        ([FAILED, FAILED], "2 gates failed"),
        (None, "not verified"),
        ([MEASURES[2]], "not verified"),  # a figure without a gate proves nothing
    ],
)
def test_the_verdict_comes_first(measures: list[Measure] | None, verdict: str) -> None:
    told = manifest(measures)
    assert judge(told).text == verdict
    text = Page(render(NAME, told, Rounding(RECORD))).text
    assert verdict.capitalize() in text[: text.index("What it is")]


def test_every_gate_is_told_with_its_margin() -> None:
    told = manifest([*MEASURES, FAILED])
    gates, text = gates_of(told.verification), Page(render(NAME, told, "")).text  # type: ignore[arg-type]
    text = text[text.index("Gates, the tightest first") :]
    assert [gate.name for gate in gates] == ["quantization_kl", "top_1", "top_1", "kl_mean", "kl_mean", "files_wrong"]
    places = [text.index(f"{gate.name} {gate.check}") for gate in gates]
    assert places == sorted(places)
    for gate, margin_told in zip(gates, ["0.0317 over", "0.6 %", "3.2 %", "8.5 %", "94.0 %", "100.0 %"], strict=True):
        assert margin_left(gate) == margin_told and margin_told in text


def test_control_margins_follow_measures() -> None:
    closer = MEASURES[0].model_copy(update={"value": 1.9e-3})
    assert margin(closer) == pytest.approx(0.05) and margin(closer) < margin(MEASURES[0])
    assert "94.0 %" not in render(NAME, manifest([closer, *MEASURES[1:]]), "")


def test_modalities_stand_side_by_side_and_own_bounds_are_named() -> None:
    text = Page(render(NAME, manifest(), "")).text
    assert "engine bound text image" in text
    assert re.search(r"top_1 .*? onnxruntime ≥ 0\.99 0\.996 0\.6 % left 0\.973 \(≥ 0\.943\) 3\.2 % left pass", text)
    assert re.search(r"kl_max onnxruntime 0\.0273 reported", text)
    assert "int8 in torch 2.0e-02" in text and "needs --quantized" in text


def test_a_failure_marks_its_row_whatever_the_margins() -> None:
    """One wrong where none is allowed leaves a margin of 0, which is more than others may have."""
    wrong = measure("flips", 1, 0, "text", passed=False)
    text = Page(render(NAME, manifest([wrong, measure("flips", 5.1, 5, "text")]), "")).text
    assert "onnxruntime ≤ 0 1 1 over worst of 2 fail" in text


def test_sizes_add_up_to_the_files() -> None:
    told = manifest()
    rows = sizes.components(told)
    assert sum(row.size for row in rows) == sum(file.size for file in told.files)
    assert {(row.place, row.name): row.size for row in rows} == {
        ("onnx", "weights"): 98765,
        ("onnx", "decoder"): 4321,
        ("onnx", "tokenizer"): 1234,
        ("shared", "tokenizer"): 1234,
        ("shared", "configuration"): 321,
        ("goldens", "goldens"): 77,
    }
    text = Page(render(NAME, told, "")).text
    assert all(size(row.size) in text for row in rows)


def test_pieces_of_a_program_are_one_component() -> None:
    """Core ML's packages are folders, and its decoder is cut."""
    names = {f"chunk_{i:02}.{step}": f"coreml/chunk_{i:02}.mlpackage" for i in (0, 1) for step in ("decode", "prefill")}
    programs = {name: Program(file=file, inputs=[], outputs=[]) for name, file in names.items()}
    paths = [f"coreml/chunk_{i:02}.mlpackage/Data/weight.bin" for i in (0, 1)]
    artifact = Artifact(programs=programs, cache=CacheMemory(fixed=0, per_position=1))
    files = [File(path=path, size=10, sha256="") for path in paths]
    [row] = sizes.components(manifest(artifacts={"coreml": artifact}, files=files))
    assert (row.place, row.name, row.size, row.files) == ("coreml", "decoder", 20, 2)


def test_bits_per_weight_are_those_of_the_quantizer(bundle: Path) -> None:
    told = read_manifest(bundle)
    assert sizes.total(sizes.parts(told.tensors)).bits_per_weight == told.recipe.bits_per_weight


def test_a_verified_bundle(bundle: Path, quantized_checkpoint: Path, tmp_path: Path) -> None:
    """An export's own manifest and record."""
    path, verdict = write_report(bundle, tmp_path / "page.html", quantized_checkpoint)
    page, told = Page(path.read_text()), read_manifest(bundle)
    assert verdict.text == "verified" and told.verification
    assert all(margin_left(gate) in page.text for gate in gates_of(told.verification))
    record = json.loads((quantized_checkpoint / "quantization.json").read_bytes())
    assert all(f"{100 * error['error']:.2f} %" in page.text for error in record["errors"])
    assert page.elements.count("svg") == 4


def test_memory_is_the_manifests() -> None:
    text = Page(render(NAME, manifest(), "")).text
    assert "onnx 5 kB 24 B 29.6 kB 53 kB" in text  # at 1024 and at 2000 positions
    assert "753 kB : 700 kB of weights" in text and "53 kB of cache at 2,000 positions" in text


# Rounding


def test_speed_and_memory_as_measured() -> None:
    html = render(NAME, manifest(), "no record", BENCH)
    page = Page(html)
    assert "On a phone, 8 cores" in page.text and "executorch 16 123 ±5%" in page.text and "4.56 ±5%" in page.text
    assert "Tokens per second over positions" in html and "Resident memory of each engine" in html
    assert "1 GB + 2 GB" in page.text and "Energy was not measured" in page.text
    assert "Nothing was measured" in Page(render(NAME, manifest(), "no record")).text


def test_divergence_past_the_window() -> None:
    series = [(5, 1e-5), (127, 2e-5), (129, 0.0), (200, 3e-5)]
    told = render(NAME, manifest([measure("kl_max", 3e-5, None, "long", series=series)]), "no record")
    assert "KL divergence over positions" in told and ">window<" in told
    assert "Not measured" in Page(render(NAME, manifest(), "no record")).text


def test_a_bench_of_another_bundle_is_refused(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    path.write_text(BENCH.model_dump_json())
    write_report(folder, bench=path)
    for change, told in ({"bundle": "other"}, "is of other"), ({"device": 1}, "no result of a bench"):
        path.write_text(json.dumps(BENCH.model_dump() | change))
        with pytest.raises(UserError, match=told):
            write_report(folder, bench=path)


def test_rounding_by_layer() -> None:
    rounding = Rounding(RECORD)
    assert list(rounding.layers) == [0, 1] and rounding.modules == ["up_proj"]
    assert [error.name for error in rounding.others] == ["model.language_model.embed_tokens.weight"]
    text = Page(render(NAME, manifest(), rounding)).text
    assert "8.2 % over all" in text and "0 8.11 % 10.13 % 1 8.22 % 10.26 %" in text


def test_what_is_not_at_hand_is_said_and_not_made_up(folder: Path) -> None:
    path, _ = write_report(folder)
    page = Page(path.read_text())
    assert "Not told: there is no build/quantized/little-int4/quantization.json" in page.text
    assert page.elements.count("svg") == 2


def test_a_record_of_other_weights_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "quantization.json").write_text(RECORD.model_dump_json())
    write_report(folder, quantized=tmp_path)
    other = RECORD.model_copy(update={"tensors": TENSORS[1:]})
    (tmp_path / "quantization.json").write_text(other.model_dump_json())
    with pytest.raises(UserError, match="other weights"):
        write_report(folder, quantized=tmp_path)


# The page


def test_nothing_comes_from_outside() -> None:
    html = render(NAME, manifest(), Rounding(RECORD))
    page = Page(html)
    assert page.references and all(reference.startswith("#") for reference in page.references)
    assert not {"script", "link", "img", "iframe", "object", "image"} & set(page.elements)
    assert "@import" not in html and all(found.startswith("#") for found in re.findall(r"url\(([^)]*)", html))


def test_strings_of_a_manifest_are_escaped() -> None:
    """In text, in attributes and in the plots, where a $ begins no formula either."""
    told = manifest([*MEASURES, FAILED.model_copy(update={"note": HOSTILE, "name": HOSTILE, "engine": HOSTILE})])
    source = told.source.model_copy(update={"name": HOSTILE, "licence": HOSTILE})
    told = told.model_copy(update={"source": source, "target": HOSTILE, "artifacts": {HOSTILE: told.artifacts["onnx"]}})
    html = render(HOSTILE, told, HOSTILE)
    page = Page(html)
    assert "script" not in page.elements and "<script" not in html
    assert page.text.count(HOSTILE) > 8


def test_control_an_unescaped_string_is_seen() -> None:
    html = render(NAME, manifest(), "").replace("apache-2.0", HOSTILE)
    assert "script" in Page(html).elements


def test_the_same_bytes_every_time() -> None:
    pages = [render(NAME, manifest(), Rounding(RECORD)) for _ in range(2)]
    assert pages[0] == pages[1]


# The command


def test_command(folder: Path) -> None:
    before = sorted(folder.iterdir())
    result = CliRunner().invoke(app, ["report", str(folder)])
    assert result.exit_code == 0 and result.stdout == f"verified: {folder}.html\n"
    assert sorted(folder.iterdir()) == before and not list(folder.parent.glob(".*"))


def test_json(folder: Path, tmp_path: Path) -> None:
    write_manifest(folder, manifest([FAILED]))
    result = CliRunner().invoke(app, ["report", str(folder), "--out", str(tmp_path / "a.html"), "--json"])
    assert result.exit_code == 0
    assert json.loads(result.stdout) == {"report": str(tmp_path / "a.html"), "verdict": "1 gate failed"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{parent}"], "holds no manifest.json"),
        (["{bundle}", "--out", "{bundle}/page.html"], "lies in the bundle"),
        (["{bundle}", "--out", "{parent}/absent/page.html"], "cannot be written"),
        (["{bundle}", "--quantized", "{parent}"], "there is no"),
    ],
)
def test_bad_input_is_one_line(folder: Path, arguments: list[str], message: str) -> None:
    filled = [argument.format(bundle=folder, parent=folder.parent) for argument in arguments]
    result = CliRunner().invoke(app, ["report", *filled])
    assert result.exit_code == 2 and message in result.stderr and result.stderr.count("\n") == 1
