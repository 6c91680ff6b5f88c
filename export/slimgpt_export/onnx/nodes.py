"""A graph under construction: nodes, inputs, outputs and initializers, each by its own name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir

CONTRIB = "com.microsoft"
OPSET = 23
"""The first with RMSNormalization; the checker knows no SimplifiedLayerNormalization."""
_IR_VERSION = 11


class Nodes:
    """Collects a graph.

    Args:
        name: of the graph.
    """

    def __init__(self, name: str) -> None:
        self._graph = ir.Graph([], [], nodes=[], opset_imports={"": OPSET, CONTRIB: 1}, name=name)
        self._values: dict[str, ir.Value] = {}

    def model(self) -> ir.Model:
        """The finished model."""
        return ir.Model(self._graph, ir_version=_IR_VERSION, producer_name="slimgpt")

    def value(self, name: str) -> ir.Value:
        """What an earlier node or initializer of this name gave."""
        return self._values[name]

    def add(
        self,
        kind: str,
        inputs: Sequence[ir.Value | None],
        output: str,
        *,
        domain: str = "",
        **attributes: Any,
    ) -> ir.Value:
        """Adds a node of one output, which gets this name."""
        [value] = self.add_many(kind, inputs, [output], domain=domain, **attributes)
        return value

    def add_many(
        self,
        kind: str,
        inputs: Sequence[ir.Value | None],
        outputs: Sequence[str],
        *,
        domain: str = "",
        **attributes: Any,
    ) -> list[ir.Value]:
        """Adds a node; an output without a name is not used."""
        values = [ir.Value(name=name) for name in outputs]
        node = ir.node(
            kind, inputs, attributes, domain=domain, outputs=values, name=f"{outputs[0]}/node"
        )
        self._graph.append(node)
        self._values |= {value.name: value for value in values if value.name}
        return values

    def split(self, x: ir.Value, sizes: Sequence[int], outputs: Sequence[str]) -> list[ir.Value]:
        """Cuts the last axis."""
        lengths = self.constant(f"{outputs[0]}.sizes", sizes)
        return self.add_many("Split", [x, lengths], outputs, axis=-1)

    def choose(
        self,
        condition: ir.Value,
        then: Sequence[ir.Value],
        otherwise: Sequence[ir.Value],
        outputs: Sequence[str],
    ) -> list[ir.Value]:
        """One of two lists of values."""
        branches: dict[str, Any] = {
            f"{name}_branch": _passing_on(f"{outputs[0]}.{name}", values)
            for name, values in (("then", then), ("else", otherwise))
        }
        return self.add_many("If", [condition], outputs, **branches)

    def weight(self, tensor: ir.TensorProtocol) -> ir.Value:
        """An initializer; the second call of a name gives the value of the first."""
        assert tensor.name
        if tensor.name not in self._values:
            value = ir.Value(
                name=tensor.name,
                shape=ir.Shape(tensor.shape.numpy()),
                type=ir.TensorType(tensor.dtype),
                const_value=tensor,
            )
            self._graph.register_initializer(value)
            self._values[tensor.name] = value
        return self._values[tensor.name]

    def constant(self, name: str, values: Sequence[int]) -> ir.Value:
        """A vector of int64."""
        return self.weight(ir.tensor(list(values), dtype=ir.DataType.INT64, name=name))

    def scalar(self, name: str, value: int) -> ir.Value:
        """One int64 without dimensions."""
        return self.weight(ir.tensor(value, dtype=ir.DataType.INT64, name=name))

    def input(self, name: str, dtype: ir.DataType, shape: Sequence[int | str]) -> ir.Value:
        """An input of the graph."""
        value = ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(dtype))
        self._graph.inputs.append(value)
        return value

    def optional_input(self, name: str, default: Sequence[int]) -> ir.Value:
        """A vector of int64 that callers may leave out."""
        value = self.constant(name, default)
        self._graph.inputs.append(value)
        return value

    def output(
        self, value: ir.Value, name: str, dtype: ir.DataType, shape: Sequence[int | str]
    ) -> None:
        """Makes a value an output of the graph."""
        value.name, value.shape, value.type = name, ir.Shape(shape), ir.TensorType(dtype)
        self._graph.outputs.append(value)


def _passing_on(name: str, values: Sequence[ir.Value]) -> ir.Graph:
    """A branch that gives values from outside."""
    nodes, outputs = [], []
    for number, value in enumerate(values):
        output = ir.Value(name=f"{name}.{number}", type=value.type, shape=value.shape)
        nodes.append(ir.node("Identity", [value], outputs=[output], name=f"{name}.{number}/node"))
        outputs.append(output)
    return ir.Graph([], outputs, nodes=nodes, opset_imports={"": OPSET}, name=name)
