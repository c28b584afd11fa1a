"""Statistics of a bench, and the file that an app shares."""

from typing import Any

import numpy as np

from runtime.bench.result import (
    Bench,
    EngineSpeed,
    Figure,
    Machine,
    MediaSpeed,
    MemoryUse,
    Resident,
    TextSpeed,
    Work,
)
from runtime.manifest import Manifest
from tests.fuzz.targets import manifest_facts

NAME = "tiny-int4"
SAMPLES = {
    "one": [3.5],
    "two": [1.0, 2.0],
    "odd": [9.0, 1.0, 5.0],
    "ten": [0.11, 0.12, 0.13, 0.1, 0.14, 0.12, 0.11, 0.2, 0.12, 0.1],
    "equal": [2.0, 2.0, 2.0],
    "zeros": [0.0, 0.0],
    "many digits": [1 / 3, 2 / 3, 123456.789, 0.000123456789],
}


def statistics() -> dict[str, Any]:
    return {
        "about": "Values in order -> median, and spread = (p90 - p10) / median, 0 where that is 0;"
        " percentiles linear between neighbours (Hyndman and Fan's 7th), six digits; tokens, seconds -> rate.",
        "figures": [{"name": name, "given": given} | Figure.of(given).model_dump() for name, given in SAMPLES.items()],
        "rates": [{"tokens": tokens, "seconds": seconds, "rate": tokens / seconds}
                  for tokens, seconds in [(8, 2.0), (128, 0.75), (1, 3.0)]],
    }  # fmt: skip


def bench() -> dict[str, Any]:
    """With a manifest that `report --bench` takes it for."""
    manifest = Manifest.model_validate(manifest_facts())
    return {
        "about": "What an app shares, for `report BUNDLE --bench FILE` of the bundle of this manifest.",
        "bundle": NAME,
        "manifest": manifest.model_dump(mode="json"),
        "bench": phone_bench(manifest).model_dump(mode="json"),
    }


def phone_bench(manifest: Manifest) -> Bench:
    """As an app fills it in: no peers, memory as far as the system tells it."""
    values = np.linspace(4.4, 4.8, 5).tolist()
    text = TextSpeed(
        length=16, first_token=Figure.of([0.13] * 5), prefill=Figure.of([123.0] * 5), decode=Figure.of(values)
    )
    image = MediaSpeed(modality="image", positions=64, prompt=80, encode=None, prefill=Figure.of([0.7] * 5))
    used = Resident(anonymous=10**9, file=2 * 10**9, total=3 * 10**9)
    untold = Resident(anonymous=None, file=None, total=3 * 10**9)
    return Bench(
        bundle=NAME, target=manifest.target, recipe=manifest.recipe.name, context=manifest.limits.context,
        device="app:Pixel 10 Pro",
        work=Work(lengths=[16], contexts=[16], tokens=8, repeats=5, warmup=1, loads=1, threads=None),
        machine=Machine(name="Pixel 10 Pro", system="Android 16", cores=8, threads=8, memory=16 * 10**9, load=None,
                        packages={"executorch": "1.5.1"}),
        engines=[EngineSpeed(
            engine="executorch", load=Figure.of([7.0]), first_token=None, threads=None, text=[text], media=[image],
            memory=MemoryUse(imported=None, loaded=used, steady=used, peak=untold), notes=["thermal state: nominal"],
        )],
        ratios=[], skipped={"onnxruntime": "not in this app"}, notes=["measured by the app"],
    )  # fmt: skip
