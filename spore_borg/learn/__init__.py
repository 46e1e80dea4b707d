"""Absorption: any model becomes a spiking shard of one growing state. docs/internals/absorption.md says how."""
