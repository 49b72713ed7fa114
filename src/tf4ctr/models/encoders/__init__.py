"""One file an encoder: `encoder(emb_BFD, ids_BF) -> [B, out_features]`."""
