"""Static distillation: a student learns a teacher's distribution, or references alone, before it learns to call."""
