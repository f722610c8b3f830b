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
    FEWEST_THINGS,
    MAX_BYTES,
    MAX_DESCRIPTION,
    MOST_THINGS,
    OFFSETS,
    SHADES,
    SHAPES,
    SIDE,
    SIZES,
    USUAL_SIZE,
    Scene,
    Thing,
    describe,
    draw_scene,
    encode,
    read_description,
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


@given(st.randoms(use_true_random=False))
def test_a_drawn_scene_is_read_back_from_its_description(rng):
    scene = draw_scene(rng)
    text = describe(scene)
    assert read_description(text) == scene
    assert read_description(text.upper()) == scene
    assert read_description(text.replace("; ", ".\n") + ".") == scene
    assert all(f"{t.size} {t.colour} {t.shape}" in text for t in scene.things)


@given(SCENES)
def test_a_description_is_read_only_within_the_limits_of_the_domain(scene):
    fits = FEWEST_THINGS <= len(scene.things) <= MOST_THINGS
    assert read_description(describe(scene)) == (scene if fits else None)


def test_a_description_is_plain_english():
    things = (
        Thing(0, 0, "circle", "red", "large"),
        Thing(1, 1, "square", "blue", "small", 1, -1),
        Thing(2, 1, "cross", "green", "small", -1),
    )
    said = (
        "a large red circle at the top left; a small blue square in the middle, 1 pixel right and 1 pixel up; "
        "a small green cross at the bottom middle, 1 pixel left"
    )
    assert describe(Scene(things)) == said
    assert describe(Scene(things, SHADES[2])) == f"{said}; the background is grey {SHADES[2]}"


def scene_of(*things, shade=SHADES[0]):
    """Makes a scene of `"row column size colour shape"`."""
    made = [Thing(int(t[0]), int(t[1]), *reversed(t[3:].split())) for t in things]
    return Scene(tuple(made), shade)


TWO = scene_of("00 large red circle", "11 small blue square")
CORNERS = scene_of("00 large red circle", "22 large blue square")
SIDES = scene_of("01 large red circle", "10 large blue square")


@pytest.mark.parametrize(
    ("text", "scene"),
    [
        ("a large red circle at the top left; a small blue square in the middle", TWO),
        ("Small blue square in the centre. Red circle, top left.", TWO),
        ("RED CIRCLE LEFT TOP\nSMALL BLUE SQUARE CENTER\n", TWO),
        ("- Top-left: large red circle\n- Center: small blue square", TWO),
        ("1. a red circle (large), top left\n2. a blue square (small), centre", TWO),
        ("There is a big red circle at the upper left and a little blue square in the middle cell.", TWO),
        ("a red circle in the top row, left column, a small blue square in the middle row and middle column", TWO),
        ("red circle in the top left corner; small blue square in the middle of the grid", TWO),
        ("a picture of a red circle at the top left, and a small blue square in the middle of the middle row", TWO),
        ("On a dark grey background, a red circle top left and a small blue square in the middle.", TWO),
        ("A dark background with a red circle top left; a small blue square middle", TWO),
        ("red circle top left; small blue square middle; the background is plain dark gray", TWO),
        ("red circle top left on a grey background, small blue square middle", TWO),
        ("At the top left, a red circle, at the bottom right, a blue square.", CORNERS),
        ("red circle, left, top, blue square, right, bottom", CORNERS),
        ("a red circle at the left of the top row; a blue square at the bottom of the right column", CORNERS),
        ("blue square middle left, red circle top centre", SIDES),
        ("a blue square in the middle of the left side, and a red circle in the centre of the top edge", SIDES),
        ("blue square, left side, middle row; red circle, top edge, middle column", SIDES),
        ("background grey 30; red circle top left; blue square bottom right", replace(CORNERS, shade=30)),
    ],
)
def test_descriptions_in_other_words_are_read(text, scene):
    assert read_description(text) == scene


