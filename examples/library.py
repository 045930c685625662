"""Write with the pair that comes with the package: a list, a stream, other methods, and who wrote which token."""

import wheels

TEXTS = [
    "Vergiss nicht, das Licht auszumachen.",
    "Er hat sein Auto verkauft, weil er Geld brauchte.",
]


def main() -> None:
    """Show the public API in a page."""
    model = wheels.Model.embedded()
    for trace in model.generate(TEXTS, teacher_budget=0.2):
        print(f"{trace.text} (teacher use {trace.teacher_use:.2f}, {trace.teacher_passes} passes)")

    pieces = zip(trace.pieces, trace.authors, strict=True)
    print("".join(f"[{piece.strip()}]" if author == "teacher" else piece for piece, author in pieces))

    for index, trace in model.stream(TEXTS, teacher_budget=0.2, mode="strict"):
        print(f"text {index} ended within its budget: {trace.teacher_tokens} of {trace.tokens} tokens")

    methods = [
        wheels.student_only(),
        wheels.teacher_only(),
        wheels.deferral(model.rule("margin"), budget=0.2),
        wheels.verified(model.rule("learned"), budget=0.2, tolerance=1.0),
        wheels.speculative(5),
        wheels.cascade("token-v3", 0.3),
    ]
    for method in methods:
        traces = wheels.decode(model.pair, TEXTS, method, wheels.DecodeParams(max_new_tokens=64))
        tokens = sum(trace.tokens for trace in traces)
        passes = sum(trace.teacher_passes for trace in traces)
        print(f"{method.name:18} {passes / tokens:.2f} teacher passes per token: {traces[0].text}")


if __name__ == "__main__":
    main()
