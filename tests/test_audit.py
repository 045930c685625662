"""What is said of advisories; the reports are as pip-audit 2.10.1 writes them."""

import pytest

from tests.audit import verdict

SKIPPED = '{"name": "y", "skip_reason": "Dependency not found on PyPI and could not be audited: y (2.0)"}'
SKIPPED_ALL = "advisories are not reachable, skipped: nothing was audited"
CLEAN = '{"name": "z", "version": "3.0", "vulns": []}'
FOUND = '{"name": "x", "version": "1.0", "vulns": [{"id": "PYSEC-1", "fix_versions": [%s], "aliases": ["CVE-1"]}]}'


@pytest.mark.parametrize(
    ("packages", "lines", "mendable"),
    [
        ([SKIPPED], [f"{SKIPPED_ALL} (Dependency not found on PyPI and could not be audited: y (2.0))"], False),
        ([SKIPPED, CLEAN], ["1 of 2 packages audited"], False),
        ([CLEAN, FOUND % '"1.2"'], ["2 of 2 packages audited", "x 1.0: PYSEC-1, mended in 1.2"], True),
        ([FOUND % ""], ["1 of 1 packages audited", "x 1.0: PYSEC-1, no version mends it"], False),
    ],
)
def test_an_advisory_that_can_be_mended_fails(packages, lines, mendable):
    assert verdict(f'{{"dependencies": [{", ".join(packages)}], "fixes": []}}') == (lines, mendable)


def test_a_report_that_is_none_is_no_audit():
    assert verdict("", "Traceback\nConnectionError: x") == ([f"{SKIPPED_ALL} (ConnectionError: x)"], False)
