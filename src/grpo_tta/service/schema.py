"""What goes over the wire: the answers as FastAPI documents them, and the request, which it cannot derive."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from grpo_tta.service.limits import STATUS, Limits


class Answer(BaseModel):
    """One image; the fields are those of `grpo_tta.Prediction`."""

    label: str
    probability: float
    probabilities: dict[str, float]
    label_before: str
    probabilities_before: dict[str, float]
    forwards: float
    backwards: float


class Answers(BaseModel):
    """One answer per image, in the order in which they were sent."""

    model: str
    labels: list[str]
    results: list[Answer]


class Problem(BaseModel):
    """Why a request was refused."""

    code: str
    message: str
    image: int | None = None


class Problems(BaseModel):
    """The body of every refusal."""

    error: Problem


class Health(BaseModel):
    """The service is up and has this model and these labels."""

    status: str
    model: str
    labels: list[str]
    version: str


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What FastAPI documents for each status: the codes that it carries."""
    return {
        status: {"model": Problems, "description": ", ".join(code for code, its in STATUS.items() if its == status)}
        for status in statuses
    }


def request_body(limits: Limits) -> dict[str, Any]:
    """The two forms of a request to classify, as OpenAPI describes them."""
    label = {"type": "string", "minLength": 1, "maxLength": limits.label_characters}
    labels = {
        "type": "array",
        "items": label,
        "minItems": 2,
        "maxItems": limits.labels,
        "description": "Class names, in place of the service's own.",
    }
    encoded = {"type": "string", "contentEncoding": "base64", "minLength": 1, "description": "An image file in base64."}
    several = {"type": "array", "minItems": 1, "maxItems": limits.images}
    return {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["images"],
                    "additionalProperties": False,
                    "properties": {
                        "images": {**several, "items": {"type": "string", "format": "binary"}},
                        "labels": {
                            "anyOf": [labels, {"type": "string", "minLength": 1}],
                            "description": "A field for each label, or one field with commas between them.",
                        },
                    },
                }
            },
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["images"],
                    "additionalProperties": False,
                    "properties": {
                        "images": {"anyOf": [encoded, {**several, "items": encoded}]},
                        "labels": {"anyOf": [labels, {"type": "null"}]},
                    },
                }
            },
        },
    }
