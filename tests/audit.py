"""Name the published advisories against the packages of this environment: `python -m tests.audit`, by pip-audit.

Fails for one that another version mends. pip-audit ends well where it could ask for no package; here that is said.
"""

from __future__ import annotations

import json
import subprocess
import sys


def verdict(report: str, errors: str = "") -> tuple[list[str], bool]:
    """Return what to say of pip-audit's JSON and its errors, and whether something can be mended."""
    try:
        packages = json.loads(report)["dependencies"]
    except ValueError:  # a traceback
        packages = []
    audited = [one for one in packages if "vulns" in one]
    if not audited:
        why = [one["skip_reason"] for one in packages[:1]] or errors.splitlines()[-1:]
        return [f"advisories are not reachable, skipped: nothing was audited ({''.join(why)})"], False
    lines, mendable = [f"{len(audited)} of {len(packages)} packages audited"], False
    for one in audited:
        for found in one["vulns"]:
            mendable |= bool(found["fix_versions"])
            mended = f"mended in {', '.join(found['fix_versions'])}" if found["fix_versions"] else "no version mends it"
            lines.append(f"{one['name']} {one['version']}: {found['id']}, {mended}")
    return lines, mendable


def main() -> None:
    """Ask, and print what is found."""
    command = [sys.executable, "-m", "pip_audit", "--format", "json", "--progress-spinner", "off"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines, mendable = verdict(done.stdout, done.stderr)
    print("\n".join(lines))
    sys.exit(mendable)


if __name__ == "__main__":
    main()
