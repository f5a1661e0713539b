"""Tiny models of TensorFlow Lite, made on the spot: constants, and weighted sums of the input."""

from typing import Any

import numpy as np


def constant_model(given: tuple[int, ...], *outputs: np.ndarray) -> bytes:
    """Return a model that gives the same numbers for any input of a shape."""
    return _model(given, [(None, np.asarray(values, dtype=np.float32)) for values in outputs])


def linear_model(given: tuple[int, ...], weights: np.ndarray) -> bytes:
    """Return a model of one layer: weights [M, N] times the N numbers of the input."""
    return _model(given, [(np.asarray(weights, dtype=np.float32), np.zeros((1, len(weights)), dtype=np.float32))])


def _model(given: tuple[int, ...], layers: list[tuple[np.ndarray | None, np.ndarray]]) -> bytes:
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    graph, buffers = schema.SubGraphT(), [schema.BufferT()]
    graph.tensors, graph.operators, graph.inputs, graph.outputs = [_tensor(schema, "input", given, 0)], [], [0], []
    for number, (weights, output) in enumerate(layers):
        place = 0
        if weights is not None:
            graph.tensors.append(_tensor(schema, "weights", weights.shape, _stored(schema, buffers, weights)))
            operator = schema.OperatorT()
            operator.opcodeIndex, operator.inputs = 0, [0, len(graph.tensors) - 1, -1]
            operator.outputs = [len(graph.tensors)]
            operator.builtinOptionsType = schema.BuiltinOptions.FullyConnectedOptions
            operator.builtinOptions = schema.FullyConnectedOptionsT()
            graph.operators.append(operator)
        else:
            place = _stored(schema, buffers, output)
        graph.outputs.append(len(graph.tensors))
        graph.tensors.append(_tensor(schema, f"output{number}", output.shape, place))
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.FULLY_CONNECTED
    code.version = 1
    model = schema.ModelT()
    model.version, model.operatorCodes, model.subgraphs, model.buffers = 3, [code], [graph], buffers
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _tensor(schema: Any, name: str, shape: tuple[int, ...], buffer: int) -> Any:
    tensor = schema.TensorT()
    tensor.name, tensor.shape, tensor.type, tensor.buffer = name, list(shape), schema.TensorType.FLOAT32, buffer
    return tensor


def _stored(schema: Any, buffers: list[Any], values: np.ndarray) -> int:
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(np.ascontiguousarray(values, dtype="<f4").tobytes(), dtype=np.uint8)
    buffers.append(buffer)
    return len(buffers) - 1
