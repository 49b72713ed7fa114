"""A network, a loss and a stream of batches -> a trained run: the module, its optimiser and callbacks."""
