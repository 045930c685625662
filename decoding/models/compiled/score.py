"""The deferral head, and the features that it reads, as two calls: what the student's logits say, and the gain.

Between the calls the best tokens are looked up in the source, which is not arithmetic. In torch the same are some forty
calls, which take longer than a small student's whole step.
"""

from __future__ import annotations

import torch

from wheels.decoding.models.compiled.graph import Graph, Unsupported, make_session
from wheels.decoding.step import Step
from wheels.policy.copy_features import NAMES
from wheels.policy.features import CANDIDATES, LOG_FLOOR, TOP_K
from wheels.policy.head import DeferralHead

LOWEST = -100.0
"""Log-probabilities are floored here in the entropy (`wheels.policy.features.entropy`)."""


class CompiledHead:
    """A head's gain at a step.

    Args:
        head: With the weights that it keeps.

    Raises:
        Unsupported: for a head that is not in float32 on a CPU, or reads other tokens.
    """

    def __init__(self, head: DeferralHead) -> None:
        known = head.config.candidates in (0, CANDIDATES)
        if not known or head.mean_F.dtype != torch.float32 or head.mean_F.device.type != "cpu":
            raise Unsupported("no operators for the head")
        self.top, self.gain = make_session(_top_graph()), make_session(_gain_graph(head))

    def __call__(self, step: Step) -> torch.Tensor:
        """Return `gain(s, b)` in nats, `[B]`."""
        names = ["scalars_B3", "best_BK", "token_BK"]
        scalars_B3, best_BK, token_BK = self.top.run(names, {"logits_BV": step.logits_BV.numpy()})
        token_BK = token_BK[:, :CANDIDATES]
        copies_BF = step.copy_features(torch.from_numpy(token_BK)).float()
        numbers_B3 = torch.stack((step.position_B, step.source_B, step.budget_B), -1).float()
        inputs = {
            "hidden_BD": step.hidden_BD.numpy(),
            "scalars_B3": scalars_B3,
            "best_BK": best_BK,
            "token_BK": token_BK,
            "copies_BF": copies_BF.numpy(),
            "numbers_B3": numbers_B3.numpy(),
        }
        return torch.from_numpy(self.gain.run(["gain_B1"], inputs)[0])[:, 0]


def _top_graph() -> Graph:
    """Return the graph of entropy, best probability and margin; the best log-probabilities; the best tokens."""
    graph = Graph()
    log_q_BV = graph.op("LogSoftmax", graph.input("logits_BV", torch.float32, ["B", "V"]), axis=-1)
    names = [graph.fresh("values"), graph.output("token_BK", ["B", TOP_K], torch.int64)]
    value_BK = graph.op_many("TopK", (log_q_BV, graph.constant([TOP_K])), names)[0]
    best_BK = graph.op("Clip", value_BK, graph.weight(torch.tensor(LOG_FLOOR)))
    floored_BV = graph.op("Clip", log_q_BV, graph.weight(torch.tensor(LOWEST)))
    each_BV = graph.op("Mul", graph.op("Exp", log_q_BV), floored_BV)
    entropy_B1 = graph.op("Neg", graph.op("ReduceSum", each_BV, graph.constant([-1]), keepdims=1))
    prob_B2 = graph.op("Exp", graph.op("Slice", best_BK, *map(graph.constant, ([0], [2], [1]))))
    first_B1, second_B1 = graph.op_many("Split", (prob_B2,), [graph.fresh("prob") for _ in "12"], axis=1, num_outputs=2)
    scalars_B3 = graph.op("Concat", entropy_B1, first_B1, graph.op("Sub", first_B1, second_B1), axis=1)
    graph.op("Identity", scalars_B3, name=graph.output("scalars_B3", ["B", 3]))
    graph.op("Identity", best_BK, name=graph.output("best_BK", ["B", TOP_K]))
    return graph


def _gain_graph(head: DeferralHead) -> Graph:
    """Return the graph of the features (`wheels.policy.features`) and of `DeferralHead.gain`."""
    graph, config = Graph(), head.config
    numbers_B3 = graph.input("numbers_B3", torch.float32, ["B", 3])
    names = [graph.fresh(name) for name in ("position", "source", "budget")]
    position_B1, source_B1, budget_B1 = graph.op_many("Split", (numbers_B3,), names, axis=1, num_outputs=3)
    all_BF = graph.op(
        "Concat",
        graph.input("hidden_BD", torch.float32, ["B", "D"]),
        graph.input("scalars_B3", torch.float32, ["B", 3]),
        graph.op("Log", graph.op("Add", position_B1, graph.weight(torch.tensor(1.0)))),
        graph.input("best_BK", torch.float32, ["B", TOP_K]),
        graph.op("Log", source_B1),
        graph.op("Div", position_B1, source_B1),
        graph.input("copies_BF", torch.float32, ["B", len(NAMES)]),
        axis=1,
    )
    read_BF = graph.op("Slice", all_BF, *map(graph.constant, ([0], [config.features], [1])))
    centred_BF = graph.op("Sub", read_BF, graph.weight(head.mean_F))
    scaled_BF = read_BX = graph.op("Div", centred_BF, graph.weight(head.scale_F))
    token_BK = graph.input("token_BK", torch.int64, ["B", CANDIDATES])
    if head.token is not None:
        token_BKE = graph.op("Gather", graph.weight(head.token.weight.detach()), token_BK)
        shape = graph.constant([-1, CANDIDATES * config.embedding])
        read_BX = graph.op("Concat", scaled_BF, graph.op("Reshape", token_BKE, shape), axis=1)
    trunk_BX = graph.op("Gelu", _mlp(graph, head.trunk, read_BX), own=True)
    base_B1 = _linear(graph, head.base, trunk_BX)
    parts = (trunk_BX,) if config.shift_reads == "trunk" else (base_B1, scaled_BF)
    shift_B1 = _mlp(graph, head.shift, graph.op("Concat", *parts, budget_B1, axis=1))
    graph.op("Add", base_B1, shift_B1, name=graph.output("gain_B1", ["B", 1]))
    return graph


def _mlp(graph: Graph, mlp: torch.nn.Sequential, values_NX: str) -> str:
    first, _, second = mlp
    return _linear(graph, second, graph.op("Gelu", _linear(graph, first, values_NX), own=True))


def _linear(graph: Graph, linear: torch.nn.Module, values_NX: str) -> str:
    assert isinstance(linear, torch.nn.Linear), "an MLP is of linear maps"
    weight_XY, bias_Y = linear.weight.detach().t(), linear.bias.detach()
    return graph.op("Gemm", values_NX, graph.weight(weight_XY), graph.weight(bias_Y))
