"""One resize: what it returns, the processor leaves alone."""

import io

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from spatial_edit_reward.errors import UserError
from spatial_edit_reward.images import as_rgb, encode, fit, fitted_size, open_image, read_picture
from spatial_edit_reward.spec import Pixels

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


def test_qwen3_vls_processor_changes_nothing_at_200_random_sizes(tiny_processor):
    """At the 8B's patches and a limit of its order; what the processor resizes itself gives the same as no resize at all."""
    sizes = np.random.default_rng(0).integers(16, 1400, (200, 2)).tolist()
    pixels = Pixels(min=4096, max=100_352, multiple=32)
    limits = {"shortest_edge": pixels.min, "longest_edge": pixels.max}
    images = type(tiny_processor.image_processor)(patch_size=16, merge_size=2, temporal_patch_size=2, size=limits)
    noise = Image.effect_noise((350, 350), 60).convert("RGB")
    for width, height in sizes:
        picture = fit(noise.resize((width, height)), pixels)
        assert picture.size == fitted_size(width, height, pixels)
        made = images(images=[picture], return_tensors="pt")
        assert made["image_grid_thw"][0].tolist() == [1, picture.height // 16, picture.width // 16]
        untouched = images(images=[picture], do_resize=False, return_tensors="pt")
        assert torch.equal(made["pixel_values"], untouched["pixel_values"])


def test_as_rgb_lays_transparency_on_white_and_scales_16_bits():
    assert as_rgb(Image.new("RGBA", (2, 2), (0, 0, 0, 0))).getpixel((0, 0)) == (255, 255, 255)
    assert as_rgb(Image.new("LA", (2, 2), (0, 255))).getpixel((0, 0)) == (0, 0, 0)
    deep = Image.fromarray(np.full((2, 2), 0x8000, dtype=np.uint16))
    assert as_rgb(deep).getpixel((0, 0)) == (128, 128, 128)
    assert as_rgb(Image.new("CMYK", (2, 2), (0, 0, 0, 0))).getpixel((0, 0)) == (255, 255, 255)


def test_only_bytes_that_hold_just_these_pixels_are_kept(tmp_path):
    picture = Image.effect_noise((64, 96), 40).convert("RGB")
    exif = picture.getexif()
    exif[0x0112] = 3
    files = {
        "plain.png": ({}, True),
        "plain.jpg": ({}, True),
        "turned.jpg": ({"exif": exif}, False),
        "moving.webp": ({"save_all": True, "append_images": [picture.rotate(180)]}, False),
    }
    for name, (options, kept) in files.items():
        picture.save(tmp_path / name, **options)
        found, content, as_it_is = read_picture(tmp_path / name)
        assert as_it_is == kept and content == (tmp_path / name).read_bytes()
        if kept:
            assert Image.open(tmp_path / name).tobytes() == found.tobytes()


def test_png_is_lossless_and_jpeg_near():
    picture = Image.effect_noise((64, 96), 40).convert("RGB")
    assert Image.open(io.BytesIO(encode(picture, "png"))).tobytes() == picture.tobytes()
    lossy = np.asarray(Image.open(io.BytesIO(encode(picture, "jpeg"))), float)
    assert 0 < np.abs(lossy - np.asarray(picture, float)).mean() < 4


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
