"""Static distillation: a student learns a teacher"s distribution, or references alone, before it learns to call."""

from typing import TYPE_CHECKING

from wheels.lazy import lazy

if TYPE_CHECKING:
    from wheels.distillation.collate import Collator as Collator
    from wheels.distillation.collate import Example as Example
    from wheels.distillation.config import PretrainConfig as PretrainConfig
    from wheels.distillation.losses import cross_entropy as cross_entropy
    from wheels.distillation.losses import distillation_loss as distillation_loss
    from wheels.distillation.losses import forward_kl as forward_kl
    from wheels.distillation.losses import jsd as jsd
    from wheels.distillation.losses import reverse_kl as reverse_kl
    from wheels.distillation.path_loss import PathSettings as PathSettings
    from wheels.distillation.path_loss import path_losses as path_losses
    from wheels.distillation.path_loss import student_path_loss as student_path_loss
    from wheels.distillation.teacher_cache import CacheSettings as CacheSettings
    from wheels.distillation.teacher_cache import TeacherCache as TeacherCache
    from wheels.distillation.trainer import CausalKDTrainer as CausalKDTrainer
    from wheels.distillation.trainer import KDTrainer as KDTrainer
    from wheels.distillation.trainer import Objective as Objective
else:
    __all__, __getattr__, __dir__ = lazy(__name__)
