"""Adaptive inference: a small student writes, and calls a large teacher for a token where that is worth its price."""

import os.path as _path
from typing import TYPE_CHECKING

from wheels.lazy import lazy as _lazy

__version__ = "0.1.0"

# A checkout has `envs/`, `agents/`, ... beside this folder; an installed package has them inside it.
if not _path.isdir(_path.join(_path.dirname(__file__), "envs")):
    __path__.append(_path.dirname(_path.dirname(_path.abspath(__file__))))

if TYPE_CHECKING:
    from wheels import agents as agents
    from wheels import annotation as annotation
    from wheels import data as data
    from wheels import decoding as decoding
    from wheels import distillation as distillation
    from wheels import envs as envs
    from wheels import metrics as metrics
    from wheels import rationales as rationales
    from wheels.agents.config import TrainConfig as TrainConfig
    from wheels.api import Model as Model
    from wheels.api import calibrate as calibrate
    from wheels.api import pretrain as pretrain
    from wheels.api import train as train
    from wheels.decoding.across.pair import TextPair as TextPair
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
    from wheels.decoding.methods.rule import Rule as Rule
    from wheels.decoding.params import DecodeParams as DecodeParams
    from wheels.decoding.remote.pair import RemotePair as RemotePair
    from wheels.decoding.remote.teacher import RemoteTeacher as RemoteTeacher
    from wheels.decoding.sampling import Sampling as Sampling
    from wheels.decoding.streaming import decode as decode
    from wheels.decoding.streaming import stream as stream
    from wheels.decoding.trace import Trace as Trace
    from wheels.distillation.config import PretrainConfig as PretrainConfig
    from wheels.errors import WheelsError as WheelsError
    from wheels.models.pair import Pair as Pair
else:
    __all__, __getattr__, __dir__ = _lazy(__name__, "__version__")
