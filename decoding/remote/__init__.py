"""A teacher that is far away: asked for tokens over HTTP, and never for its logits.

RemotePair      the student, its tokenizer, and the teacher's address           (pair)
WriteOn         the student writes on while an answer is under way              (write_on)
Ledger          dollars, requests and tokens, reserved and settled              (ledger)
DollarPacer     a threshold that spreads dollars over the texts of a run        (pacer)
RemotePasses    a teacher pass is a request: token ids out, token ids back      (passes)
RemoteTeacher   a model at an address: what is there, what to do when it fails  (teacher)
Completions     `/v1/completions` with token ids, of vLLM and `wheels serve`    (completions)
"""
