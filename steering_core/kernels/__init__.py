"""Triton kernels that replace parts of the engine's passes on CUDA.

=============== ==========================================================
``attention``   attention under the engine's mask, with a soft-cap
``gated_mlp``   activation(gate) * up of a gated MLP
``log_sum_exp`` scale, soft-cap and log-sum-exp of the head's products
``rms_norm``    a root mean square norm
=============== ==========================================================

Matrix products outside attention stay with cuBLAS. Sums run in float32. Inputs must be bfloat16 or
float16: in float32, Triton's products are TF32, which is too coarse for a float32 run.

Block sizes are fixed and nothing is tuned at run time, so every replica computes the same bits. The
reference, and so the certificate, always runs the model's own code.

Importing this package does not import Triton; only the modules with kernels do.

Why not liger-kernel (0.8.5), which has the norm and the gated product: it lacks the other two (its
cross-entropy takes labels and computes gradients, and it has no attention under a mask), and a bare
GPU machine has Triton, which comes with torch, but not liger-kernel. Its two operations are forty
lines here; there they are made for training, copy strided inputs and keep values for a backward.
"""

from __future__ import annotations

KERNELS = ("attention", "gated_mlp", "log_sum_exp", "rms_norm")
"""Names that ``Engine(kernels=...)`` takes."""
