"""A rule of your own: a score, calibrated on validation rows, compared with `margin` on test rows.

The same rule on the command line: `wheels calibrate --rules examples/own_rule.py:gap ...`.
"""

import torch

import wheels
from wheels.data import load_task
from wheels.decoding import Step
from wheels.metrics import score


def gap_score(step: Step) -> torch.Tensor:
    """Return `-(log q_1 - log q_2)`, the two best log-probabilities, in nats, `[B]`."""
    best_B2 = step.log_q_BV.topk(2, dim=-1).values
    return best_B2[:, 1] - best_B2[:, 0]


gap = wheels.Rule(name="gap", score=gap_score, label="gap between the two best", color="#8c564b")


def main() -> None:
    """Calibrate the rule, and measure it."""
    task = load_task("embedded-translation")
    model = wheels.calibrate(
        wheels.Model.embedded(), task.validation[:100], budgets=(0.2,), rules=(gap, "margin"), max_new_tokens=64
    )
    rows = task.test[:100]
    sources, references = [row.source for row in rows], [row.target for row in rows]
    for rule in (gap, "margin"):
        traces = model.generate(sources, teacher_budget=0.2, rule=rule, max_new_tokens=64)
        use = sum(trace.teacher_tokens for trace in traces) / sum(trace.tokens for trace in traces)
        bleu = score("bleu", [trace.text for trace in traces], references)
        print(f"{traces[0].rule:8} asked for 0.2: use {use:.3f}, BLEU {bleu.value:.1f}")


if __name__ == "__main__":
    main()
