"""The architecture as a table: which room of a package may import which. `test_borders.py` holds the code to it.

A room is a folder of a package, or a module beside the folders. Data flows from the top of a table to its bottom, and imports
point upwards only: a room may import rooms above it, and `*` stands for all of those. An arrow that no module uses is an error,
too, so that the table is never wider than the code. Modules that are imported by their names
in tables (`engines.engine_kinds`, the commands of a package, the steps of a suite) are not arrows: they are imported when they are
needed.
"""

from __future__ import annotations

# Package to the packages of ours that it may import.
PACKAGES = {
    "kernels": "",
    "engines": "",
    "exporter": "engines kernels",
    "benchmarks": "engines exporter kernels",
}

ROOMS = {
    "engines": {
        # What everything stands on: no file and no library is opened here.
        "errors": "",
        "engine_kinds": "",
        "precisions": "",
        "process": "",
        # The bundle: files, the typed manifest, and whether the files are the written ones.
        "files": "errors process",
        "schema": "engine_kinds precisions",
        "manifest": "errors files schema",
        "bundle_files": "errors files engine_kinds manifest",
        # A bundle on the Hugging Face hub becomes a folder.
        "hub": "bundle_files errors files manifest process",
        # Callers' images and texts become pixels and ids.
        "inputs": "errors files manifest process",
        # Engines: the GPU, the two libraries that need a room of their own, and one runtime for each kind.
        "device": "errors process",
        "onnxruntime": "device errors files manifest",
        "tensorrt": "device errors files engine_kinds manifest process",
        "runtimes": "bundle_files device errors files inputs engine_kinds manifest onnxruntime process tensorrt",
        # Pixels and ids become embeddings; shards of inputs become shards of embeddings; the bundle's own samples prove it; the
        # command line.
        "embedder": "bundle_files device errors files inputs manifest process runtimes",
        "shards": "errors files inputs manifest process",
        "bulk": "embedder errors files inputs manifest process shards",
        "ray": "bulk embedder errors files manifest process shards",
        "verification": "bundle_files errors files inputs manifest runtimes schema",
        "__init__": "embedder errors hub inputs manifest runtimes tensorrt",
        # What a job of embeddings has written is searched, shown, and handed to other libraries.
        "search": "bulk errors files inputs manifest process shards",
        "sentence_transformers": "__init__ errors files hub manifest",
        "commands": "__init__ bulk bundle_files embedder engine_kinds errors files hub inputs manifest process ray runtimes search "
        "shards verification",
        "__main__": "errors hub process",
    },
    "exporter": {
        # What everything stands on.
        "errors": "",
        "memory": "",
        "child_process": "",
        "versions": "",
        "stages": "memory",
        "standard_output": "",
        "requirements": "errors",
        "options": "errors",
        # A name becomes a loaded open_clip model, with preprocessing and tokenizer as plain data.
        "weights": "errors",
        "source": "errors weights",
        # The model becomes modules that trace clean, in a precision.
        "towers": "options",
        "precision": "towers",
        "quantization": "errors precision towers",
        # Eager's answers, and data to calibrate and to judge with.
        "demo": "",
        "reference": "errors memory source",
        "datasets": "demo errors reference",
        # Finished bundles in the files of other libraries.
        "layouts": "errors reference requirements standard_output",
        # Modules become graphs and programs.
        "graphs": "errors options quantization towers",
        "aotinductor": "child_process errors memory stages towers",
        "exported_tower": "aotinductor graphs precision quantization reference",
        # Graphs and programs become engines.
        "tensorrt": "child_process errors memory options",
        "builders": "aotinductor options errors exported_tower memory precision stages tensorrt",
        # What this machine can build and run.
        "doctor": "aotinductor builders errors memory options reference requirements source tensorrt",
        # Engines against eager: the verdict; then the bundle's folder.
        "gate": "builders datasets errors exported_tower graphs memory precision quantization reference source stages",
        "bundle": "errors",
        # A finished bundle on the Hugging Face hub.
        "publishing": "errors requirements source standard_output",
        # The whole way, and the commands.
        "tower_export": "*",
        "request": "builders bundle datasets errors gate layouts options precision reference source stages",
        # What an export would do and need.
        "planning": "builders bundle errors layouts memory options reference request source stages standard_output weights",
        "export_result": "errors",
        "pipeline": "*",
        "__init__": "errors options pipeline source",
        "__main__": "doctor errors gate options pipeline planning publishing requirements source stages standard_output",
        "convert_checkpoint": "errors requirements standard_output weights",
    },
    "benchmarks": {
        # Rows, and what is measured.
        "records": "",
        "workloads": "",
        # One file for each competitor; passes in which they take turns.
        "contenders": "records workloads",
        "harness": "contenders records workloads",
        "throughput": "contenders harness records workloads",
        # The hardware's ceilings, and single kernels.
        "ceilings": "harness records throughput",
        "kernel_timing": "harness records workloads",
        "kernel_ops": "ceilings kernel_timing records throughput",
        "kernels_static": "records",
        # Accuracy.
        "accuracy": "records",
        "parity": "accuracy records",
        # Exports of many architectures, and their cost.
        "cold_start": "harness records",
        "cpp_library": "harness records workloads",
        "decoding": "harness records workloads",
        "peers": "cpp_library harness records workloads",
        "bulk": "harness records",
        "zoo": "records workloads",
        "roofline": "records workloads",
        # Lists of all these measurements, and rows that come back from other machines.
        "suites": "contenders harness kernel_ops records throughput workloads",
        "suite": "harness records suites",
        "gather": "records suites",
        # Rows become tables, charts and verdicts.
        "reporting": "records",
        "regression": "records reporting",
        "report": "records reporting workloads",
        "tables": "records reporting",
        "compare": "records regression",
        "demo": "harness",
        "__init__": "",
        "__main__": "",
    },
}