@pytest.mark.parametrize(
    "text",
    [
        "",
        ";;, and .",
        "a red circle at the top left",
        "a red circle; a blue square",
        "a red circle and a blue square at the top left",
        "a red circle at the top; a blue square in the middle",
        "a red circle in the middle row; a blue square at the top left",
        "a red circle top left; a blue square top left",
        "a red circle in the middle; a blue square at the centre",
        "a red circle at the top left and right; a blue square in the middle",
        "a red circle in the middle at the top left; a blue square bottom right",
        "a red circle at the top left and a blue square to the right of it",
        "a red circle left of the middle; a blue square bottom right",
        "a red circle top left; a blue square below the red circle",
        "a red circle left of the blue square; a blue square bottom right",
        "a red and blue circle top left; a green cross bottom right",
        "two red circles top left; a blue square bottom right",
        "a red circle top left; no blue square bottom right; a green cross in the middle",
        "a red circle top left; a blue square bottom right; a dog",
        "a red circle top left; a blue square bottom right; nothing else",
        "a medium red circle top left; a blue square bottom right",
        "a small large red circle top left; a blue square bottom right",
        "an orange circle top left; a blue square bottom right",
        "a red hexagon top left; a blue square bottom right",
        "a circle top left; a blue square bottom right",
        "a red thing top left; a blue square bottom right",
        "a red circle top left, large, blue square bottom right",  # which of them is large?
        "a red circle top left, 1 pixel up, blue square bottom right",  # which of them is moved?
        "a red circle top left, 1 pixel up and 1 pixel down; a blue square bottom right",
        "a red circle top left, 2 pixels up; a blue square bottom right",
        "a red circle top left; a blue square bottom right; the background is white",
        "on a white background, a circle top left; a blue square bottom right",
        "the background is white, circle top left; a blue square bottom right",
        "a red circle top left; a blue square bottom right; the background is grey 25",
        "grey background; a red circle top left; a blue square bottom right; dark background",
        "a red circle top left; a blue square bottom right, MIDDLErow, BACKGROUND",
        "a red circle top left! a blue square bottom right",
        "ein roter Kreis oben links; ein blaues Quadrat in der Mitte",
        "a red circle top left; a blue square bottom right" + " " * MAX_DESCRIPTION,
    ],
)
def test_what_is_not_fully_understood_is_no_scene(text):
    assert read_description(text) is None


def test_seven_things_are_too_many():
    told = [f"{c} circle {p}" for c, p in zip(COLOURS, ("top left", "top right", "middle", *PLACES), strict=True)]
    assert len(read_description("; ".join(told)).things) == MOST_THINGS
    assert read_description("; ".join([*told, "red cross top middle"])) is None


PLACES = ("bottom left", "bottom middle", "bottom right")
PHRASES = ("dark background", "a red circle top left", "a blue square in the middle", "1 pixel", "up", "dog")
PLACING = ("top", "middle", "bottom", "left", "right", "row", "column", "of", "the", "and", ",", ";")
WORDS = st.lists(st.sampled_from([*COLOURS, *SHAPES, *SIZES, *PHRASES, *PLACING]), max_size=25)


@settings(deadline=None)
@given(WORDS)
def test_whatever_is_read_shows_every_word_that_was_said(words):
    scene = read_description(" ".join(words))
    if scene is None:
        return
    said = " ".join(words).replace(",", " ").replace(";", " ").split()
    shown = [word for t in scene.things for word in (t.colour, t.shape, t.size)]
    assert "dog" not in said
    for word in (*COLOURS, *SHAPES):
        assert shown.count(word) == said.count(word)
    for size in SIZES:
        assert shown.count(size) >= said.count(size)
        assert size == USUAL_SIZE or shown.count(size) == said.count(size)
    assert len({(t.row, t.column) for t in scene.things}) == len(scene.things)
    assert read_description(describe(scene)) == scene


@settings(deadline=None)
@given(st.text(max_size=200))
def test_any_text_can_be_given(text):
    assert read_description(text) is None


def test_a_long_description_takes_no_time():
    for part in ("red,", "dark ", "a red circle top left,", "middle of ", "1 pixel "):
        assert read_description(part * (MAX_DESCRIPTION // len(part))) is None
