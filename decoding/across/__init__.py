"""A student and a teacher with tokenizers of their own: what either writes, the other reads as text.

TextPair      both models and both tokenizers                                    (pair)
Spelling      one model's tokens of a text, and the text of its tokens           (spelling)
TextPasses    a call: the teacher reads the text, and writes on to a boundary    (passes)
text_regrets  what the student's tokens cost its teacher, to train with          (regrets)
"""
