"""Pretends in this process that a GPU is here, for compilers only: PyTorch plans for it, Triton compiles for it, nothing runs.

`pretend` changes `torch.cuda`, Triton's driver and parts of Inductor for the whole process and for good. It belongs in a child
process (`pretended_gpu.worker`), never in one that runs other tests.
"""

from __future__ import annotations

import types
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Properties:
    """What compilers ask of a GPU, as NVIDIA's data sheets and the CUDA programming guide give it.

    Attributes:
        name: of the card.
        capability: compute capability, (major, minor).
        multiprocessors: how many.
        shared: bytes of shared memory of a multiprocessor.
        shared_of_block: the most of them that a block may ask for.
        memory: bytes of the device's memory.
        cache: bytes of the L2 cache.
    """

    name: str
    capability: tuple[int, int]
    multiprocessors: int
    shared: int
    shared_of_block: int
    memory: int
    cache: int


CARDS = {
    "sm80": Properties("NVIDIA A100-SXM4-80GB", (8, 0), 108, 164 << 10, 163 << 10, 80 << 30, 40 << 20),
    "sm90": Properties("NVIDIA H100 80GB HBM3", (9, 0), 132, 228 << 10, 227 << 10, 80 << 30, 50 << 20),
}
_THREADS = 2048  # of a multiprocessor
_REGISTERS = 65536


class _Driver:
    """Triton's driver of a GPU on which nothing is ever loaded or launched."""

    def __init__(self, card: Properties) -> None:
        self.card = card
        self.utils = self

    @staticmethod
    def is_active() -> bool:
        return True

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        major, minor = self.card.capability
        return GPUTarget("cuda", 10 * major + minor, 32)

    @staticmethod
    def get_current_device() -> int:
        return 0

    @staticmethod
    def get_current_stream(device: int | None = None) -> int:
        return 0

    @staticmethod
    def get_device_interface() -> Any:
        return torch.cuda

    @staticmethod
    def get_active_torch_device() -> torch.device:
        return torch.device("cuda", 0)

    @staticmethod
    def map_python_to_cpp_type(kind: str) -> str:
        from triton.backends.nvidia.driver import ty_to_cpp

        return str(ty_to_cpp(kind))

    def get_device_properties(self, device: int) -> dict[str, int]:
        return {
            "max_shared_mem": self.card.shared_of_block,
            "max_num_regs": _REGISTERS,
            "multiprocessor_count": self.card.multiprocessors,
            "warpSize": 32,
        }

    @staticmethod
    def load_binary(name: str, kernel: bytes, shared: int, device: int) -> tuple[int, int, int, int, int]:
        return 1, 1, 0, 0, 1024  # module, function, registers, spills, threads of a block at most

    @staticmethod
    def unload_module(module: int) -> None:
        return None

    @staticmethod
    def launcher_cls(source: object, metadata: object) -> Any:
        def launch(*args: object, **kwargs: object) -> None:
            raise RuntimeError("a kernel was launched on a pretended GPU")

        return launch


def pretend(card: Properties) -> None:
    """Make PyTorch and Triton believe in `card`, for the rest of this process."""
    import triton

    triton.runtime.driver.set_active(_Driver(card))
    _pretend_torch(card)
    _pretend_inductor()


