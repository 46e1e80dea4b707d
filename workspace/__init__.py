"""The default tasks: a small language model, its trainer, its evaluator and its data.

``recipe``, ``tasks`` and ``harness`` are plain Python and may be imported anywhere; the other modules need
torch and are imported only inside a worker process.
"""
