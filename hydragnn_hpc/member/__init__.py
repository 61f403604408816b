"""One member: a network, its training, and the worker process that runs it."""
