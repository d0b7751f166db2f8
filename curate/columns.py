"""What the columns of a manifest are: their types, meanings and fixed words."""

import re
from typing import Literal, NamedTuple

from curate.words import LICENSE_BASES, SPLITS, STATUSES


class Column(NamedTuple):
    """What a manifest column holds."""

    kind: Literal["text", "integer", "number"]
    meaning: str
    values: tuple[str, ...] = ()


COLUMNS = {
    # identity
    "image_id": Column("text", "first 16 hex digits of sha256; the key"),
    "sha256": Column("text", "of the bytes as they came"),
    "file_name": Column("text", "relative to the data root, with forward slashes"),
    "label": Column("text", "the class it was searched under, or was relabelled to"),
    # picture
    "width": Column("integer", "pixels, upright (EXIF orientation applied)"),
    "height": Column("integer", "pixels, upright"),
    "format": Column("text", "what the bytes are, whatever the suffix said: JPEG, PNG, WEBP, GIF, BMP, TIFF"),
    "bytes": Column("integer", "size of the file"),
    "phash": Column("text", "perceptual hash of imagehash, 16 hex digits; of a large JPEG up to 2 bits from it"),
    "sharpness": Column("number", "standard deviation of the Laplacian at 120 pixels (shorter side), grey levels"),
    "brightness": Column("number", "mean grey level, 0 (black) to 255"),
    "contrast": Column("number", "standard deviation of the grey levels, 0 to 127.5"),
    "entropy": Column("number", "of the histogram of the grey levels, bits, 0 (one level) to 8"),
    "aspect_ratio": Column("number", "longer over shorter side, 1 or more"),
    # provenance
    "source": Column("text", "the source's name: bing, google, openverse, ..., contributed"),
    "query": Column("text", "what was asked"),
    "rank": Column("integer", "position in the answers to the query, from 1"),
    "url": Column("text", "where the bytes came from"),
    "page_url": Column("text", "the page that shows the image"),
    "title": Column("text", "as the source gave it: untrusted text"),
    "creator": Column("text", "as the source gave it: untrusted text"),
    "license": Column("text", "its SPDX id where it is recognised; of a search filter, what it asked for"),
    "license_url": Column("text", "as the source gave it"),
    "license_basis": Column("text", "who says so: the source asserts it, a search filter implies it", LICENSE_BASES),
    "attribution": Column("text", "the credit line to print"),
    "fetched_at": Column("text", "UTC, ISO 8601"),
    # curation
    "status": Column("text", "what became of it", STATUSES),
    "reason": Column("text", "why it is out, or how the best copy was chosen"),
    "duplicate_of": Column("text", "image_id of the copy that stays"),
    "label_conflict": Column("text", "image_id of a copy under another class: for a person to settle"),
    "reviewer": Column("text", "who decided"),
    "reviewed_at": Column("text", "UTC, ISO 8601"),
    "balance_round": Column("integer", "which balance first saw the image; 0: it came before any"),
    # audit
    "background_kind": Column(
        "text", "what surrounds the specimen", ("white", "black", "plain", "natural", "cluttered", "none")
    ),
    "background_share": Column("number", "share of the pixels outside the foreground, 0 to 1"),
    "background_uniformity": Column("number", "share of the border within CIE76 5 of its median colour, 0 to 1"),
    "background_chroma": Column("number", "chroma of the median colour of the border, CIE a*b* units"),
    "background_texture": Column("number", "probability that the background is natural or cluttered, 0 to 1"),
    "background_fill": Column("number", "probability that the surface fills the frame, 0 to 1"),
    "foreground_confidence": Column("number", "how far the foreground mask can be trusted, 0 to 1"),
    "illumination_highlight": Column("number", "95th percentile of the largest of R, G and B, 0 to 255"),
    "illumination_brightness": Column("number", "mean CIE L* of the foreground, 0 to 100"),
    "illumination_dark_share": Column("number", "share of foreground pixels with L* < 10"),
    "illumination_bright_share": Column("number", "share of foreground pixels with L* > 97"),
    "illumination_clipped": Column("number", "share of clipped pixels in the foreground and where there is texture"),
    "illumination_unevenness": Column("number", "deviation of the foreground's lightness after a wide blur, L* units"),
    "illumination_vignetting": Column("number", "by how much the light falls off to the corners, stops"),
    "illumination_slope": Column("number", "by how much the light falls off to one side, stops over half a diagonal"),
    "illumination_cast": Column(
        "number", "chroma that specimen and background share, CIE a*b* units; 0 where no lamp explains it"
    ),
    "illumination_white_point": Column(
        "number", "from the lightest red, green and blue to a neutral white, stops; 0 as above"
    ),
    "illumination_fault": Column("number", "probability that the lighting is at fault, 0 to 1"),
    "object_count": Column("text", "specimens in the picture", ("0", "1", "2-4", "many", "fill")),
    "object_components": Column("integer", "separate foreground regions of at least 1 % of the frame"),
    "object_multiple": Column("number", "probability that there are several objects, 0 to 1"),
    "object_repeats": Column("number", "how well the picture fits itself a fifth of the frame or more away, 0 to 1"),
    "quality_sharpness": Column("number", "standard deviation of the Laplacian at 256 pixels, grey levels"),
    "quality_short_side": Column("integer", "shorter side of the file, pixels"),
    "quality_blur": Column("number", "standard deviation of the blur of the sharper edges, pixels of the file"),
    "quality_blockiness": Column("number", "steps across the borders of JPEG blocks, as a multiple of those inside"),
    "overlay_text": Column("number", "probability that the picture carries lettering, 0 to 1"),
    "overlay_watermark": Column("number", "probability that the picture carries a watermark or a logo, 0 to 1"),
    "overlay_text_share": Column("number", "share of the frame covered by text-like strokes on calm ground"),
    "off_topic": Column("number", "probability that no specimen is shown but scenery, people, products, 0 to 1"),
    "polished_product": Column("number", "probability that it is worked: a polished slab, a counter top, 0 to 1"),
    "low_quality": Column("number", "probability that it is rejected as tiny, blurred or compressed, 0 to 1"),
    "reject_prior": Column("number", "probability that one who wants pictures of single specimens rejects it, 0 to 1"),
    "audit_error": Column("text", "why the image could not be measured"),
    "cam_background_energy": Column("number", "share of the heatmap's energy outside the foreground, 0 to 1"),
    "cam_peak_distance": Column("number", "from the heatmap's peak to the frame's centre, 1 = a corner"),
    "cam_predicted_background_energy": Column("number", "the same of the heatmap of the class that is predicted"),
    "predicted": Column("text", "class by a model that has not seen this image (out of fold)"),
    "label_probability": Column("number", "that model's probability of the given label"),
    "reject_probability": Column("number", "that this reviewer would reject it; missing before there are decisions"),
    "reject_reason": Column("text", "the likeliest reason, were it rejected"),
    "suspicion": Column("number", "order of the review queue, 0 to 1"),
    "flags": Column("text", "measure=value (threshold), separated by '; '"),
    # training
    "split": Column("text", "part of the data set; missing for what is not used", SPLITS),
}
REQUIRED = ("image_id", "file_name", "label")
FORMULA = re.compile(r"^'*[=+\-@\t\r]")  # text that a spreadsheet would run
