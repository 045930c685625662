"""Does a call of the teacher pay for your pair? Fifty rows, two rules that need no training, a picture.

    python examples/fifty_rows.py --model STUDENT --teacher TEACHER --data DATA

Without arguments it measures the pair that comes with the package. The answer is rough: the intervals say how rough.
"""

import argparse

from wheels.benchmarks.curve.config import CurveConfig
from wheels.benchmarks.curve.run import run


def main() -> None:
    """Calibrate two thresholds on fifty validation rows, decode fifty test rows with them, and draw the curve."""
    parser = argparse.ArgumentParser(description="Measure two rules on fifty rows, and draw the curve.")
    parser.add_argument("--model", help="folder of the student (default: the embedded pair)")
    parser.add_argument("--teacher", help="folder or hub id of its teacher")
    parser.add_argument("--data", default="embedded-translation", help="task, folder or hub:owner/name")
    parser.add_argument("--output", default="fifty-rows", help="folder of the picture and its numbers")
    parser.add_argument("--max-new-tokens", type=int, default=48)
    options = parser.parse_args()
    run(
        CurveConfig(
            model=options.model,
            teacher=options.teacher,
            data=options.data,
            output=options.output,
            max_new_tokens=options.max_new_tokens,
            rules=("margin", "entropy"),
            budgets=(0.0, 0.1, 0.2, 0.3, 1.0),
            limit=50,
            calibration_data=options.data,
            calibration_limit=50,
            resamples=200,
        )
    )
    print(f"the picture: {options.output}/curve.png")


if __name__ == "__main__":
    main()
