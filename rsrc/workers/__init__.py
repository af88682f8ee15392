"""Where tensors are worked on: this thread, a thread pool or an executor."""
