"""ONNX Runtime's real CUDA provider without a GPU: CUDA's libraries are replaced by small ones that compute nothing.

`libraries` compiles them for the provider library of an installed onnxruntime-gpu: a driver and a runtime over host memory
(``driver.cpp`` with ``memory.cpp``, ``streams.cpp`` and ``log.cpp``; ``cudart.cpp``), and cuBLAS and cuDNN whose calls succeed and
do nothing. Every call that allocates, copies, waits or launches is written to a log, which `log` reads. A child process (`worker`)
loads these libraries in place of NVIDIA's and runs this project's own towers in the real provider (`scenarios`), through NVIDIA's
own bindings for Python.

Such a run shows which calls of CUDA are made, and in which order. It shows no embeddings and no times.
"""
