"""The 33 tools of m&m's, as data: what its `TOOL_METADATA` says of arguments and outputs, described in our words.

What this module does not know: requests, how a plan is written down.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from dgym.graders.plan_scores import Plan


@dataclass(frozen=True, slots=True)
class Tool:
    """One tool.

    Attributes:
        name: What a plan calls it; the published plans have spaces in place of underscores.
        group: `"model"` for learned models, `"image"` for processing of images and objects, `"service"` for public
            services.
        inputs: The modality of each argument; all must be given.
        outputs: The modality of each output.
        description: What it does, in a sentence.
    """

    name: str
    group: str
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    description: str

    @property
    def signature(self) -> str:
        """Name, arguments and outputs, as in a prompt."""
        return f"{self.name}({', '.join(self.inputs)}) -> {', '.join(self.outputs)}"

    def schema(self) -> dict[str, Any]:
        """Returns the tool as a mapping like a JSON schema; `format` is the modality."""
        properties = {name: {"type": "string", "format": kind} for name, kind in self.inputs.items()}
        return {
            "name": self.name,
            "description": self.description,
            "parameters": {"type": "object", "properties": properties, "required": list(self.inputs)},
            "returns": {name: {"format": kind} for name, kind in self.outputs.items()},
        }


def _tool(group: str, signature: str, description: str) -> Tool:
    """Reads `name(argument: modality, ...) -> output: modality, ...`."""
    match = re.fullmatch(r"(\w+)\((.*)\) -> (.*)", signature)
    if match is None:
        raise ValueError(f"{signature!r} is no signature")
    inputs, outputs = (dict(part.split(": ") for part in text.split(", ")) for text in match.groups()[1:])
    return Tool(match[1], group, inputs, outputs, description)


TOOLS: Final[Mapping[str, Tool]] = {
    tool.name: tool
    for tool in (
        _tool("model", "text_generation(text: text) -> text: text", "Continues a text, or writes one on a prompt."),
        _tool("model", "text_summarization(text: text) -> text: text", "Sums a text up in a few sentences."),
        _tool("model", "text_classification(text: text) -> text: text", "Names the class of a text, as its sentiment."),
        _tool(
            "model",
            "question_answering(text: text, question: text) -> text: text",
            "Answers a question on the basis of a text.",
        ),
        _tool("model", "image_generation(text: text) -> image: image", "Makes an image that a text describes."),
        _tool("model", "image_captioning(image: image) -> text: text", "Describes an image in a caption."),
        _tool("model", "optical_character_recognition(image: image) -> text: text", "Reads the text within an image."),
        _tool("model", "image_classification(image: image) -> text: text", "Names what an image shows, as cat or dog."),
        _tool(
            "model",
            "image_editing(image: image, prompt: text) -> image: image",
            "Changes an image as an instruction says.",
        ),
        _tool(
            "model",
            "object_detection(image: image) -> image: image, objects: list",
            "Finds the objects in an image, each with a box and a label.",
        ),
        _tool(
            "model",
            "image_segmentation(image: image) -> image: image, objects: list",
            "Finds the objects in an image, each with a mask of its shape and a label.",
        ),
        _tool(
            "model", "automatic_speech_recognition(audio: audio) -> text: text", "Writes down what an audio file says."
        ),
        _tool(
            "model",
            "visual_question_answering(image: image, question: text) -> text: text",
            "Answers a question about an image.",
        ),
        _tool(
            "image",
            "image_crop(image: image, object: object) -> image: image",
            "Cuts an image down to an object's box.",
        ),
        _tool("image", "image_crop_left(image: image) -> image: image", "Keeps the left half of an image."),
        _tool("image", "image_crop_right(image: image) -> image: image", "Keeps the right half of an image."),
        _tool("image", "image_crop_top(image: image) -> image: image", "Keeps the upper half of an image."),
        _tool("image", "image_crop_bottom(image: image) -> image: image", "Keeps the lower half of an image."),
        _tool(
            "image",
            "background_blur(image: image, object: object) -> image: image",
            "Blurs an image but for an object in the foreground.",
        ),
        _tool(
            "image",
            "color_pop(image: image, object: object) -> image: image",
            "Keeps the colour of an object and makes the rest of the image black and white.",
        ),
        _tool("image", "count(objects: list) -> number: integer", "Counts objects."),
        _tool(
            "image",
            "tag(image: image, objects: list) -> image: image",
            "Draws the boxes and labels of objects on an image.",
        ),
        _tool(
            "image",
            "select_object(objects: list, object_name: text) -> object: object",
            "Chooses from objects the one of a name.",
        ),
        _tool(
            "image",
            "emoji(image: image, object: object, emoji: text) -> image: image",
            "Covers an object in an image with an emoji, as smiling_face, alien or ghost.",
        ),
        _tool("service", "get_date_fact(date: text) -> text: text", "Tells a fact about a date, given as month/day."),
        _tool("service", "get_year_fact(year: integer) -> text: text", "Tells a fact about a year."),
        _tool("service", "get_math_fact(number: integer) -> text: text", "Tells a mathematical fact about a number."),
        _tool("service", "get_trivia_fact(number: integer) -> text: text", "Tells something curious about a number."),
        _tool(
            "service",
            "love_calculator(first_name: text, second_name: text) -> number: integer",
            "Computes in per cent how well two people of these names match.",
        ),
        _tool("service", "get_location(city: text) -> lon: text, lat: text", "Finds longitude and latitude of a city."),
        _tool(
            "service",
            "search_movie(movie_title: text, movie_year: text) -> text: text",
            "Looks up a film: its title, year, genre and director.",
        ),
        _tool(
            "service",
            "get_weather(lon: text, lat: text) -> objects: list",
            "Forecasts the weather at a longitude and latitude.",
        ),
        _tool(
            "service",
            "wikipedia_simple_search(text: text) -> text: text",
            "Sums up the page of Wikipedia that fits best.",
        ),
    )
}
"""All tools by name, in the order of m&m's."""

_OUTPUT = re.compile(r"<node-([\w?]+)>(?:\.(\w+))?")


def validate(plan: Plan) -> list[str]:
    """Returns why a plan cannot be carried out, in words: nothing where it can.

    Tools must be known and have exactly their arguments, and an output that is used must be one of an earlier call.
    """
    out = [] if plan else ["the plan has no call"]
    for number, (name, arguments) in enumerate(plan):
        tool = TOOLS.get(name)
        if tool is None:
            out.append(f"call {number}: there is no tool {name!r}")
            continue
        where = f"call {number} ({name})"
        out += [f"{where}: it takes no argument {given!r}" for given in arguments if given not in tool.inputs]
        out += [f"{where}: the argument {due!r} is missing" for due in tool.inputs if due not in arguments]
        for given, value in arguments.items():
            for found in _OUTPUT.finditer(value):
                if not found[1].isdecimal() or int(found[1]) >= number:
                    out.append(f"{where}: {given} refers to {found[0]}, which is no earlier call")
                    continue
                source = TOOLS.get(plan[int(found[1])][0])
                if source is not None and found[2] not in source.outputs:
                    out.append(f"{where}: {given} refers to {found[0]}, and {source.name} has no such output")
    return out
