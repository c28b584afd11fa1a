"""The machine that figures are of."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from runtime.bench.result import Machine

PACKAGES = "onnxruntime", "onnxruntime-genai", "executorch", "torch", "coremltools", "coreai-core", "llama-cpp-python"


def describe_machine() -> Machine:
    return Machine(
        name=processor(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        cores=psutil.cpu_count(logical=False) or os.cpu_count() or 1,
        threads=os.cpu_count() or 1,
        memory=psutil.virtual_memory().total,
        load=os.getloadavg()[0],
        packages={name: found for name in PACKAGES if (found := _version(name))},
    )


def processor() -> str:
    """The model's name, as Linux has it, or whatever the system calls its architecture."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith(("model name", "Hardware")))
    return next(names, platform.processor() or platform.machine())


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
