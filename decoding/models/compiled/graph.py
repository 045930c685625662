"""Writing an ONNX graph: nodes and weights, by name."""

from __future__ import annotations

from typing import Any

import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper

from wheels.decoding.models.linear import BFloat16Linear, ByRowsLinear, Linear, PrepackedLinear, TorchLinear

MICROSOFT = "com.microsoft"
"""The operators that ONNX Runtime adds to the standard's."""
VERSIONS = {"": 21, MICROSOFT: 1}
"""Of the two sets of operators."""
IR_VERSION = 10
TYPES = {
    torch.float32: TensorProto.FLOAT,
    torch.int64: TensorProto.INT64,
    torch.int32: TensorProto.INT32,
    torch.int8: TensorProto.INT8,
    torch.uint8: TensorProto.UINT8,
}
PROVIDERS = ["CPUExecutionProvider"]

Shape = list[int | str]
"""Sizes of a tensor's axes; a name stands for one that is known when the graph runs."""


class Unsupported(Exception):
    """Something that the graph has no operator for."""


def dense(linear: Linear) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return the weights as `x` multiplies them, `[X, Y]`, and the bias.

    Raises:
        Unsupported: for weights of another kind than float32's.
    """
    if isinstance(linear, ByRowsLinear):
        linear = linear.few
    if isinstance(linear, PrepackedLinear):
        return linear.weight.to_dense().t(), linear.bias_Y
    if not isinstance(linear, TorchLinear):
        raise Unsupported(f"no operator for {type(linear).__name__}")
    return linear.weight_XY, linear.bias_Y


def outputs(linear: Linear) -> int:
    """Return how many numbers a linear map gives; its weights stay as they are laid out."""
    if isinstance(linear, ByRowsLinear):
        linear = linear.few
    if isinstance(linear, (PrepackedLinear, BFloat16Linear)):
        return linear.weight.shape[0]
    return linear.weight_XY.shape[1]


class Graph:
    """A graph that grows node by node; a value is known by its name."""

    def __init__(self) -> None:
        self.weights: dict[str, torch.Tensor] = {}
        """Handed to the session apart: a model may be larger than what a graph can hold."""
        self._nodes: list[onnx.NodeProto] = []
        self._small: list[onnx.TensorProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._count = 0

    def input(self, name: str, dtype: torch.dtype, shape: Shape) -> str:
        """Add an input."""
        self._inputs.append(helper.make_tensor_value_info(name, TYPES[dtype], shape))
        return name

    def output(self, name: str, shape: Shape, dtype: torch.dtype = torch.float32) -> str:
        """Name a value that a node writes as an output."""
        self._outputs.append(helper.make_tensor_value_info(name, TYPES[dtype], shape))
        return name

    def weight(self, tensor: torch.Tensor) -> str:
        """Add a weight."""
        name = self.fresh("weight")
        self.weights[name] = tensor.contiguous()
        return name

    def constant(self, values: int | list[int] | list[list[int]]) -> str:
        """Add whole numbers: a shape, an axis."""
        tensor = numpy_helper.from_array(torch.tensor(values).numpy(), self.fresh("constant"))
        self._small.append(tensor)
        return str(tensor.name)

    def op(self, kind: str, *inputs: str, own: bool = False, name: str = "", **attributes: Any) -> str:
        """Add a node with one output, and return its name.

        Args:
            kind: The operator.
            inputs: Its inputs; "" leaves out an optional one.
            own: Whether the operator is of ONNX Runtime's own set.
            name: Of the output; a fresh one unless given.
            attributes: The node's.
        """
        return self.op_many(kind, inputs, [name or self.fresh(kind)], own=own, **attributes)[0]

    def op_many(
        self, kind: str, inputs: tuple[str, ...], outputs: list[str], *, own: bool = False, **attributes: Any
    ) -> list[str]:
        """Add a node with several outputs, and return their names."""
        domain = MICROSOFT if own else ""
        self._nodes.append(helper.make_node(kind, inputs, outputs, self.fresh("node"), domain=domain, **attributes))
        return outputs

    def fresh(self, word: str) -> str:
        """Return a name that is not taken."""
        self._count += 1
        return f"{word}_{self._count}"

    def serialized(self) -> bytes:
        """Return the graph as a model, without its weights."""
        tensors = [*self._small, *(_outside(name, tensor) for name, tensor in self.weights.items())]
        graph = helper.make_graph(self._nodes, "decode step", self._inputs, self._outputs, tensors)
        sets = [helper.make_opsetid(*item) for item in VERSIONS.items()]
        return bytes(helper.make_model(graph, opset_imports=sets, ir_version=IR_VERSION).SerializeToString())


def make_session(graph: Graph) -> onnxruntime.InferenceSession:
    """Return a session that runs a graph with as many threads as torch has."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # A thread that spins while it waits takes the processor from torch's.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    values = [onnxruntime.OrtValue.ortvalue_from_numpy(tensor.numpy()) for tensor in graph.weights.values()]
    options.add_external_initializers(list(graph.weights), values)
    return onnxruntime.InferenceSession(graph.serialized(), options, providers=PROVIDERS)


def _outside(name: str, tensor: torch.Tensor) -> onnx.TensorProto:
    """Describe a weight that the session is given apart."""
    proto = onnx.TensorProto(name=name, data_type=TYPES[tensor.dtype], dims=tensor.shape)
    proto.data_location = TensorProto.EXTERNAL
    proto.external_data.add(key="location", value=name)
    return proto
