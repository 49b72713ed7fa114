"""From network, loss and stream to a trained run: the module, its optimiser and its callbacks."""
