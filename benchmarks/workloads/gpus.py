"""The highest rates of GPUs by their vendor's data sheets: the ceilings of predictions.

Rates are dense (without structured sparsity; where a data sheet states the sparse rate only, half of it), with float32
accumulation for float16, bfloat16 and float8. GeForce cards are twice as fast with float16 accumulation, at a loss of accuracy.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class GpuCeiling:
    """One GPU.

    Attributes:
        name: as the tables call it.
        half: TFLOP/s of float16 and bfloat16 matrix products.
        int8: TOP/s.
        fp8: TFLOP/s; None where there are no such units.
        bandwidth: bandwidth of device memory, TB/s.
        source: the data sheet.
    """

    name: str
    half: float
    int8: float
    fp8: float | None
    bandwidth: float
    source: str


GPUS = {
    gpu.name: gpu
    for gpu in (
        GpuCeiling("A100 40GB", 312, 624, None, 1.555, "NVIDIA A100 Tensor Core GPU data sheet, SXM4 40 GB"),
        GpuCeiling("A100 80GB", 312, 624, None, 2.039, "NVIDIA A100 Tensor Core GPU data sheet, SXM4 80 GB"),
        GpuCeiling("H100", 989.4, 1978.9, 1978.9, 3.35, "NVIDIA H100 Tensor Core GPU data sheet, SXM5"),
        GpuCeiling("H200", 989.4, 1978.9, 1978.9, 4.8, "NVIDIA H200 Tensor Core GPU data sheet, SXM"),
        GpuCeiling("L4", 121, 242.5, 242.5, 0.3, "NVIDIA L4 Tensor Core GPU data sheet"),
        GpuCeiling("L40S", 362.05, 733, 733, 0.864, "NVIDIA L40S data sheet"),
        GpuCeiling("RTX 4090", 165.2, 660.6, 330.3, 1.008, "NVIDIA Ada GPU architecture white paper, appendix A"),
        GpuCeiling("RTX 5090", 209.5, 838, 419, 1.792, "NVIDIA RTX Blackwell GPU architecture white paper, appendix A"),
    )
}
