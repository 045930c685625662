"""Annotation: a teacher labels rows under a budget, with a teaching assistant in the loop."""

from typing import TYPE_CHECKING

from wheels.lazy import lazy

if TYPE_CHECKING:
    from wheels.annotation.assistant import Assistant as Assistant
    from wheels.annotation.config import AnnotateConfig as AnnotateConfig
    from wheels.annotation.endpoint import Endpoint as Endpoint
    from wheels.annotation.selection import Signal as Signal
    from wheels.annotation.selection import agreement as agreement
    from wheels.annotation.selection import choose as choose
    from wheels.annotation.selection import trust as trust
else:
    __all__, __getattr__, __dir__ = lazy(__name__)
