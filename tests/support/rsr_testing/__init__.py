"""What several test modules share: checkpoints, matrices, models and damaged files."""

import os

# Before NumPy is imported: the workers of pytest-xdist occupy all processors, and the threads of a
# BLAS would mostly wait for each other.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
