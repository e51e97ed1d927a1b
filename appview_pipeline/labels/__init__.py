"""Labels: the streams of labelers, the label service of this index, definitions, and the label feed."""
