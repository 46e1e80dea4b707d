"""The default tasks, their evaluators and their data: a small language model that is trained, a lattice that is read.

``recipe``, ``tasks``, ``harness`` and everything of the lattice are plain Python and numpy and may be imported
anywhere; the other modules need torch and are imported only inside a worker process.
"""
