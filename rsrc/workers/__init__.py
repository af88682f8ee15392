"""Where tensors are processed: in this thread, in a thread pool, or by an executor such as Dask."""
