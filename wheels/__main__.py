"""`python -m wheels` is the command `wheels`."""

from wheels.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
