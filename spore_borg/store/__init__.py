"""Where a node keeps its records, its blobs and the tables that its pages are read from."""
