"""Tiny ONNX models with the inputs and outputs of InsightFace's `det_10g` and `w600k_r50`.

The detector takes a red square of 32 x 32 pixels, on the grid of its coarsest level, for a face:
the redder the surer. The recogniser's first three numbers are the mean red, green and blue.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIDE = 32

# Corners of a face in its box, as ArcFace's template has them in its 112 pixels: so a square that
# is found is cut out as it is.
_TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655],
     [70.7299, 92.2041]], np.float32,
) / 112  # fmt: skip


def write_pack(folder: Path, names: tuple[str, str]) -> None:
    """Write detector and recogniser under these names."""
    folder.mkdir(parents=True)
    onnx.save(_detector(), folder / names[0])
    onnx.save(_recogniser(), folder / names[1])


def _model(
    nodes: list[onnx.NodeProto],
    constants: dict[str, np.ndarray],
    takes: onnx.ValueInfoProto,
    gives: list[onnx.ValueInfoProto],
) -> onnx.ModelProto:
    known = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "stand-in", [takes], gives, known)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    return model


def _detector() -> onnx.ModelProto:
    """As det_10g: input (1, 3, ?, ?); for each stride (8, 16, 32) and two anchors a cell in NCHW
    order, scores (n, 1), then boxes (n, 4), then landmarks (n, 10), both in strides."""
    takes = helper.make_tensor_value_info("input.1", TensorProto.FLOAT, [1, 3, "?", "?"])
    redness = np.array([0.5, -0.25, -0.25], np.float32).reshape(1, 3, 1, 1)
    constants = {"redness": redness, "flat": np.array([-1, 1], np.int64)}
    nodes: list[onnx.NodeProto] = []
    names: dict[str, list[str]] = {"score": [], "box": [], "kps": []}
    for stride in (8, 16, SIDE):
        weight = np.array([1.0 if stride == SIDE else 0.0], np.float32)
        # Left and top of the cell, which is where its anchors are, to its right and bottom.
        box = np.array([[0, 0, 1, 1]], np.float32)
        constants |= {
            f"weight{stride}": weight,
            f"box_of{stride}": box,
            f"kps_of{stride}": _TEMPLATE.reshape(1, 10),
            f"zero{stride}": np.array([0.0], np.float32),
        }
        nodes += [
            helper.make_node("AveragePool", ["input.1"], [f"mean{stride}"],
                             kernel_shape=[stride, stride], strides=[stride, stride]),
            helper.make_node("Conv", [f"mean{stride}", "redness"], [f"red{stride}"]),
            helper.make_node("Mul", [f"red{stride}", f"weight{stride}"], [f"sure{stride}"]),
            helper.make_node("Relu", [f"sure{stride}"], [f"positive{stride}"]),
            helper.make_node("Reshape", [f"positive{stride}", "flat"], [f"cells{stride}"]),
            helper.make_node("Concat", [f"cells{stride}"] * 2, [f"anchors{stride}"], axis=1),
            helper.make_node("Reshape", [f"anchors{stride}", "flat"], [f"score{stride}"]),
            helper.make_node("Mul", [f"score{stride}", f"zero{stride}"], [f"nothing{stride}"]),
            helper.make_node("Add", [f"nothing{stride}", f"box_of{stride}"], [f"box{stride}"]),
            helper.make_node("Add", [f"nothing{stride}", f"kps_of{stride}"], [f"kps{stride}"]),
        ]  # fmt: skip
        for kind, outputs in names.items():
            outputs.append(f"{kind}{stride}")
    widths = {"score": 1, "box": 4, "kps": 10}
    gives = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", widths[kind]])
        for kind, outputs in names.items()
        for name in outputs
    ]
    for value in gives:  # a name for each, as they are of different lengths
        value.type.tensor_type.shape.dim[0].dim_param = f"n_{value.name}"
    return _model(nodes, constants, takes, gives)


def _recogniser() -> onnx.ModelProto:
    """As w600k_r50: input (batch, 3, 112, 112), output (batch, 512)."""
    takes = helper.make_tensor_value_info("input.1", TensorProto.FLOAT, ["None", 3, 112, 112])
    gives = helper.make_tensor_value_info("683", TensorProto.FLOAT, ["None", 512])
    spread = np.random.default_rng(0).normal(size=(3, 512)).astype(np.float32)
    spread[:, :3] = np.eye(3)
    nodes = [
        helper.make_node("GlobalAveragePool", ["input.1"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["colour"]),
        helper.make_node("MatMul", ["colour", "spread"], ["683"]),
    ]
    return _model(nodes, {"spread": spread}, takes, [gives])
