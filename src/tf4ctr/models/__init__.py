"""The network, its parts and its losses, in plain torch."""
