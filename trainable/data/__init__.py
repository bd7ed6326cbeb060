"""From files to batches: the manifest, its checks, the cache of decoded pixels, and generated scenes."""
