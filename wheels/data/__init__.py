"""Rows and tasks: what a model is trained on, calibrated on and scored on."""

from typing import TYPE_CHECKING

from wheels.lazy import lazy

if TYPE_CHECKING:
    from wheels.data.conversations import Conversation as Conversation
    from wheels.data.prompts import Prompt as Prompt
    from wheels.data.rows import Row as Row
    from wheels.data.rows import load_rows as load_rows
    from wheels.data.tasks import Task as Task
    from wheels.data.tasks import load_task as load_task
else:
    __all__, __getattr__, __dir__ = lazy(__name__)
