"""One resize: what it returns, the processor leaves alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from data.images import fit, fitted_size, open_image
from pipeline.errors import UserError
from verdict.spec import Pixels

LIMITS = Pixels(min=4096, max=262_144, multiple=32)


@given(st.integers(1, 4000), st.integers(1, 4000))
def test_fitted_sizes_are_multiples_within_the_limits(width, height):
    new_width, new_height = fitted_size(width, height, LIMITS)
    assert new_width % 32 == 0 and new_height % 32 == 0
    if max(width, height) < 50 * min(width, height):  # thinner pictures cannot keep their shape within the limits
        assert LIMITS.min <= new_width * new_height <= LIMITS.max
    assert fitted_size(new_width, new_height, LIMITS) == (new_width, new_height)


def test_the_processor_changes_nothing_after_the_fit(tiny_processor):
    images = tiny_processor.image_processor
    side = images.patch_size
    pixels = Pixels(
        min=images.size["shortest_edge"], max=images.size["longest_edge"], multiple=side * images.merge_size
    )
    for width in range(20, 420, 20):
        for height in range(30, 330, 30):
            picture = fit(Image.new("RGB", (width, height), "teal"), pixels)
            grid = images(images=[picture], return_tensors="pt")["image_grid_thw"][0].tolist()
            assert grid == [1, picture.height // side, picture.width // side]


def test_a_fitting_picture_keeps_its_pixels():
    picture = Image.effect_noise((64, 96), 40).convert("RGB")
    assert fit(picture, LIMITS).tobytes() == picture.tobytes()


def test_open_image_is_upright_rgb(tmp_path):
    turned = Image.new("L", (30, 20))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.jpg", exif=exif)
    opened = open_image(tmp_path / "turned.jpg")
    assert opened.mode == "RGB" and opened.size == (20, 30)


def test_open_image_names_what_it_cannot_read(tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    for file in (broken, tmp_path / "missing.png"):
        with pytest.raises(UserError, match=file.name):
            open_image(file)
