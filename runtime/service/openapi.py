"""The part of the service's OpenAPI description that its routes do not generate."""

import json
from typing import Any

from .parameters import Parameters

ERROR: dict[str, Any] = {
    "description": "What is wrong, and what to do.",
    "content": {
        "application/json": {
            "schema": {"type": "object", "properties": {"error": {"type": "string"}}, "required": ["error"]},
            "example": {"error": "the picture is 100x80, and denoise with this prior starts from 64x64; ..."},
        }
    },
}
ERRORS: dict[int | str, dict[str, Any]] = dict.fromkeys((401, 404, 409, 410), ERROR)
RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"description": "The restored picture.", "content": {"image/png": {"schema": {"type": "string"}}}},
    202: {"description": "Taken; Location says where to ask.", "content": {"application/json": {}}},
    **dict.fromkeys((400, 401, 404, 408, 409, 410, 413, 422, 429, 500, 503, 504), ERROR),
}


def body() -> dict[str, Any]:
    """Return the OpenAPI description of the body of POST /v1/restore."""
    schema = Parameters.model_json_schema()
    binary = {"type": "string", "format": "binary"}
    parts = {"image": binary, "mask": binary, "parameters": {"type": "string", "contentSchema": schema}}
    example = schema["examples"][1]
    return {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {"type": "object", "properties": parts, "required": ["image"]},
                "encoding": {"parameters": {"contentType": "application/json"}},
                "examples": {
                    "a hole in the middle": {"value": {"image": "(a file)", "parameters": json.dumps(example)}}
                },
            },
            "image/*": {"schema": binary},
            "application/octet-stream": {"schema": binary},
        },
    }
