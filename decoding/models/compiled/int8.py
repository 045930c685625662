"""Linear maps with weights in int8 as nodes of a graph: the sums of `Int8Linear`, whole number for whole number.

A row of states is divided by its largest magnitude, and becomes whole numbers from 1 to 255 around 128, which is what
the fast kernel takes: at 1 and 32 rows a product of 640 numbers with 3,456 outputs takes 83 and 353
microseconds in place of 321 and 931 in float32. `DynamicQuantizeMatMul` takes 77 and 302, with one scale for the batch:
a row would depend on its company. `MatMulNBits`, with a scale for every 32 numbers, takes 87 and 1,121.
(Two cores of a Xeon with AVX-512 and VNNI.)
"""

from __future__ import annotations

from functools import cache

import torch

from wheels.decoding.models.compiled.graph import Graph, Unsupported, make_session
from wheels.decoding.models.linear import LEVELS, TINIEST, Int8Linear, int8_levels

ZERO = 128
"""Of the states as whole numbers without a sign."""


def int8_product(graph: Graph, values_NX: str, linear: Int8Linear) -> str:
    """Add the nodes of `x W^T + b`, and return the name of their output.

    Raises:
        Unsupported: where the kernel's sums are not exact.
    """
    if not is_exact():
        raise Unsupported("products in int8 overflow on this processor")
    return _product(graph, values_NX, linear)


def _product(graph: Graph, values_NX: str, linear: Int8Linear) -> str:
    most_N1 = graph.op("ReduceMax", graph.op("Abs", values_NX), graph.constant([-1]), keepdims=1)
    most_N1 = graph.op("Max", most_N1, graph.weight(torch.tensor(TINIEST * LEVELS)))
    step, zero = graph.weight(torch.tensor(1 / LEVELS)), graph.weight(torch.tensor(ZERO, dtype=torch.uint8))
    whole_NX = graph.op("QuantizeLinear", graph.op("Div", values_NX, most_N1), step, zero)
    weights = graph.weight(linear.weight_XY), step, graph.weight(linear.scale_Y), zero
    product_NY = graph.op("Mul", graph.op("MatMulIntegerToFloat", whole_NX, *weights, own=True), most_N1)
    return product_NY if linear.bias_Y is None else graph.op("Add", product_NY, graph.weight(linear.bias_Y))


@cache
def is_exact() -> bool:
    """Tell whether the largest whole numbers are multiplied exactly; some processors add two products in 16 bits."""
    width, rows, outputs = 64, 8, 32
    weight_XY = torch.full((width, outputs), int8_levels(), dtype=torch.int8)
    graph = Graph()
    values = graph.input("values", torch.float32, ["N", width])
    product = _product(graph, values, Int8Linear(weight_XY, torch.ones(outputs)))
    graph.op("Identity", product, name=graph.output("product", ["N", outputs]))
    session = make_session(graph)
    expected = float(width * LEVELS * int8_levels())
    for count in (1, rows):
        for sign in (1, -1):
            values_NX = torch.full((count, width), float(sign * LEVELS))
            product_NY = torch.from_numpy(session.run(None, {"values": values_NX.numpy()})[0])
            if not torch.allclose(product_NY, torch.full_like(product_NY, sign * expected), rtol=1e-5):
                return False
    return True
