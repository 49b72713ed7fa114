"""From raw click logs to batches: preparation, vocabulary, schema, stream."""
