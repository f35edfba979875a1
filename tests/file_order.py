"""The test files that take longest."""

from __future__ import annotations

# The files that take longest, in that order, for several workers: one that began such a file last would work on it while the others
# have nothing left. Two that need the same fixture of `made_once` do not follow each other, because one worker would wait for it.
LONGEST = (
    "exporter/test_tensorrt_build",
    "exporter/test_towers",
    "benchmarks/test_runbook",
    "exporter/test_pipeline",
    "exporter/test_int8_export",
    "benchmarks/test_suite",
    "engines/test_aotinductor_cpp",
    "exporter/test_gpu_code",
    "exporter/test_quantize",
    "benchmarks/test_throughput",
    "exporter/test_tensorrt_options",
    "kernels/test_attention_interpreted",
    "exporter/test_aotinductor",
    "exporter/test_precision",
    "exporter/test_float64_gate",
    "exporter/test_checkpoints",
    "exporter/test_source_random_weights",
    "docs/test_commands",
    "engines/test_broken_libraries",
    "benchmarks/test_parity",
)
