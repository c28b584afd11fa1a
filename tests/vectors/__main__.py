"""`python -m tests.vectors OUT_FOLDER`: what the apps must agree with, one JSON file for each topic; see README.md."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.vectors import benches, coreml, devices, downloads, goldens, images, manifests, prompts, sampling, streams

Vectors = dict[str, Any]
TOPICS: dict[str, Callable[[], Vectors]] = {
    "bench": benches.bench,
    "coreml": coreml.coreml,
    "devices": devices.devices,
    "downloads": downloads.downloads,
    "goldens": goldens.goldens,
    "images": images.images,
    "manifests": manifests.manifests,
    "prompts": prompts.prompts,
    "sampling": sampling.sampling,
    "statistics": benches.statistics,
    "streams": streams.streams,
}


def write_vectors(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for topic, make in TOPICS.items():
        text = json.dumps(make(), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        (folder / f"{topic}.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m tests.vectors OUT_FOLDER")
    write_vectors(Path(sys.argv[1]))
    print(f"{len(TOPICS)} topics in {sys.argv[1]}")
