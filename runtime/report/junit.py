"""A verification as JUnit XML, which CI services show beside tests."""

from collections.abc import Iterable
from io import BytesIO
from pathlib import Path

from junitparser import Failure, JUnitXml, Skipped, TestCase, TestSuite

from runtime.files import write_whole
from runtime.manifest import Measure, Verification
from runtime.report.text import gate, value


def write_junit(verification: Verification, bundle: Path, path: Path) -> None:
    """A suite for each check, a case for each measure; a skipped check is a case that says why.

    Raises:
        UserError: the file cannot be written.
    """
    report, written = JUnitXml(f"verify {bundle.resolve().name}"), BytesIO()
    for check in verification.ran:
        report.add_testsuite(_suite(check, (_case(one) for one in verification.measures if one.check == check)))
    for name, reason in verification.skipped.items():
        report.add_testsuite(_suite(name, [_skipped(name, reason)]))
    report.write(written, pretty=True)
    write_whole(path, written.getvalue().decode(), "--junit")


def _suite(check: str, cases: Iterable[TestCase]) -> TestSuite:
    suite = TestSuite(check)
    suite.add_testcases(list(cases))
    return suite


def _case(measure: Measure) -> TestCase:
    where = ".".join(filter(None, ("verify", measure.check, measure.engine)))
    case = TestCase(" ".join(filter(None, (measure.name, measure.modality))), classname=where)
    told = " ".join(filter(None, (value(measure), gate(measure) and f"({gate(measure)})", measure.note)))
    if not measure.passed:
        case.result = [Failure(told, measure.name)]
    case.system_out = told
    return case


def _skipped(name: str, reason: str) -> TestCase:
    case = TestCase(name, classname=f"verify.{name}")
    case.result = [Skipped(reason)]
    return case
