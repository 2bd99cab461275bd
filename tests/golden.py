"Weights, inputs and key names of the recorded golden values, for the tests that compare with them."
from pathlib import Path
from zlib import crc32

import numpy as np
import torch

GOLDEN = Path(__file__).parent / "recorded/golden"


def formula(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    "The value of a parameter by its published name, as recorded/golden/README.md defines it."
    if name.endswith("num_batches_tracked"): return torch.tensor(0)
    phase = crc32(name.encode()) % 1000 / 1000 * 2 * np.pi
    v = np.sin(1.2345 * np.arange(int(np.prod(shape))) + phase).reshape(shape)
    if name.endswith("running_var"): v = 1 + .3 * np.abs(v)
    elif name.endswith("running_mean") or name.endswith("bias"): v = .05 * v
    elif len(shape) == 1: v = 1 + .1 * v
    else: v = v * np.sqrt(2 / np.prod(shape[1:])) * 1.2
    return torch.from_numpy(v).float()


def unpack(bits: np.ndarray, shape) -> np.ndarray:
    "A bool array stored by np.packbits."
    return np.unpackbits(bits)[:np.prod(shape)].reshape(shape).astype(bool)
