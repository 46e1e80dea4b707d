"""Training-free conversion into spiking networks, and running them; the modules say which part is theirs."""
