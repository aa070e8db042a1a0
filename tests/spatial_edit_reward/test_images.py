"""One resize: what it returns, the processor leaves alone."""

import io
import random
import struct
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from spatial_edit_reward.errors import UserError
from spatial_edit_reward.images import ImageError, as_rgb, encode, fit, fitted_size, open_image, read_image
from spatial_edit_reward.spec import Pixels

LIMITS = Pixels(min=4096, max=262_144, multiple=32)


@given(st.integers(1, 20_000), st.integers(1, 20_000))
@example(20_000, 8)  # a strip: its short side would round to nothing
@example(8, 20_000)
@example(6432, 32)  # within the area, and thinner than the processor takes
@example(50, 40)  # under the lower limit
def test_fitted_sizes_are_multiples_within_the_limits(width, height):
    new_width, new_height = fitted_size(width, height, LIMITS)
    assert new_width % 32 == 0 and new_height % 32 == 0
    assert LIMITS.min <= new_width * new_height <= LIMITS.max
    assert max(new_width, new_height) <= 200 * min(new_width, new_height)
    assert fitted_size(new_width, new_height, LIMITS) == (new_width, new_height)


@pytest.mark.parametrize(
    ("size", "fitted"),
    [
        ((512, 512), (512, 512)),  # as it is
        ((500, 300), (512, 288)),  # rounded
        ((2000, 1000), (704, 352)),  # over: scaled down, rounded down
        ((50, 40), (96, 64)),  # under: scaled up, rounded up
        ((4000, 40), (4000, 32)),  # a strip within the limits
        ((9000, 40), (6400, 32)),  # one that is not: its long side is cut
        ((40, 9000), (32, 6400)),
    ],
)
def test_fitted_sizes_by_hand(size, fitted):
    assert fitted_size(*size, LIMITS) == fitted


def test_ordinary_images_get_the_size_of_qwens_processor():
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

    for width, height in np.random.default_rng(0).integers(32, 3000, (2000, 2)).tolist():
        if max(width, height) <= 100 * min(width, height):
            height_width = smart_resize(height, width, factor=32, min_pixels=LIMITS.min, max_pixels=LIMITS.max)
            assert fitted_size(width, height, LIMITS) == height_width[::-1]


def test_an_image_is_resized_as_the_processor_would(tiny_processor):
    """Bicubic, as in serving without this library: the two differ by rounding, and from bilinear by much more."""
    images = tiny_processor.image_processor
    pixels = Pixels(min=images.size["shortest_edge"], max=images.size["longest_edge"], multiple=16)
    noise = Image.effect_noise((200, 120), 80).convert("RGB")

    def values(image):
        return images(images=[image], return_tensors="pt")["pixel_values"]

    expected = values(noise)
    fitted = fit(noise, pixels)
    bilinear = noise.resize(fitted.size, Image.Resampling.BILINEAR)
    ours, other = ((values(image) - expected).abs().mean().item() for image in (fitted, bilinear))
    assert ours < 0.01 < 5 * ours + 0.01 < other


