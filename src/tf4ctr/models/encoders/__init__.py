"""The encoders, one per file: `encoder(emb_BFD, ids_BW) -> [B, out_features]`."""
