"Counts of a piece of work on a device: operator calls, questions that would make a GPU's host wait, bytes alive at most."
import weakref

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

ASKING = {"_local_scalar_dense", "item", "is_nonzero", "equal", "nonzero", "nonzero_numpy", "masked_select", "bincount", "_unique2", "unique_dim",
          "unique_consecutive", "allclose", "lift_fresh"}                     # lift_fresh: a tensor made of numbers that the host has
READING = {Tensor.tolist, Tensor.numpy, Tensor.cpu, Tensor.__array__}   # on a CPU these reach no operator


def asks(name: str, overload: str, args: tuple) -> bool:
    "True if the host of a GPU would have to wait for this operator: its result is a number, or has a size that depends on values."
    if name in ("index", "index_put", "index_put_", "_index_put_impl_"):
        return any(isinstance(i, Tensor) and i.dtype in (torch.bool, torch.uint8) for i in args[1])
    return name in ASKING or (name, overload) == ("repeat_interleave", "Tensor")


class _Reads(TorchFunctionMode):
    def __init__(self, found: list[str]):
        super().__init__()
        self.found = found

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in READING: self.found.append(func.__name__)
        return func(*args, **(kwargs or {}))


class Counts(TorchDispatchMode):
    "A block in which everything is counted: `calls`, `waits` by name, and `peak`, bytes of tensors made in it that were alive together."
    def __init__(self):
        super().__init__()
        self.calls, self.waits, self.alive, self.peak, self.known, self.reads = 0, [], 0, 0, set(), None

    def __enter__(self):
        self.reads = _Reads(self.waits)
        self.reads.__enter__()
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self.reads.__exit__(*error)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = {leaf.untyped_storage().data_ptr() for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        out = func(*args, **(kwargs or {}))
        self.calls += 1
        name = func._schema.name.removeprefix("aten::")
        if asks(name, func._overloadname, args): self.waits.append(name)
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor): self._born(leaf.untyped_storage(), given)
        return out

    def _born(self, storage: torch.UntypedStorage, given: set[int]) -> None:
        place, size = storage.data_ptr(), storage.nbytes()
        if place in given or place in self.known or not size: return
        self.known.add(place)
        self.alive += size
        self.peak = max(self.peak, self.alive)
        weakref.finalize(storage, self._gone, place, size)

    def _gone(self, place: int, size: int) -> None:
        self.known.discard(place)
        self.alive -= size
