"""Pictures with boxes and verdicts beside them, as self-contained HTML: for rollout samples and for reports."""

from gallery.page import Card, drawable_boxes, render_page
from rewards_fn.pictures import FOUND_COLOUR, TRUE_COLOUR, Outline, data_uri, with_boxes

__all__ = ["FOUND_COLOUR", "TRUE_COLOUR", "Card", "Outline", "data_uri", "drawable_boxes", "render_page", "with_boxes"]
