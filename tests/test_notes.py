"""What a calibration is expected to cost, before it begins."""

import re
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from export.calibration.prepare import Prepared
from export.models import EMBEDDED
from export.notes import calibration_cost, template_warnings
from export.quantize import quantize
from export.recipes import RECIPES
from export.sources import Source, open_source

DOCS = Path(__file__).parents[1] / "docs" / "exporting.md"


@dataclass
class Weight:
    shape: tuple[int, int]


def source_of(*layers: int) -> Source:
    """With so many weights in each of its layers."""
    name = "model.language_model.layers.{}.mlp.up_proj.weight"
    tensors = {name.format(index): Weight((weights, 1)) for index, weights in enumerate(layers)}
    return cast(Source, SimpleNamespace(tensors=tensors | {"embed_tokens.weight": Weight((10**9, 1))}))


TWELVE = source_of(*[224_133_120] * 40, *[241_827_840] * 8)  # the 12B's


def test_the_12b_costs_what_the_guide_says() -> None:
    guide = " ".join(DOCS.read_text().split())
    found = re.search(r"about nine processor hours for the 12B, ([\d.]+) for a billion weights, in ([\d.]+) GB", guide)
    assert found
    line = calibration_cost(TWELVE, RECIPES["int4-gptq"])
    told = re.search(r"takes about ([\d.]+) processor hours, in about ([\d.]+) GB of memory", line)
    assert told and round(float(told[1])) == 9 and told[2] == found[2]
    assert float(told[1]) == pytest.approx(float(found[1]) * (40 * 0.22413312 + 8 * 0.24182784), abs=0.05)


def test_other_sizes_and_recipes() -> None:
    assert "takes less than 8.7" in calibration_cost(TWELVE, RECIPES["int4-weighted"])
    assert "takes more than 8.7" in calibration_cost(TWELVE, RECIPES["auto"])
    half = calibration_cost(source_of(*[120_913_920] * 10), RECIPES["int8-gptq"])
    assert "takes about 1.0 processor hours, in about 2.8 GB" in half, "memory is that of a layer"
    assert "a few processor minutes, in about 1.0 GB" in calibration_cost(source_of(1000), RECIPES["int4-gptq"])


def test_what_a_template_leaves_apps_without_is_told() -> None:
    assert template_warnings({}) == []
    assert template_warnings({"tools": "of another form"}) == ["apps have no tools in their chat: of another form"]


@pytest.mark.parametrize(("recipe", "told"), [("int4-gptq", True), ("int4", False)])
def test_it_is_told_before_calibration_begins(
    tmp_path: Path, recipe: str, told: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Begun(BaseException):
        pass

    def begin(*_: Any) -> Prepared:
        raise Begun

    monkeypatch.setattr("export.quantize.prepare", begin)
    monkeypatch.setattr("export.quantize._write_shards", begin)
    with pytest.raises(Begun):
        quantize(open_source(EMBEDDED["tiny"]), RECIPES[recipe], "tiny", tmp_path / "out")
    lines = capsys.readouterr().err.splitlines()
    assert [line.startswith("calibrating takes about a few") for line in lines] == [True] * told
