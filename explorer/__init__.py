"""The explorer: pages as values, over the node's tables opened read-only. No request can slow the node."""
