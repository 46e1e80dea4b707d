"""The node: the only floor that knows time, sockets, processes and chance. It carries out what policies decide."""
