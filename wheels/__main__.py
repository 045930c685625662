"""`python -m wheels` is the command `wheels`."""

from wheels.cli.interrupts import leave_at_once


def main() -> int:
    """Run the command of this process and return the exit code."""
    leave_at_once()
    from wheels.cli.main import main as run

    return run()


if __name__ == "__main__":
    raise SystemExit(main())