def _pretend_torch(card: Properties) -> None:
    from torch._dynamo.device_interface import CudaInterface
    from torch._subclasses import fake_tensor

    properties = types.SimpleNamespace(
        name=card.name,
        major=card.capability[0],
        minor=card.capability[1],
        total_memory=card.memory,
        multi_processor_count=card.multiprocessors,
        warp_size=32,
        regs_per_multiprocessor=_REGISTERS,
        max_threads_per_multi_processor=_THREADS,
        max_threads_per_block=1024,
        shared_memory_per_block=48 << 10,
        shared_memory_per_block_optin=card.shared_of_block,
        shared_memory_per_multiprocessor=card.shared,
        L2_cache_size=card.cache,
        gcnArchName="",
        is_integrated=0,
        uuid="pretended",
    )
    answers: dict[str, Any] = {
        "is_available": True,
        "is_initialized": True,
        "_lazy_init": None,
        "device_count": 1,
        "current_device": 0,
        "set_device": None,
        "_exchange_device": 0,
        "_maybe_exchange_device": 0,
        "synchronize": None,
        "get_device_properties": properties,
        "get_device_capability": card.capability,
        "get_device_name": card.name,
        "is_bf16_supported": True,
        "memory_allocated": 0,
        "max_memory_allocated": 0,
        "mem_get_info": (card.memory, card.memory),
        "get_rng_state": torch.zeros(16, dtype=torch.uint8),
        "set_rng_state": None,
    }
    for name, answer in answers.items():
        _answer(torch.cuda, name, answer)
        if hasattr(CudaInterface, name):
            _answer(CudaInterface, name, answer, static=True)
    for name, answer in (("exchange_device", 0), ("maybe_exchange_device", 0), ("get_raw_stream", 0)):
        _answer(CudaInterface, name, answer, static=True)
    _answer(CudaInterface.Worker, "get_device_properties", properties, static=True)
    _answer(CudaInterface.Worker, "current_device", 0, static=True)
    for name, answer in (("_cuda_getDevice", 0), ("_cuda_setDevice", None), ("_cuda_getCurrentRawStream", 0)):
        _answer(torch._C, name, answer)
    _answer(torch.cuda.random, "get_rng_state", answers["get_rng_state"])
    _answer(torch.cuda.random, "set_rng_state", None)
    _answer(fake_tensor, "init_gpu_context", None)  # it would allocate
    _avoid_guards(fake_tensor.FakeTensor)


def _avoid_guards(fakes: Any) -> None:
    """Two methods of tensors ask the driver for the current device in C++, where nothing can be pretended."""
    get_item, to = torch.Tensor.__getitem__, torch.Tensor.to

    def select(self: torch.Tensor, index: Any) -> torch.Tensor:
        if self.device.type != "cuda":
            return get_item(self, index)
        found, axis = self, 0
        for part in index if isinstance(index, tuple) else (index,):
            if isinstance(part, slice):
                if part != slice(None):
                    start, stop = part.start, part.stop
                    found = torch.ops.aten.slice.Tensor(found, axis, start, stop, 1 if part.step is None else part.step)
                axis += 1
            elif part is None:
                found = found.unsqueeze(axis)
                axis += 1
            elif isinstance(part, torch.Tensor):
                found = torch.ops.aten.index.Tensor(found, [*([None] * axis), part])
                axis += part.ndim
            elif part is Ellipsis:
                raise NotImplementedError(f"index {index} of a pretended GPU's tensor: write it without an ellipsis")
            else:
                found = found.select(axis, part)
        return found

    def move(self: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        return to(
            self, *("cuda:0" if isinstance(value, str) and value == "cuda" else value for value in args), **kwargs
        )

    fakes.__getitem__, fakes.to = select, move


def _pretend_inductor() -> None:
    import torch._inductor.config as inductor
    from torch._inductor.fx_passes import fuse_attention, joint_graph, post_grad
    from torch._inductor.runtime import triton_helpers

    for module in (joint_graph, post_grad):
        _answer(module, "lazy_init", None)
    _answer(fuse_attention, "_sfdp_init", None)
    for name in ("set_driver_to_gpu", "set_driver_to_cpu"):
        _answer(triton_helpers, name, None)
    inductor.compile_threads = 1  # other processes do not pretend
    inductor.use_static_cuda_launcher = False  # it loads kernels by itself


def _answer(owner: Any, name: str, answer: Any, static: bool = False) -> None:
    def ask(*args: object, **kwargs: object) -> Any:
        return answer

    setattr(owner, name, staticmethod(ask) if static else ask)
