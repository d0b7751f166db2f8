"""The fixed words of the tables: what a person clicks, what a column may say."""

STATUSES = ("candidate", "accepted", "rejected", "duplicate")
SPLITS = ("train", "val", "test")
REASONS = ("off_topic", "polished_product", "multiple_objects", "background", "illumination", "overlay", "low_quality")
PAIR_VERDICTS = ("same", "different")  # of two images: whether they are copies of one photograph
NOT_COMPARED = "not compared"  # how the reason of an image begins that the search for copies could not open
VERDICTS = ("accept", "reject", "relabel", "skip", *PAIR_VERDICTS, "undo")
LICENSE_BASES = ("asserted", "filter", "unknown")
