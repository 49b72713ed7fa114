"""The encoders, one per file: `encoder(emb_BFD, x) -> [B, out_features]`."""
