"""Options of an ONNX Runtime session and of its CUDA provider."""

from __future__ import annotations

from typing import Any

from engines.onnxruntime.cpu_nodes import RECORD_ASSIGNMENT

_LOG_ERRORS, _LOG_FATAL = 3, 4


def session_options(ort: Any, precision: str, threads: int | None, on_gpu: bool) -> Any:
    """How a graph is optimized and run."""
    options = ort.SessionOptions()
    # The highest level adds layout changes of convolutions for the CPU, which help ResNets in float32. On half-precision graphs
    # it can crash the CPU provider (seen with 1.32), and that provider may be the one that runs when CUDA does not start.
    level = ort.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if precision == "fp32" else level.ORT_ENABLE_EXTENDED
    options.intra_op_num_threads = threads or 0  # 0: one per physical core
    # The memory plan is kept for each shape that was ever run, and texts come in thousands of shapes (rows x length): memory
    # grows by the plans (by a quarter in 1,500 runs of a small tower), and the runs are no faster.
    options.enable_mem_pattern = False
    # Errors come as exceptions. On a GPU they are logged too: why the provider did not start is told nowhere else.
    options.log_severity_level = _LOG_ERRORS if on_gpu else _LOG_FATAL
    if on_gpu:
        options.add_session_config_entry(RECORD_ASSIGNMENT, "1")
    return options


def cuda_options(device_id: int, memory_limit: int, stream: int | None = None, graphs: bool = False) -> dict[str, str]:
    """Options of the CUDA provider.

    Args:
        device_id: which GPU.
        memory_limit: most bytes of its arena.
        stream: handle of the stream that it works in; None leaves it its own, one for each run that is under way.
        graphs: whether runs can be captured.
    """
    options = {
        "device_id": str(device_id),
        # The arena may not grow beyond this, and grows by what is asked for rather than to the next power of two.
        "gpu_mem_limit": str(memory_limit),
        "arena_extend_strategy": "kSameAsRequested",
        # Trying every convolution algorithm takes seconds for each new batch size, and its workspaces stay in the arena.
        "cudnn_conv_algo_search": "HEURISTIC",
        "cudnn_conv_use_max_workspace": "0",
        # On by default: products of float32 with a mantissa of 10 bits. What is in float32 here is so for accuracy.
        "use_tf32": "0",
    }
    if stream is not None:
        options["user_compute_stream"] = str(stream)
    if graphs:
        options["enable_cuda_graph"] = "1"
    return options
