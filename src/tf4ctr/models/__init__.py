"""Plain torch: the network, its parts and its losses."""
