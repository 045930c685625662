"""The same tiny pairs as the tests of distillation."""

from tests.distillation.conftest import data, folders, llama, t5, task

__all__ = ["data", "folders", "llama", "t5", "task"]
