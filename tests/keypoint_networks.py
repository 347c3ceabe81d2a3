"""Small ONNX models that find keypoints on a grid and match them, for tests of learned keypoints."""

from __future__ import annotations

from pathlib import Path

import numpy as np

STRIDE = 8


def write_network(
    path: Path,
    *,
    size: int = 32,
    channels: int = 3,
    sides: tuple[int, int] | None = None,
    drop: str = "",
    half: bool = False,
    normalized: bool = False,
    seed: int = 0,
) -> Path:
    """A keypoint every 8 pixels, scored and described by a convolution with random weights.

    `sides` fixes the size of the input, `drop` leaves out an output, `normalized` gives x and y from -1 to 1 (with
    `sides` alone).
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    kernel = np.random.default_rng(seed).normal(size=(size, channels, STRIDE, STRIDE))
    kernel -= kernel.mean(axis=(1, 2, 3), keepdims=True)  # what has one color has no description
    step, start = np.array([STRIDE] * 2, np.float32), np.array([STRIDE / 2] * 2, np.float32)
    if normalized:
        assert sides is not None
        step, start = step * 2 / (np.array(sides[::-1]) - 1), start * 2 / (np.array(sides[::-1]) - 1) - 1
    values = {
        "kernel": kernel.astype(np.float32),
        "flat": np.array([1, size, -1]),
        "zero": np.array([0]),
        "one": np.array([1]),
        "swapped": np.array([1, 0]),
        "step": step.astype(np.float32),
        "start": start.astype(np.float32),
        "nothing": np.float32(0),
        "something": np.float32(1),
    }
    floats = TensorProto.FLOAT16 if half else TensorProto.FLOAT
    node = helper.make_node
    nodes = [
        node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        node("Conv", ["pixels", "kernel"], ["maps"], strides=[STRIDE, STRIDE]),
        node("Reshape", ["maps", "flat"], ["rows"]),
        node("Transpose", ["rows"], ["descriptors"], perm=[0, 2, 1]),
        node("ReduceL2", ["rows", "one"], ["scores"], keepdims=0),
        node("ReduceSum", ["maps", "one"], ["summed"], keepdims=0),
        node("Squeeze", ["summed", "zero"], ["grid"]),
        node("Mul", ["grid", "nothing"], ["blank"]),
        node("Add", ["blank", "something"], ["full"]),
        node("NonZero", ["full"], ["places"]),
        node("Transpose", ["places"], ["pairs"], perm=[1, 0]),
        node("Gather", ["pairs", "swapped"], ["columns"], axis=1),
        node("Cast", ["columns"], ["numbers"], to=TensorProto.FLOAT),
        node("Mul", ["numbers", "step"], ["scaled"]),
        node("Add", ["scaled", "start"], ["points"]),
        node("Unsqueeze", ["points", "zero"], ["keypoints"]),
    ]
    shapes = {"descriptors": (1, None, size), "keypoints": (1, None, 2), "scores": (1, None)}
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items() if name != drop
    ]
    graph = helper.make_graph(
        nodes,
        "keypoints",
        [helper.make_tensor_value_info("image", floats, (1, channels, *(sides or ("height", "width"))))],
        outputs,
        [numpy_helper.from_array(np.asarray(value), name) for name, value in values.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


def write_matcher(
    path: Path, *, size: int = 32, assigned: bool = False, half: bool = False, drop: str = "", seed: int = 0
) -> Path:
    """Matches the mutually nearest descriptors; the confidence of a match is half of its cosine, at least 0.

    `assigned` gives the match of each keypoint of the first photograph, -1 for none, instead of pairs. `drop` leaves
    out an output. `seed` is written into the file and changes nothing else.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    node, floats = helper.make_node, TensorProto.FLOAT16 if half else TensorProto.FLOAT
    whole = TensorProto.INT64
    nodes = [
        node("Cast", ["desc0"], ["first"], to=TensorProto.FLOAT),
        node("Cast", ["desc1"], ["second"], to=TensorProto.FLOAT),
        node("Transpose", ["second"], ["turned"], perm=[0, 2, 1]),
        node("MatMul", ["first", "turned"], ["batch"]),
        node("Squeeze", ["batch", "zero"], ["cosines"]),
        node("ArgMax", ["cosines"], ["best"], axis=1, keepdims=0),
        node("ArgMax", ["cosines"], ["back"], axis=0, keepdims=0),
        node("Gather", ["back", "best"], ["again"]),
        node("Shape", ["best"], ["count"]),
        node("Squeeze", ["count", "zero"], ["length"]),
        node("Range", ["none", "length", "one"], ["rows"]),
        node("Equal", ["again", "rows"], ["mutual"]),
        node("ReduceMax", ["cosines", "ones"], ["largest"], keepdims=0),
        node("Relu", ["largest"], ["positive"]),
        node("Mul", ["positive", "half"], ["sure"]),
    ]
    if assigned:
        nodes += [
            node("Where", ["mutual", "best", "lost"], ["matched"]),
            node("Unsqueeze", ["matched", "zero"], ["matches0"]),
            node("Unsqueeze", ["sure", "zero"], ["mscores0"]),
        ]
    else:
        nodes += [
            node("NonZero", ["mutual"], ["kept"]),
            node("Squeeze", ["kept", "zero"], ["places"]),
            node("Gather", ["best", "places"], ["others"]),
            node("Unsqueeze", ["places", "ones"], ["left"]),
            node("Unsqueeze", ["others", "ones"], ["right"]),
            node("Concat", ["left", "right"], ["matches0"], axis=1),
            node("Gather", ["sure", "places"], ["mscores0"]),
        ]
    shapes = {"kpts0": (1, "M", 2), "kpts1": (1, "N", 2), "desc0": (1, "M", size), "desc1": (1, "N", size)}
    forms: dict[str, tuple[int, tuple[object, ...]]] = {
        "matches0": (whole, (1, "M") if assigned else ("K", 2)),
        "mscores0": (TensorProto.FLOAT, (1, "M") if assigned else ("K",)),
    }
    values = {"zero": [0], "ones": [1], "none": 0, "one": 1, "lost": -1}
    constants = [numpy_helper.from_array(np.array(value, np.int64), name) for name, value in values.items()]
    constants.append(numpy_helper.from_array(np.float32(0.5), "half"))
    graph = helper.make_graph(
        nodes,
        "matches",
        [helper.make_tensor_value_info(name, floats, shape) for name, shape in shapes.items()],
        [helper.make_tensor_value_info(name, *form) for name, form in forms.items() if name != drop],
        constants,
        doc_string=f"seed {seed}",
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path
