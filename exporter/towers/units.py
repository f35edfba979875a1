"""Units of mixed precision: the parts of a tower whose dtype can be chosen one by one.

A tower is a stem, blocks and a head. The tensor that passes between them is the *stream* (in a transformer, the residual stream).
A unit reads the stream, computes in its own dtype and returns the stream's dtype, so that one branch that overflows in float16
can stay in float32 without an effect on its neighbours. `exporter.precision.precisions` sets the dtypes, and
`exporter.precision.probe` chooses them.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn


class Unit(nn.Module):
    """The base class of all modules that read or write the stream.

    Attributes:
        compute_dtype: the dtype of the unit's weights and arithmetic.
        stream_dtype: the dtype of the unit's output.
    """

    compute_dtype: torch.dtype = torch.float32
    stream_dtype: torch.dtype = torch.float32

    def entry(self) -> nn.Module | None:
        """Return the module that reads the stream before it is rounded to `compute_dtype`: a norm, or None without one."""
        return None

    @property
    def entry_dtype(self) -> torch.dtype:
        """The entry's dtype: float32 if the stream or the unit is float32, because a norm may bring large values into range."""
        dtypes = (self.compute_dtype, self.stream_dtype)
        return torch.float32 if torch.float32 in dtypes else self.compute_dtype

    def set_dtypes(self, compute: torch.dtype, stream: torch.dtype) -> None:
        """Set the dtypes of computation and output, and convert the unit's weights."""
        self.compute_dtype, self.stream_dtype = compute, stream
        self.plan_dtypes(compute, stream)
        for child in self.children():
            child.to(self.entry_dtype if child is self.entry() else compute)
        for parameter in self.parameters(recurse=False):
            parameter.data = parameter.data.to(compute)
        for name, buffer in self.named_buffers(recurse=False):
            if buffer.is_floating_point():
                setattr(self, name, buffer.to(compute))

    def plan_dtypes(self, compute: torch.dtype, stream: torch.dtype) -> None:
        """Set the dtypes without converting weights, for a unit that shares converted weights."""
        self.compute_dtype, self.stream_dtype = compute, stream

    def enter(self, x: torch.Tensor) -> torch.Tensor:
        """Pass the stream through the entry norm, and convert it to `compute_dtype`."""
        module = self.entry()
        if module is not None:
            x = module(x.to(self.entry_dtype))
        return x.to(self.compute_dtype)


class Residual(Unit):
    """One residual branch: ``x + after(body(norm(x)))``.

    `forward` takes the stream (N, L, C) and, where the body attends with a mask, that mask. With a body whose output is for the
    first token only (`exporter.towers.blocks.FirstTokenAttention`) the result is (N, 1, C).
    """

    def __init__(self, norm: nn.Module | None, body: nn.Module, after: nn.Module | None = None) -> None:
        super().__init__()
        self.norm, self.body, self.after = norm, body, after

    def entry(self) -> nn.Module | None:
        """Return the branch's pre-norm."""
        return self.norm

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Add the branch to the stream."""
        h = self.enter(x)
        y = self.body(h) if mask is None else self.body(h, mask)
        if self.after is not None:
            y = self.after(y)
        if y.shape[1] != x.shape[1]:
            x = x[:, : y.shape[1]]
        return x + y.to(self.stream_dtype)


class PostNormResidual(Unit):
    """One residual branch of BERT's kind: ``norm(x + body(x))``; the norm computes in the stream's dtype."""

    def __init__(self, body: nn.Module, norm: nn.Module) -> None:
        super().__init__()
        self.body, self.norm = body, norm

    def set_dtypes(self, compute: torch.dtype, stream: torch.dtype) -> None:
        """Set the dtypes as the base class does, but convert the norm to the stream's dtype."""
        super().set_dtypes(compute, stream)
        self.norm.to(stream)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Add the branch to the stream and normalize."""
        h = self.enter(x)
        y = self.body(h) if mask is None else self.body(h, mask)
        return self.norm(x + y.to(self.stream_dtype))


class Whole(Unit):
    """A module that is one unit as it is: convolutional blocks, stages, and image towers without a family."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Run the module; of several outputs the first is the embedding."""
        y = self.module(self.enter(x))
        return (y[0] if isinstance(y, (tuple, list)) else y).to(self.stream_dtype)


class Block(nn.Module):
    """A transformer block: an attention branch and an MLP branch, each a unit."""

    def __init__(self, attention: Unit, mlp: Unit) -> None:
        super().__init__()
        self.attention, self.mlp = attention, mlp

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Run both branches on the stream."""
        return self.mlp(self.attention(x) if mask is None else self.attention(x, mask))


class Encoder(nn.Module):
    """Stem, blocks and head. `stem` returns the stream, or the stream and an attention mask; `head` returns (N, D)."""

    def __init__(self, stem: nn.Module, blocks: list[nn.Module], head: nn.Module) -> None:
        super().__init__()
        self.stem, self.blocks, self.head = stem, nn.ModuleList(blocks), head

    def units(self) -> Iterator[tuple[str, Unit]]:
        """Yield every unit with its name (``stem``, ``blocks.3.mlp``, ``head``), in the order of the data."""
        for name, module in self.named_modules():
            if isinstance(module, Unit):
                yield name, module

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Encode normalized pixels (N, 3, H, W) or ids (N, L) to embeddings (N, D) that are not yet normalized."""
        raise NotImplementedError


class ImageEncoder(Encoder):
    """An encoder of images, without masks."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Encode normalized pixels (N, 3, H, W)."""
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        y: torch.Tensor = self.head(x)
        return y


class TextEncoder(Encoder):
    """An encoder of token ids. `stem` returns the stream and a boolean mask (or None); `head` also reads the ids."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Encode ids (N, L)."""
        ids = x
        x, mask = self.stem(ids)
        for block in self.blocks:
            x = block(x, mask)
        y: torch.Tensor = self.head(x, ids)
        return y
