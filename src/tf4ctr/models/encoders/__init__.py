"""One file an encoder: `encoder(emb_BFD, ids_BW) -> [B, out_features]`."""
