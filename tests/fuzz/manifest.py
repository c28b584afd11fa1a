"""`python -m tests.fuzz.manifest -runs=20000`"""

from tests.fuzz.loop import fuzz, instrumented

with instrumented("runtime", "pydantic"):
    from tests.fuzz.targets import SEED, check_manifest

if __name__ == "__main__":
    fuzz(check_manifest, [SEED.read_bytes()])
