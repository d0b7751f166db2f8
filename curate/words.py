"""The fixed words of the tables: what a person clicks, what a column may say."""

STATUSES = ("candidate", "accepted", "rejected", "duplicate")
SPLITS = ("train", "val", "test")
REASONS = ("off_topic", "polished_product", "multiple_objects", "background", "illumination", "overlay", "low_quality")
VERDICTS = ("accept", "reject", "relabel", "skip", "undo")
LICENSE_BASES = ("asserted", "filter", "unknown")
