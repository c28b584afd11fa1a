"""What `python -m runtime bench` measured, here or on a phone, read back for the page of the bundle that it is of."""

from pathlib import Path

from pydantic import ValidationError

from runtime.bench.result import Bench
from runtime.errors import UserError
from runtime.manifest import Manifest


def read_bench(path: Path, name: str, manifest: Manifest) -> Bench:
    """Of a file that `bench --out` wrote.

    Raises:
        UserError: it is no such file, or of another bundle.
    """
    try:
        bench = Bench.model_validate_json(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): name what `bench --out` wrote") from None
    except ValidationError as error:
        raise UserError(
            f"{path} is no result of a bench ({error.errors()[0]['msg']}): write it with `bench --out`"
        ) from None
    wanted = name, manifest.target, manifest.recipe.name, manifest.limits.context
    if (bench.bundle, bench.target, bench.recipe, bench.context) != wanted:
        raise UserError(f"{path} is of {bench.bundle} for {bench.target} with a context of {bench.context}, which "
                        f"{name} is not: bench this bundle")  # fmt: skip
    return bench
