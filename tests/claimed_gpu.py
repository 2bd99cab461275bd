"""A GPU that is only claimed: its tensors tell Python that they are on `cuda:0` and keep their numbers on the CPU. Whoever mixes them with
tensors of the host is stopped, as on a real one; so a machine without a GPU can see that everything is sent where it is needed."""
import contextlib
from collections.abc import Iterator
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from pointwssis.training.device import computes_in_bf16

GPU = torch.device("cuda", 0)
BELOW = torch.device("cpu", 0)     # what autograd is told, which would look for a driver; tensors of the host have no number
MOVES = {"to", "_to_copy", "copy_", "_has_compatible_shallow_copy_type"}     # what goes on between a GPU and its host
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}
FACTS = {"_lazy_init": None, "device_count": 1, "current_device": 0, "get_device_name": "a claimed GPU", "synchronize": None,
         "is_bf16_supported": computes_in_bf16(torch.device("cpu")), "get_device_capability": (6, 1)}


class Claimed(Tensor):
    "A tensor of the claimed GPU."
    device, is_cuda = GPU, True

    @staticmethod
    def __new__(cls, held: Tensor, requires_grad: bool = False):
        return Tensor._make_wrapper_subclass(cls, held.shape, strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype,
                                             device=BELOW, requires_grad=requires_grad)

    def __init__(self, held: Tensor, requires_grad: bool = False): self.held = held

    def to(self, *args, **kwargs):
        device, dtype, _, layout = torch._C._nn._parse_to(*args, **kwargs)
        if device is None or device.type == "cuda": return super().to(dtype=dtype or self.dtype, memory_format=layout or torch.preserve_format)
        return torch.ops.aten._to_copy(self, dtype=dtype, device=device)

    def cpu(self): return self.to("cpu")
    def tolist(self): return self.cpu().tolist()
    def numpy(self): raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first.")
    def __array__(self, *args, **kwargs): self.numpy()
    def __repr__(self, **kwargs): return f"Claimed({self.held})"
    def __format__(self, spec: str): return format(self.held, spec)
    def __reduce_ex__(self, protocol): return self.held.__reduce_ex__(protocol)     # saved as what a file may be loaded as anywhere

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None): return _run(func, args, kwargs or {})


def _run(func, args, kwargs):
    leaves, name = tree_leaves((args, kwargs)), func._schema.name.removeprefix("aten::")
    tensors, places = ([leaf for leaf in leaves if isinstance(leaf, kind)] for kind in (Tensor, torch.device))
    known = {id(x.held): x for x in tensors if isinstance(x, Claimed)}
    free = tree_leaves(args[1]) if name in INDEXING and isinstance(args[0], Claimed) else []      # indices, and single numbers, may come from the host
    strangers = [tuple(x.shape) for x in tensors if not isinstance(x, Claimed) and x.dim() and not any(x is i for i in free)]
    if known and strangers and name not in MOVES: raise RuntimeError(f"{func}: tensors of shape {strangers} are not on the GPU")
    if name == "_pin_memory": return args[0]
    plain = tree_map_only(torch.device, lambda _: torch.device("cpu"), (args, {k: v for k, v in kwargs.items() if k != "pin_memory"}))
    plain, named = tree_map_only(Claimed, lambda x: x.held, plain)
    out, here = func(*plain, **named), places[0] in (GPU, BELOW) if places else bool(known)
    return tree_map_only(Tensor, lambda x: known[id(x)] if id(x) in known else Claimed(x), out) if here else out


class _Operators(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None): return _run(func, args, kwargs or {})


class _Calls(TorchFunctionMode):
    "Before torch looks at a call: the GPU gets its number, and what Python lists goes by way of the host."
    def __torch_function__(self, func, types, args=(), kwargs=None):
        args, kwargs = tree_map_only((torch.device, str), lambda d: GPU if str(d) in ("cuda", "cuda:0") else d, (args, kwargs or {}))
        if func is Tensor.to and len(args) > 1 and isinstance(args[1], Tensor): args = args[0], args[1].device, args[1].dtype
        if func not in (torch.tensor, torch.as_tensor) or "device" not in kwargs: return func(*args, **kwargs)
        device = kwargs.pop("device")
        return func(*args, **kwargs).to(device)


@contextlib.contextmanager
def claimed_gpu() -> Iterator[torch.device]:
    "A block in which there is a GPU. Its bf16 is that of the CPU."
    autocast, overwrites = torch.autocast, torch.__future__.get_overwrite_module_params_on_conversion()
    with contextlib.ExitStack() as block:
        for name, value in FACTS.items(): block.enter_context(mock.patch(f"torch.cuda.{name}", lambda *_, value=value, **__: value))
        block.enter_context(mock.patch.object(Tensor, "pin_memory", lambda x, *_: x))     # in any thread; the modes below act in this one
        block.enter_context(mock.patch("torch.autocast", lambda kind, *args, **kwargs: autocast("cpu", *args, **kwargs)))
        block.callback(torch.__future__.set_overwrite_module_params_on_conversion, overwrites)
        torch.__future__.set_overwrite_module_params_on_conversion(True)     # parameters change their type with their place
        block.enter_context(_Operators())
        block.enter_context(_Calls())
        yield GPU
