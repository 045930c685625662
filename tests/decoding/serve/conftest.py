"""The server's fixtures, where what it needs is installed (the extras `serve` and `test`)."""

from importlib.util import find_spec

if all(map(find_spec, ("fastapi", "uvicorn", "openai"))):
    from tests.decoding.serve.harness import embedded, server  # noqa: F401
else:
    collect_ignore_glob = ["test_*.py"]
