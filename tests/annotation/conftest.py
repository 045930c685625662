"""The same tiny pairs as the tests of distillation."""

from tests.distillation.conftest import built, data, folders, llama, t5, task

__all__ = ["built", "data", "folders", "llama", "t5", "task"]