def test_the_processor_changes_nothing_after_the_fit(tiny_processor):
    images = tiny_processor.image_processor
    side = images.patch_size
    pixels = Pixels(
        min=images.size["shortest_edge"], max=images.size["longest_edge"], multiple=side * images.merge_size
    )
    for width in range(20, 420, 20):
        for height in range(30, 330, 30):
            image = fit(Image.new("RGB", (width, height), "teal"), pixels)
            grid = images(images=[image], return_tensors="pt")["image_grid_thw"][0].tolist()
            assert grid == [1, image.height // side, image.width // side]


def test_qwen3_vls_processor_changes_nothing_at_200_random_sizes(tiny_processor):
    """At the 8B's patches and a limit of its order; what the processor resizes itself gives the same as no resize at all."""
    import torch

    sizes = np.random.default_rng(0).integers(16, 1400, (200, 2)).tolist()
    pixels = Pixels(min=4096, max=100_352, multiple=32)
    limits = {"shortest_edge": pixels.min, "longest_edge": pixels.max}
    images = type(tiny_processor.image_processor)(patch_size=16, merge_size=2, temporal_patch_size=2, size=limits)
    noise = Image.effect_noise((350, 350), 60).convert("RGB")
    fitted = [fit(noise.resize((width, height)), pixels) for width, height in sizes]
    assert [image.size for image in fitted] == [fitted_size(width, height, pixels) for width, height in sizes]
    for start in range(0, len(fitted), 50):
        batch = fitted[start : start + 50]
        resized = images(images=batch, return_tensors="pt")
        assert resized["image_grid_thw"].tolist() == [[1, image.height // 16, image.width // 16] for image in batch]
        untouched = images(images=batch, do_resize=False, return_tensors="pt")
        assert torch.equal(resized["pixel_values"], untouched["pixel_values"])


def test_as_rgb_lays_transparency_on_white_and_scales_16_bits():
    assert as_rgb(Image.new("RGBA", (2, 2), (0, 0, 0, 0))).getpixel((0, 0)) == (255, 255, 255)
    assert as_rgb(Image.new("LA", (2, 2), (0, 255))).getpixel((0, 0)) == (0, 0, 0)
    deep = Image.fromarray(np.full((2, 2), 0x8000, dtype=np.uint16))
    assert as_rgb(deep).getpixel((0, 0)) == (128, 128, 128)
    assert as_rgb(Image.new("CMYK", (2, 2), (0, 0, 0, 0))).getpixel((0, 0)) == (255, 255, 255)


def test_only_bytes_that_hold_just_these_pixels_are_kept(tmp_path):
    image = Image.effect_noise((64, 96), 40).convert("RGB")
    exif = image.getexif()
    exif[0x0112] = 3
    files = {
        "plain.png": ({}, True),
        "plain.jpg": ({}, True),
        "turned.jpg": ({"exif": exif}, False),
        "moving.webp": ({"save_all": True, "append_images": [image.rotate(180)]}, False),
    }
    for name, (options, kept) in files.items():
        image.save(tmp_path / name, **options)
        opened, content, as_it_is = read_image(tmp_path / name)
        assert as_it_is == kept and content == (tmp_path / name).read_bytes()
        if kept:
            assert Image.open(tmp_path / name).tobytes() == opened.tobytes()


def test_png_is_lossless_and_jpeg_near():
    image = Image.effect_noise((64, 96), 40).convert("RGB")
    assert Image.open(io.BytesIO(encode(image, "png"))).tobytes() == image.tobytes()
    lossy = np.asarray(Image.open(io.BytesIO(encode(image, "jpeg"))), float)
    assert 0 < np.abs(lossy - np.asarray(image, float)).mean() < 4


def test_a_fitting_image_keeps_its_pixels():
    image = Image.effect_noise((64, 96), 40).convert("RGB")
    assert fit(image, LIMITS).tobytes() == image.tobytes()


def test_open_image_is_upright_rgb(tmp_path):
    turned = Image.new("L", (30, 20))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.jpg", exif=exif)
    opened = open_image(tmp_path / "turned.jpg")
    assert opened.mode == "RGB" and opened.size == (20, 30)


def test_open_image_names_what_it_cannot_read(tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    for file in (broken, tmp_path / "missing.png"):
        with pytest.raises(UserError, match=file.name):
            open_image(file)


def tiff_whose_second_frame_has_no_width():
    buffer, frame = io.BytesIO(), Image.new("RGB", (16, 16))
    frame.save(buffer, "TIFF", save_all=True, append_images=[frame])
    width = struct.pack("<HHI", 256, 4, 1)
    before, _, after = buffer.getvalue().rpartition(width)
    return before + struct.pack("<H", 254) + width[2:] + after


def encoded(image, name, **options):
    buffer = io.BytesIO()
    image.save(buffer, name, **options)
    return buffer.getvalue()


PHOTO = Image.effect_noise((48, 40), 40).convert("RGB")


@pytest.mark.parametrize(
    ("content", "detail"),
    [
        (encoded(PHOTO, "AVIF"), "AVIF, which is not read"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(400), "HEIC, which is not read"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG, which is not read"),
        (b"<?xml version='1.0'?>\n<!-- drawn -->\n<svg/>", "SVG, which is not read"),
        (b"\n<!DOCTYPE html><html>404 Not Found</html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1f\nsize 9\n", "git lfs pull"),
        (b"PK\3\4" + bytes(90), "a zip archive"),
        (b"\xff\x0a" + bytes(90), "JPEG XL"),
        (b"\0\0\0 ftypisom" + bytes(90), "a video"),
        (b"", "an empty file"),
        (bytes(4096), "a file of zeros"),
        (b"see the other file", "not a file of PNG, JPEG, WEBP, GIF, BMP, TIFF"),
        (encoded(PHOTO, "JPEG")[:-300], "JPEG: image file is truncated"),
        (encoded(PHOTO, "PNG")[:-300], "PNG: "),
        (encoded(PHOTO, "PNG")[:20], "PNG"),
        (encoded(PHOTO, "WEBP")[:-300], "WebP"),
        (encoded(PHOTO, "GIF")[:-300], "GIF: "),
        (encoded(PHOTO, "TIFF")[:-300], "TIFF: "),
        (encoded(PHOTO.convert("F"), "TIFF"), r"TIFF: pixels of 32 bits \(mode F\)"),
        (encoded(PHOTO.convert("I"), "TIFF"), r"TIFF: pixels of 32 bits \(mode I\)"),
        (encoded(Image.new("RGB", (1, 3000)), "PNG"), "1 x 3000 pixels: one side is over 200 times the other"),
        (encoded(Image.new("RGB", (3000, 1)), "PNG"), "3000 x 1 pixels"),
        (b"GIF89a" + bytes(7) + b"," + bytes(9) + b"\2\0;", "GIF"),
        (b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 0, 0, 1, 24, 0, 0, 0, 0, 0, 0), "BMP"),
    ],
)
def test_what_is_no_image_is_named(content, detail):
    with pytest.raises(ImageError, match=detail) as caught:
        read_image(content)
    assert caught.value.kind == "bad_image" and " at 0x" not in caught.value.detail


@pytest.mark.parametrize("side", [9000, 10_000, 60_000])  # Pillow warns of the second and refuses the third
def test_a_decompression_bomb_is_too_large(side):
    content = b"\x89PNG\r\n\x1a\n"
    for chunk in (b"IHDR" + struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0), b"IDAT" + zlib.compress(b"")):
        content += struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ImageError) as caught:
            read_image(content)
    assert caught.value.kind == "image_too_large"


@pytest.mark.parametrize("compressed", [False, True])
def test_a_png_with_a_long_text_is_read_and_kept_without_it(compressed):
    texts = PngInfo()
    texts.add_text("workflow", '{"nodes": []}' * 300_000, zip=compressed)
    content = encoded(PHOTO, "PNG", pnginfo=texts)
    if compressed:
        with pytest.raises(ValueError, match="too large"), Image.open(io.BytesIO(content)) as opened:
            opened.load()
    image, kept, as_it_is = read_image(content)
    assert image.tobytes() == PHOTO.tobytes() and as_it_is == compressed  # megabytes beside the pixels are not stored
    with Image.open(io.BytesIO(kept)) as opened:  # as training reads the stored bytes
        assert opened.tobytes() == PHOTO.tobytes()


def test_a_file_that_is_not_there_is_missing(tmp_path):
    (tmp_path / "link.png").symlink_to(tmp_path / "nowhere")
    for name, detail in (
        ("link.png", "a link that leads nowhere"),
        ("gone.png", "No such file"),
        ("half\ud83d.png", "surrogates"),
        ("long" * 99, "File name too long"),
        ("a/" * 9999, "File name too long"),
        (".", "Is a directory"),
    ):
        with pytest.raises(ImageError, match=detail) as caught:
            read_image(tmp_path / name)
        assert caught.value.kind == "image_missing"


def mutated(rng, content):
    """`content` with some bytes changed, mostly in its head; cut off or shifted now and then."""
    changed = bytearray(content)
    for _ in range(rng.randint(1, 6)):
        changed[rng.randrange(min(len(changed), rng.choice((60, 300, 10_000))))] = rng.choice(
            (0, 1, 255, rng.randrange(256))
        )
    start = rng.randrange(len(changed))
    if rng.random() < 0.2:
        changed[start : start + rng.randint(0, 40)] = rng.randbytes(rng.randint(0, 40))
    return bytes(changed[:start] if rng.random() < 0.1 else changed)


@pytest.mark.filterwarnings("ignore")
def test_nothing_but_an_image_error_comes_out_of_a_damaged_file():
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a description"
    files = [tiff_whose_second_frame_has_no_width()]
    with pytest.raises(ImageError, match="bad_image: TIFF: Missing dimensions"):
        read_image(files[0])
    small = Image.effect_noise((24, 20), 40).convert("RGB")
    for name, options in (
        ("JPEG", {"exif": exif}),
        ("PNG", {"exif": exif}),
        ("PNG", {"pnginfo": PngInfo()}),
        ("WEBP", {"exif": exif, "lossless": True}),
        ("WEBP", {"save_all": True, "append_images": [small.rotate(90)]}),
        ("GIF", {"save_all": True, "append_images": [small.rotate(90)]}),
        ("BMP", {}),
        *(("TIFF", {"compression": kind}) for kind in (None, "tiff_lzw", "jpeg", "tiff_adobe_deflate", "packbits")),
    ):
        files.append(encoded(small, name, **options))
    for mode in ("1", "P", "LA", "RGBA", "I;16"):
        image = small.convert("L").convert(mode) if mode != "I;16" else small.convert("I").convert("I;16")
        files.append(encoded(image, "PNG"))
    rng = random.Random(0)
    refused = 0
    for _ in range(4000):
        try:
            image, _, _ = read_image(mutated(rng, rng.choice(files)))
            assert image.mode == "RGB" and fitted_size(*image.size, LIMITS)
        except ImageError as error:
            refused += 1
            assert error.kind in ("bad_image", "image_too_large") and " at 0x" not in error.detail
    assert 400 < refused < 3900
