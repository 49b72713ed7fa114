"""How the history of a row becomes an embedding: one class per way."""
