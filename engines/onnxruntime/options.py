"""Options of an ONNX Runtime session and of its CUDA provider."""

from __future__ import annotations

from typing import Any

from engines.onnxruntime.cpu_nodes import RECORD_ASSIGNMENT

_LOG_ERRORS, _LOG_FATAL = 3, 4


def session_options(ort: Any, precision: str, threads: int | None, on_gpu: bool) -> Any:
    """Options of a session: optimization, threads, memory and logs."""
    options = ort.SessionOptions()
    # The highest level adds layout changes of convolutions for the CPU, which help ResNets in float32. On half-precision graphs
    # it can crash the CPU provider (seen with 1.32), which may also run such graphs, namely when CUDA does not start.
    level = ort.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if precision == "fp32" else level.ORT_ENABLE_EXTENDED
    options.intra_op_num_threads = threads or 0  # 0: one per physical core
    # With memory plans, one is kept for each shape that was ever run, and texts come in thousands of shapes (rows x length):
    # memory grows by the plans (by a quarter in 1,500 runs of a small tower), and the runs are no faster.
    options.enable_mem_pattern = False
    # Errors are exceptions. On a GPU they are logged too, because only the log has the reason why the provider did not start.
    options.log_severity_level = _LOG_ERRORS if on_gpu else _LOG_FATAL
    if on_gpu:
        options.add_session_config_entry(RECORD_ASSIGNMENT, "1")
    return options


def cuda_options(device_id: int, memory_limit: int, stream: int | None = None, graphs: bool = False) -> dict[str, str]:
    """Options of the CUDA provider.

    Args:
        device_id: the GPU's number.
        memory_limit: largest number of bytes in the provider's arena.
        stream: handle of the stream in which the provider works; None: its own streams, one for each concurrent run.
        graphs: whether runs can be captured.
    """
    options = {
        "device_id": str(device_id),
        # The arena does not grow beyond this limit, and grows by the requested size rather than to the next power of two.
        "gpu_mem_limit": str(memory_limit),
        "arena_extend_strategy": "kSameAsRequested",
        # Trying every convolution algorithm takes seconds for each new batch size, and its workspaces stay in the arena.
        "cudnn_conv_algo_search": "HEURISTIC",
        "cudnn_conv_use_max_workspace": "0",
        # TF32 is on by default: products of float32 with a mantissa of 10 bits. It is off here because units are in float32 for
        # accuracy.
        "use_tf32": "0",
    }
    if stream is not None:
        options["user_compute_stream"] = str(stream)
    if graphs:
        options["enable_cuda_graph"] = "1"
    return options
