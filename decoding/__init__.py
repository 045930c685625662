"""Text written with two models: when the teacher is called, what it costs, and a trace of who wrote what."""

from typing import TYPE_CHECKING

from wheels.lazy import lazy

if TYPE_CHECKING:
    from wheels.decoding.hf.generate import hf_generate as hf_generate
    from wheels.decoding.methods.method import Method as Method
    from wheels.decoding.methods.method import bild as bild
    from wheels.decoding.methods.method import cascade as cascade
    from wheels.decoding.methods.method import deferral as deferral
    from wheels.decoding.methods.method import priced as priced
    from wheels.decoding.methods.method import prompt_lookup as prompt_lookup
    from wheels.decoding.methods.method import speculative as speculative
    from wheels.decoding.methods.method import student_only as student_only
    from wheels.decoding.methods.method import take_back as take_back
    from wheels.decoding.methods.method import teacher_only as teacher_only
    from wheels.decoding.methods.method import verified as verified
    from wheels.decoding.methods.rule import AnyRule as AnyRule
    from wheels.decoding.methods.rule import Rule as Rule
    from wheels.decoding.methods.rules import RULES as RULES
    from wheels.decoding.methods.rules import find_rule as find_rule
    from wheels.decoding.methods.verify import Verifier as Verifier
    from wheels.decoding.params import DecodeParams as DecodeParams
    from wheels.decoding.render import as_html as as_html
    from wheels.decoding.render import as_json as as_json
    from wheels.decoding.render import as_text as as_text
    from wheels.decoding.render import summary as summary
    from wheels.decoding.sampling import GREEDY as GREEDY
    from wheels.decoding.sampling import Sampling as Sampling
    from wheels.decoding.scheduler import Schedule as Schedule
    from wheels.decoding.step import Step as Step
    from wheels.decoding.step import regret as regret
    from wheels.decoding.streaming import decode as decode
    from wheels.decoding.streaming import stream as stream
    from wheels.decoding.trace import Trace as Trace
    from wheels.decoding.trace import teacher_use as teacher_use
else:
    __all__, __getattr__, __dir__ = lazy(__name__)
