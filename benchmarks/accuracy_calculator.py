"""pytorch-metric-learning's AccuracyCalculator, as `evaluation.py` compares with it.

`accuracy_calculator.py FILE GALLERY` computes once for each line of its input, and answers each with a line.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
import torch


def library(vectors: np.ndarray, codes: np.ndarray, gallery: int) -> Callable[[], object]:
    """Return a function that computes three scores by pytorch-metric-learning, exactly, on one thread."""
    from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator

    torch.set_num_threads(1)
    calculator = AccuracyCalculator(include=("precision_at_1", "mean_average_precision_at_r", "r_precision"), k=50)
    unit, labels = torch.from_numpy(vectors.astype(np.float32)), torch.from_numpy(codes)
    return lambda: calculator.get_accuracy(unit[gallery:], labels[gallery:], unit[:gallery], labels[:gallery])


if __name__ == "__main__":
    drawn = np.load(sys.argv[1])
    compute = library(drawn["vectors"], drawn["codes"], int(sys.argv[2]))
    for _ in sys.stdin:
        compute()
        print("done", flush=True)
