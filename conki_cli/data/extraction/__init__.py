"""Features of sound and faces from videos: decoding, extractors, processes, cache."""
