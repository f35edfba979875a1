"""The test files that take longest."""

from __future__ import annotations

# The files that take longest, in that order, for several workers: one that began such a file last would work on it while the others
# have nothing left. Two that need the same fixture of `made_once` do not follow each other, because one worker would wait for it.
LONGEST = (
    "exporter/test_gpu_code",
    "engines/test_aotinductor_cpp",
    "exporter/test_int8_export",
    "benchmarks/test_runbook",
    "exporter/test_aotinductor",
    "benchmarks/test_suite",
    "exporter/test_pipeline",
    "exporter/test_towers",
    "exporter/test_tensorrt_build",
    "exporter/test_quantize",
    "engines/test_broken_libraries",
    "exporter/test_float64_gate",
    "benchmarks/test_throughput",
    "exporter/test_broken_at_export",
    "docs/test_commands",
    "kernels/test_attention_interpreted",
    "exporter/test_tensorrt_options",
    "exporter/test_precision",
    "exporter/test_source_random_weights",
    "benchmarks/test_parity",
)
