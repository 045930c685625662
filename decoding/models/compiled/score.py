"""The deferral head in a graph: the features and the gain of a call come out of the student's own pass.

In torch they are some forty calls, which take longer than a small student's whole step. Here they are few operators:
what is linear is folded into the weights of the first layer, which trunk and shift share. Which tokens of its source a
text has copied is told (`wheels.decoding.models.head_inputs`); where the best tokens would lead is looked up.
Letters: M states, S tokens of the longest source, L codes of positions in it, F features, X columns of the first layer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from wheels.decoding.models.compiled.graph import TYPES, Graph, Unsupported
from wheels.decoding.models.head_inputs import NUMBERS
from wheels.policy.features import CANDIDATES, LOG_FLOOR, SCALARS, TOP_K
from wheels.policy.head import DeferralHead

LOWEST = -100.0
"""Log-probabilities are floored here in the entropy (`wheels.policy.features.entropy`)."""
BLOCKS = 64
"""The best tokens are sought in the blocks of the vocabulary with the largest maxima; it is cut into so many."""
MakeHead = Callable[[Graph], "HeadWriter"]


class HeadWriter:
    """Adds a head to the graph of a decoder.

    Inputs: those of `HeadInputs.of`. Output: `gain_M1`, in nats.

    Args:
        graph: Of the decoder.
        head: With the weights that it keeps.
        vocab_size: Logits beyond it are padding.

    Raises:
        Unsupported: for a head that is not in float32 on a CPU, or reads other tokens.
    """

    def __init__(self, graph: Graph, head: DeferralHead, vocab_size: int) -> None:
        known = head.config.candidates in (0, CANDIDATES) and vocab_size >= TOP_K
        if not known or head.mean_F.dtype != torch.float32 or head.mean_F.device.type != "cpu":
            raise Unsupported("no operators for the head")
        self.graph, self.head, self.vocab_size = graph, head, vocab_size
        self.width = 0
        """D, of the hidden state."""

    def write(self, logits_MV: str, size: int, hidden_MD: str, width: int) -> None:
        """Add what computes `gain(s, b)` of `wheels.policy.head` from the features of `wheels.policy.features`.

        Args:
            logits_MV: The student's logits.
            size: How many each state has.
            hidden_MD: What the output head read.
            width: D.
        """
        self.width, graph = width, self.graph
        numbers_MX = graph.input("numbers_MX", torch.float32, ["M", len(NUMBERS) + 2])
        real_MV = logits_MV if size == self.vocab_size else self._slice(logits_MV, self.vocab_size)
        log_q_MV = graph.op("LogSoftmax", real_MV, axis=-1)
        each_MV = graph.op("Mul", graph.op("Exp", log_q_MV), graph.op("Clip", log_q_MV, self._number(LOWEST)))
        value_MK, token_MK = self._best(log_q_MV)
        best_MK = graph.op("Clip", value_MK, self._number(LOG_FLOOR))
        read_MX = graph.op(
            "Concat",
            hidden_MD,
            graph.op("ReduceSum", each_MV, graph.constant([-1]), keepdims=1),
            graph.op("Exp", self._slice(best_MK, 2)),
            best_MK,
            numbers_MX,
            self._jumps(numbers_MX, token_MK),
            *self._tokens(token_MK),
            axis=1,
        )
        gain_M1 = self._gain(read_MX)
        graph.op("Identity", gain_M1, name=graph.output("gain_M1", ["M", 1]))

    def _best(self, log_q_MV: str) -> tuple[str, str]:
        """Return the best log-probabilities and their tokens: no block but those of the best maxima has one."""
        graph, width = self.graph, -(-self.vocab_size // BLOCKS)
        if width < BLOCKS:
            names = [graph.fresh("values"), graph.fresh("tokens")]
            value_MK, token_MK = graph.op_many("TopK", (log_q_MV, graph.constant([TOP_K])), names)
            return value_MK, token_MK
        if padding := BLOCKS * width - self.vocab_size:
            log_q_MV = graph.op("Pad", log_q_MV, graph.constant([0, 0, 0, padding]), self._number(-torch.inf))
        all_MBW = graph.op("Reshape", log_q_MV, graph.constant([0, BLOCKS, width]))
        most_MB = graph.op("ReduceMax", all_MBW, graph.constant([-1]), keepdims=0)
        names = [graph.fresh("most"), graph.fresh("block")]
        block_MK = graph.op_many("TopK", (most_MB, graph.constant([TOP_K])), names)[1]
        flat, index_MK1 = graph.constant([0, TOP_K * width]), graph.op("Unsqueeze", block_MK, graph.constant([2]))
        few_MX = graph.op("Reshape", graph.op("GatherND", all_MBW, index_MK1, batch_dims=1), flat)
        token_BW = graph.weight(torch.arange(BLOCKS * width).view(BLOCKS, width))
        token_MX = graph.op("Reshape", graph.op("Gather", token_BW, block_MK), flat)
        names = [graph.fresh("values"), graph.fresh("place")]
        value_MK, place_MK = graph.op_many("TopK", (few_MX, graph.constant([TOP_K])), names)
        return value_MK, graph.op("GatherElements", token_MX, place_MK, axis=1)

    def _jumps(self, numbers_MX: str, token_MK: str) -> str:
        """Return of both best tokens whether it is the next of the source, whether it comes, and how far ahead."""
        graph = self.graph
        source_M1S = graph.input("source_M1S", torch.int64, ["M", 1, "S"])
        code_S, behind_1 = graph.input("code_S", torch.float32, ["S"]), graph.input("behind_1", torch.float32, [1])
        jump_L3 = graph.input("jump_L3", torch.float32, ["L", 3])
        place_M11 = graph.op("Gather", numbers_MX, graph.constant([[len(NUMBERS) + 1]]), axis=1)
        code_M1S = graph.op("Add", code_S, place_M11)
        token_M21 = graph.op("Gather", token_MK, graph.constant([[0], [1]]), axis=1)
        same_M2S = graph.op("Equal", source_M1S, token_M21)
        comes_M2S = graph.op("And", same_M2S, graph.op("Less", code_M1S, behind_1))
        code_M2S = graph.op("Where", comes_M2S, code_M1S, self._number(0.0))
        nearest_M2 = graph.op("ReduceMax", code_M2S, graph.constant([-1]), keepdims=0)
        jump_M23 = graph.op("Gather", jump_L3, graph.op("Cast", nearest_M2, to=TYPES[torch.int64]))
        return graph.op("Reshape", jump_M23, graph.constant([0, 6]))

    def _tokens(self, token_MK: str) -> list[str]:
        """Return the embeddings of the candidates, one after another, where the head has any."""
        if self.head.token is None:
            return []
        graph, width = self.graph, CANDIDATES * self.head.config.embedding
        table_VE = graph.weight(self.head.token.weight.detach())
        token_MKE = graph.op("Gather", table_VE, self._slice(token_MK, CANDIDATES))
        return [graph.op("Reshape", token_MKE, graph.constant([0, width]))]

    def _gain(self, read_MX: str) -> str:
        """Return the base gain and its shift."""
        graph, head, features = self.graph, self.head, self.head.config.features
        layers: list[Any] = [*head.trunk, *head.shift]
        trunk, _, trunk_out, shift, _, shift_out = layers
        tokens = trunk.weight[:, features:]
        from_trunk = head.config.shift_reads == "trunk"
        own = shift.weight[:, :0] if from_trunk else shift.weight[:, 1 : 1 + features]
        first, bias_Y = zip(
            self._folded(trunk.weight[:, :features], trunk.bias, torch.zeros_like(trunk.bias), tokens),
            self._folded(own, shift.bias, shift.weight[:, -1], tokens.new_zeros(len(shift.bias), tokens.shape[1])),
            strict=True,
        )
        both_MY = graph.op("Gemm", read_MX, graph.weight(torch.cat(first, 1)), graph.weight(torch.cat(bias_Y)))
        widths, names = [len(trunk.bias), len(shift.bias)], [graph.fresh("trunk"), graph.fresh("shift")]
        inner_MY, part_MY = graph.op_many("Split", (both_MY, graph.constant(widths)), names, axis=1)
        trunk_MY = self._gelu(self._linear(trunk_out, self._gelu(inner_MY)))
        base_M1 = self._linear(head.base, trunk_MY)
        source, weight_YX = (trunk_MY, shift.weight[:, :-1]) if from_trunk else (base_M1, shift.weight[:, :1])
        rest_MY = graph.op("MatMul", source, graph.weight(weight_YX.detach().t()))
        shift_M1 = self._linear(shift_out, self._gelu(graph.op("Add", part_MY, rest_MY)))
        return graph.op("Add", base_M1, shift_M1)

    @torch.no_grad()
    def _folded(
        self, weight_YF: torch.Tensor, bias_Y: torch.Tensor, budget_Y: torch.Tensor, token_YX: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a layer's weights by the columns of `write`, `[X, Y]`, and its bias; standardising is part of both.

        Args:
            weight_YF: Of the standardised features, the first ones of all.
            bias_Y: Its bias.
            budget_Y: Of the budget.
            token_YX: Of the candidates' embeddings.
        """
        read = weight_YF.shape[1]
        mean_F, scale_F = (each[:read].double() for each in (self.head.mean_F, self.head.scale_F))
        scaled_FY = (weight_YF.double() / scale_F).t()
        bias_Y = bias_Y.double() - mean_F @ scaled_FY
        width = self.width
        all_FY = torch.nn.functional.pad(scaled_FY, (0, 0, 0, width + len(SCALARS) - read))
        of = dict(zip(SCALARS, all_FY[width:], strict=True))
        columns = [-of["entropy"], of["top_probability"] + of["margin"], -of["margin"]]
        columns += [of[f"log_q_{rank}"] for rank in range(1, TOP_K + 1)]
        columns += [*(of[name] for name in NUMBERS), budget_Y.double(), torch.zeros_like(bias_Y)]
        columns += [of[f"{name}{rank}"] for rank in ("", "_2") for name in ("goes_on", "ahead", "jump")]
        folded_XY = torch.cat([all_FY[:width], torch.stack(columns), token_YX.double().t()])
        return folded_XY.float(), bias_Y.float()

    def _linear(self, linear: torch.nn.Linear, values_MX: str) -> str:
        weight_XY, bias_Y = linear.weight.detach().t(), linear.bias.detach()
        return self.graph.op("Gemm", values_MX, self.graph.weight(weight_XY), self.graph.weight(bias_Y))

    def _gelu(self, values_MX: str) -> str:
        return self.graph.op("Gelu", values_MX, own=True)

    def _number(self, value: float) -> str:
        return self.graph.weight(torch.tensor(value))

    def _slice(self, values_MX: str, end: int) -> str:
        return self.graph.op("Slice", values_MX, *map(self.graph.constant, ([0], [end], [1])))
