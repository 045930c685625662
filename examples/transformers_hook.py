"""Deferral inside transformers' own `generate`: its processors, criteria and seeds, with a teacher at hand."""

from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

import wheels
from wheels.models.artefact import embedded_folder


def main() -> None:
    """Write one text three ways."""
    folder = embedded_folder()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    student = AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
    teacher = AutoModelForSeq2SeqLM.from_pretrained(folder / "teacher").eval()
    inputs = tokenizer(["Vergiss nicht, das Licht auszumachen."], return_tensors="pt")
    for budget in (0.0, 0.2, 1.0):
        output = student.generate(
            **inputs,
            custom_generate=wheels.hf_generate,
            teacher=teacher,
            teacher_budget=budget,
            max_new_tokens=64,
            return_dict_in_generate=True,
        )
        text = tokenizer.decode(output.sequences[0], skip_special_tokens=True)
        print(f"budget {budget:g}, {int(output.by_teacher.sum())} tokens by the teacher: {text}")


if __name__ == "__main__":
    main()
