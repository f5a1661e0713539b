"""The feature store: one HDF5 file per data set, ragged, nothing padded.

Layout of schema 1, for each split `train`, `valid`, `test`:
    ids, texts          [N] variable-length UTF-8
    scores              [N] float32; `scores_text`, `scores_vision`, `scores_audio` likewise where the data set has them
    vision, audio       groups with `frames` [T, d] float32 (all clips back to back) and `offsets` [N + 1] int64
The root's attributes hold the schema version, data set, score range, widths, source, counts of repairs, notes (the
warnings), `report` (everything that `conki prepare` reported), `normalization` and `content_id`, the SHA-256 over every
column and frame: equal clips have an equal id, from whatever file they came. For z-scores,
`normalization/<modality>/mean` and `sd` [d] float64 are stored. Stores from before 0.2 have neither `report` nor
`normalization`.

Axes: N clips of a split, L frames of a clip, T frames of all clips, d features per frame.
"""
