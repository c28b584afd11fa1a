"""The report tells which tensors are sensitive, and what a budget made of them, where a recipe has one."""

from runtime.report.page import render
from runtime.report.rounding import Record, Rounding
from runtime.sensitivity import Sensitivity
from tests.test_report import LAYER, NAME, RECORD, Page, manifest

EMBEDDING = "model.language_model.embed_tokens.weight"
FOUND = [
    Sensitivity(name=LAYER.format(0), weights=8192, kl={"text": 0.001, "image": 0.002}),
    Sensitivity(name=LAYER.format(1), weights=8192, kl={"text": 0.03, "image": 0.05}),
    Sensitivity(name=EMBEDDING, weights=6400, kl={"text": 0.01, "image": 0.0}),
]


def test_most_sensitive_first_with_what_it_became() -> None:
    told = RECORD.model_copy(update={"sensitivity": FOUND})
    text = Page(render(NAME, manifest(), Rounding(told))).text
    rows = [
        "layers.1.mlp.up_proj 0.03000 0.05000 36.0 % int8 by row",
        "embed_tokens 0.01000 0.00000 28.1 % int4 in groups of 32",
        "layers.0.mlp.up_proj 0.00100 0.00200 36.0 % int4 in groups of 32",
    ]
    assert " ".join(rows) in text


def test_label() -> None:
    found = [Sensitivity(name=name, weights=1, kl={}).label for name in (LAYER.format(7), EMBEDDING)]
    assert found == ["layers.7.mlp.up_proj", "embed_tokens"]


def test_recipes_without_a_budget_have_none() -> None:
    assert "Sensitivity" not in Page(render(NAME, manifest(), Rounding(RECORD))).text


def test_the_quantizers_record_is_read() -> None:
    """The field is the exporter's."""
    from export.calibration.sensitivity import SCHEMES
    from export.calibration.sensitivity import Sensitivity as Measured

    measured = Measured.model_validate(FOUND[0].model_dump() | {"losses": [0.1] * len(SCHEMES)})
    found = Record.model_validate(RECORD.model_dump() | {"sensitivity": [measured.model_dump()]})
    assert found.sensitivity == FOUND[:1] and found.sensitivity[0].divergence == measured.divergence
