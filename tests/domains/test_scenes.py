"""Pictures of scenes: drawn, read back, and told from anything else."""

import io
import itertools
import random
import struct
import zlib
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dgym.domains.scenes import (
    COLOURS,
    MAX_BYTES,
    MOST_THINGS,
    OFFSETS,
    SHADES,
    SHAPES,
    SIDE,
    SIZES,
    Scene,
    Thing,
    draw_scene,
    encode,
    read_scene,
    render,
)

RARE = frozenset({("red", "triangle"), ("blue", "cross")})
THINGS = st.builds(
    Thing,
    st.integers(0, 2),
    st.integers(0, 2),
    *(st.sampled_from(values) for values in (SHAPES, tuple(COLOURS), SIZES, OFFSETS, OFFSETS)),
)
SCENES = st.builds(
    lambda things, shade: Scene(tuple(sorted(things, key=lambda t: (t.row, t.column))), shade),
    st.lists(THINGS, max_size=9, unique_by=lambda t: (t.row, t.column)),
    st.sampled_from(SHADES),
)


def picture(png):
    return Image.open(io.BytesIO(png))


@settings(deadline=None)
@given(SCENES)
def test_a_scene_is_read_back_from_its_picture(scene):
    png = render(scene)
    assert read_scene(png) == scene
    assert render(scene) == png


def test_every_look_in_every_offset_is_read_back():
    for n, (shape, colour, size, right, down) in enumerate(itertools.product(SHAPES, COLOURS, SIZES, OFFSETS, OFFSETS)):
        thing = Thing(n % 3, n // 3 % 3, shape, colour, size, right, down)
        scene = Scene((thing,), SHADES[n % len(SHADES)])
        assert read_scene(render(scene)) == scene


def test_a_picture_is_small_plain_and_without_metadata():
    rng = random.Random(1)
    for _ in range(300):
        png = render(draw_scene(rng))
        image = picture(png)
        assert (image.format, image.mode, image.size, image.info) == ("PNG", "RGB", (SIDE, SIDE), {})
        assert len(png) < 600
        kinds, rest = [], png[8:]
        while rest:
            kinds.append(rest[4:8])
            rest = rest[12 + int.from_bytes(rest[:4], "big") :]
        assert kinds == [b"IHDR", b"IDAT", b"IEND"]


def test_pillow_reads_what_was_drawn_and_its_own_files_are_read_too():
    scene = draw_scene(random.Random(2))
    image = picture(render(scene))
    again = io.BytesIO()
    image.save(again, "PNG", optimize=True)
    assert again.getvalue() != render(scene)
    assert read_scene(again.getvalue()) == scene
    assert encode(image) == render(scene)


def test_shapes_and_sizes_are_far_apart():
    def pixels(shape, size):
        png = render(Scene((Thing(1, 1, shape, "white", size),)))
        return [pixel == COLOURS["white"] for pixel in picture(png).get_flattened_data()]

    for size in SIZES:
        for one, other in itertools.combinations(SHAPES, 2):
            a, b = pixels(one, size), pixels(other, size)
            assert sum(x != y for x, y in zip(a, b, strict=True)) >= 0.15 * max(sum(a), sum(b)), (one, other, size)
    assert all(sum(pixels(shape, "large")) > 2.5 * sum(pixels(shape, "small")) for shape in SHAPES)


def test_a_picture_with_one_other_pixel_is_no_scene():
    rng = random.Random(3)
    for _ in range(200):
        scene = draw_scene(rng)
        image = picture(render(scene)).copy()
        spot = rng.randrange(SIDE), rng.randrange(SIDE)
        before = image.getpixel(spot)
        image.putpixel(spot, tuple(v ^ 1 for v in before))
        assert read_scene(encode(image)) is None


def saved(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def with_size(png, width, height):
    header = png[12:16] + struct.pack(">II", width, height) + png[24:29]
    return png[:12] + header + struct.pack(">I", zlib.crc32(header)) + png[33:]


def test_other_pictures_are_no_scenes():
    png = render(draw_scene(random.Random(4)))
    image = picture(png)
    others = [
        saved(image, "JPEG"),
        saved(image, "GIF"),
        saved(image.convert("RGBA")),
        saved(image.convert("L")),
        saved(image, transparency=(24, 24, 24)),
        saved(image.resize((96, 96))),
        saved(image.rotate(90).crop((0, 0, 47, 48))),
        saved(Image.new("RGB", (SIDE, SIDE), (255, 255, 255))),
        with_size(png, 100_000, 100_000),
        with_size(png, 2**31, 2**31),
        with_size(png, 0, 0),
        png + b"\0" * MAX_BYTES,
    ]
    assert [read_scene(other) for other in others] == [None] * len(others)


@settings(deadline=None)
@given(st.binary(max_size=300), st.integers(0, 500))
def test_rubbish_is_no_scene(rubbish, cut):
    png = render(Scene((Thing(0, 0, "circle", "red", "small"),)))
    assert read_scene(rubbish) is None
    assert read_scene(png[:8] + rubbish) is None
    assert read_scene(png[:33] + rubbish) is None
    if cut < len(png) - 12:
        read_scene(png[:cut] + rubbish + png[cut:])
        assert read_scene(png[: cut // 2]) is None


@pytest.mark.parametrize("shown", [True, False])
def test_drawn_scenes_have_two_to_six_things_and_rare_pairs_where_asked(shown):
    rng = random.Random(5)
    counts = set()
    for _ in range(500):
        scene = draw_scene(rng, RARE, shown=shown)
        counts.add(len(scene.things))
        assert len({(t.row, t.column) for t in scene.things}) == len(scene.things)
        assert any((t.colour, t.shape) in RARE for t in scene.things) is shown
    assert counts == set(range(2, MOST_THINGS + 1))


def test_the_text_of_a_scene_leaves_shade_and_offsets_out():
    scene = Scene((Thing(0, 2, "cross", "blue", "large", 1, -1), Thing(1, 1, "circle", "red", "small")), SHADES[3])
    assert scene.text == "02 large blue cross, 11 small red circle"
    assert Scene((replace(scene.things[0], right=0), scene.things[1])).text == scene.text
