"""`python -m tests.fuzz.image -runs=20000`"""

from tests.fuzz.loop import fuzz, instrumented

with instrumented("runtime", "PIL"):
    from tests.fuzz.targets import check_image, image_files

if __name__ == "__main__":
    fuzz(check_image, image_files().values())
