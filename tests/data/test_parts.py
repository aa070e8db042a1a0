"""Images straight from archives in parts: what is read, what is unpacked once, and what is no whole archive."""

import gzip
import io
import lzma
import tarfile

import pytest

from data.readers.parts import Slice, find_parts, first_name, index_tar
from spatial_edit_reward.errors import UserError
from tests.data.broken_rows import SC, row
from tests.data.conftest import data_recipe, noise, prepared, write_lines

NAMES = [f"images/{number}.png" for number in range(6)]


def tar_bytes(names=NAMES, first=0, prefix="./", **options):
    """A tar with one drawn image a name, smaller than a block or larger."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", **options) as archive:
        for number, name in enumerate(names, first):
            content = png(number)
            info = tarfile.TarInfo(prefix + name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def png(number):
    buffer = io.BytesIO()
    noise(number, (8 + 24 * (number % 3), 16)).save(buffer, "PNG")
    return buffer.getvalue()


def write_parts(folder, content, count=3, start="images_part_", names=None):
    """`content` cut into `count` parts; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    step = -(-len(content) // count)
    names = names or [f"{start}{number:02}" for number in range(count)]
    for number, name in enumerate(names):
        (folder / name).write_bytes(content[number * step : (number + 1) * step])
    return [folder / name for name in names]


def index(folder, start="images_part_"):
    return index_tar(find_parts(folder / start))


def assert_whole(slices):
    assert [slices[name].read() for name in NAMES] == [png(number) for number in range(len(NAMES))]


def stage(folder, images="images_part_", names=NAMES):
    """The data stage on rows whose images are in the parts of `folder`."""
    pairs = list(zip(names[::2], names[1::2], strict=True))
    rows = [row(SC, images=pair, instruction=f"Edit {number}.") for number, pair in enumerate(pairs)]
    file = write_lines(folder / "rows.jsonl", rows)
    source = {"name": "x", "layout": "sharegpt", "path": str(file), "splits": {"train": 1}}
    if images:
        source["images"] = str(folder / images)
    return prepared(data_recipe(folder, [source]))


def last_line(done):
    return done.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize("pack", [bytes, gzip.compress, lzma.compress])
def test_parts_of_a_tar_packed_or_not_are_read(tmp_path, pack):
    for count in (1, 3, 16):
        folder = tmp_path / str(count)
        write_parts(folder, pack(tar_bytes()), count)
        assert_whole(index(folder))
        assert (folder / "unpacked").exists() == (pack is not bytes)


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_the_first_image_is_known_without_the_rest(tmp_path, pack):
    """A look at 160 GB of parts takes no longer than one at the first block."""
    parts = write_parts(tmp_path, pack(tar_bytes()))
    parts[2].write_bytes(b"not downloaded")
    assert first_name(tuple(parts)) == NAMES[0] and not (tmp_path / "unpacked").exists()
    for start in (b"not a tar" * 999, pack(b""), pack(bytes(10240)), pack(tar_bytes())[:99]):
        parts = write_parts(tmp_path / str(len(start)), start, 1)
        with pytest.raises(UserError, match=r"images_part_00: no tar archive begins there"):
            first_name(tuple(parts))


def test_a_packed_tar_is_unpacked_once(tmp_path):
    """Again only for other parts; what a stopped run left is used, whatever it holds."""
    packed = gzip.compress(tar_bytes())
    parts = write_parts(tmp_path, packed)
    assert_whole(index(tmp_path))
    (tar,) = (tmp_path / "unpacked").iterdir()
    assert tar.read_bytes() == tar_bytes()
    before = tar.stat().st_mtime_ns
    index_tar.cache_clear()
    assert_whole(index(tmp_path))
    assert tar.stat().st_mtime_ns == before
    # as a stopped run leaves it: its start, and what a crash of the machine left in its blocks
    partial = tar.with_name(f"{parts[0].name}.tar.partial")
    for left in (tar_bytes()[:3000], tar_bytes()[:2000] + bytes(9000), b"x" * 99_999, b""):
        tar.unlink()
        partial.write_bytes(left)
        index_tar.cache_clear()
        assert_whole(index(tmp_path))
        assert tar.read_bytes() == tar_bytes() and not partial.exists()
    write_parts(tmp_path / "other", gzip.compress(tar_bytes(), compresslevel=1)).sort()
    for part in parts:
        part.write_bytes((tmp_path / "other" / part.name).read_bytes())
    from data.readers import parts as module

    index_tar.cache_clear()
    module._opened.cache_clear()
    assert_whole(index(tmp_path))
    assert [file.name != tar.name for file in (tmp_path / "unpacked").iterdir()] == [True]


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_an_archive_that_is_cut_off_anywhere_is_an_error(tmp_path, pack):
    content = tar_bytes(format=tarfile.GNU_FORMAT)
    packed = pack(content)
    end = len(content.rstrip(b"\0")) // 512 * 512 + 3 * 512  # of the last image's block and the two blocks of zeros
    cuts = [*range(0, end if pack is bytes else len(packed), 89), end - 1 if pack is bytes else len(packed) - 1]
    for cut in cuts:
        folder = tmp_path / str(cut)
        folder.mkdir()
        (folder / "images.tar").write_bytes(packed[:cut])
        with pytest.raises(UserError, match=r"images\.tar.* (no complete tar|cannot be unpacked).*download") as caught:
            index(folder, "images.tar")
        assert "\n" not in str(caught.value)
    if pack is bytes:
        (tmp_path / "images.tar").write_bytes(packed[:end])
        assert_whole(index(tmp_path, "images.tar"))


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize("lost", [0, 1, 2])
def test_a_part_that_is_missing_ends_the_stage(tmp_path, pack, lost):
    tar = tar_bytes().rstrip(b"\0")
    parts = write_parts(tmp_path, pack(tar + bytes(1536 - len(tar) % 512)))  # an image in every part
    content = parts[lost].read_bytes()
    parts[lost].unlink()
    done, report = stage(tmp_path)
    assert done.returncode == 1 and report is None and "download" in last_line(done)
    assert "images_part_0" in last_line(done) and "Traceback" not in done.stderr
    parts[lost].write_bytes(content)
    done, report = stage(tmp_path)
    assert done.returncode == 0, done.stderr
    assert report["sources"]["x"]["kept"] == 3


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize("garbage", [tar_bytes(["images/late.png"], first=9), b"d41d8cd98f00b204e9800998ecf8427e  x\n"])
def test_what_follows_the_end_of_the_archive_is_named(tmp_path, pack, garbage):
    """A part of an older, longer archive, a second archive, a checksum: what it holds would be lost without a word."""
    *_, last = write_parts(tmp_path / "last", pack(tar_bytes()))
    last.write_bytes(last.read_bytes() + garbage)
    write_parts(tmp_path / "more", pack(tar_bytes()))
    (tmp_path / "more" / "images_part_03").write_bytes(garbage)
    for folder, name in (("last", "images_part_02"), ("more", "images_part_03")):
        done, report = stage(tmp_path / folder)
        assert done.returncode == 1 and report is None
        assert (name if pack is bytes else "images_part_00") in last_line(done) and "download" in last_line(done)


@pytest.mark.parametrize("stray", ["images_part_00.md5", "images_part_01.bak", "images_part_readme.txt"])
def test_a_file_among_the_parts_that_is_none_is_named(tmp_path, stray):
    write_parts(tmp_path, tar_bytes())
    (tmp_path / stray).write_text("d41d8cd98f00b204e9800998ecf8427e")
    done, report = stage(tmp_path)
    assert done.returncode == 1 and report is None
    assert stray in last_line(done) and "move" in last_line(done)


def test_links_of_an_archive_are_followed_to_its_own_files(tmp_path):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, kind, target in (
            ("images/a.png", tarfile.REGTYPE, ""),
            ("images/b.png", tarfile.LNKTYPE, "images/a.png"),
            ("images/c.png", tarfile.SYMTYPE, "/etc/hosts"),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            info.size = len(png(0)) if kind == tarfile.REGTYPE else 0
            archive.addfile(info, io.BytesIO(png(0)))
    (tmp_path / "images.tar").write_bytes(buffer.getvalue())
    slices = index(tmp_path, "images.tar")
    assert slices["images/b.png"] == slices["images/a.png"] and sorted(slices) == ["images/a.png", "images/b.png"]
    assert isinstance(slices["images/a.png"], Slice)


def test_an_image_that_no_part_holds_is_told_from_one_that_does(tmp_path):
    write_parts(tmp_path, tar_bytes(prefix="sft/"))
    done, _ = stage(tmp_path)
    assert done.returncode == 1
    assert "images/0.png is in none of images_part_00, ...; they hold e.g. sft/images/0.png" in last_line(done)


def test_archives_beside_the_rows_are_pointed_at(tmp_path):
    """EditScore-Reward-Data as `hf download` leaves it, and a recipe without `images:`."""
    write_parts(tmp_path, gzip.compress(tar_bytes()))
    done, _ = stage(tmp_path, images=None)
    assert done.returncode == 1
    assert f"`images: {tmp_path}/images_part_`" in last_line(done) and not (tmp_path / "unpacked").exists()


def test_parts_in_the_folder_that_is_named_are_pointed_at(tmp_path):
    write_parts(tmp_path, tar_bytes())
    done, _ = stage(tmp_path, images=".")
    assert done.returncode == 1 and f"`images: {tmp_path}/images_part_`" in last_line(done)


@pytest.mark.parametrize(
    ("content", "kind"),
    [(b"version https://git-lfs.github.com/spec/v1\n", "a git-lfs pointer"), (b"PK\3\4" * 400, "a zip")],
)
def test_a_part_that_is_something_else_is_named(tmp_path, content, kind):
    write_parts(tmp_path, content, 1)
    done, _ = stage(tmp_path)
    assert done.returncode == 1 and "images_part_00" in last_line(done) and kind in last_line(done)


def test_backslashes_of_windows_are_read(tmp_path):
    write_parts(tmp_path, tar_bytes())
    done, report = stage(tmp_path, names=[name.replace("/", "\\") for name in NAMES])
    assert done.returncode == 0, done.stderr
    assert report["sources"]["x"]["kept"] == 3


def test_no_room_to_unpack_is_one_line(tmp_path):
    write_parts(tmp_path, gzip.compress(tar_bytes()))
    (tmp_path / "unpacked").write_text("a file where the folder has to be")
    done, report = stage(tmp_path)
    assert done.returncode == 1 and report is None and "Traceback" not in done.stderr
    assert "cannot be unpacked" in last_line(done) and "tar xzf" in last_line(done)
