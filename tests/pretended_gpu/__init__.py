"""Code generation for GPUs that are not there: whole towers go through the exporter's own worker to AOTInductor's packages.

A child process (`worker`) pretends that a card is here (`device`, `inductor`), makes programs of shallow towers (`cases`) and
compiles them as the exporter does. What comes out is a package with everything but machine code for the host: generated C++
(`code` reads it), and the kernels' machine code for the card (`sass`). No kernel ever runs.
"""
