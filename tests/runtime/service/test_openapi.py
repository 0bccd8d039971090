"""The service's description of itself."""

from .asking import png, restore


def test_the_openapi_description_has_examples_that_the_parameters_take(client):
    described = client.get("/openapi.json").json()
    assert {"/v1/restore", "/v1/jobs/{job_id}", "/v1/jobs/{job_id}/events"} <= described["paths"].keys()
    body = described["paths"]["/v1/restore"]["post"]["requestBody"]["content"]
    schema = body["multipart/form-data"]["schema"]["properties"]["parameters"]["contentSchema"]
    for example in schema["examples"]:
        photo = png((4, 4)) if example["task"] == "sr" else png()
        assert restore(
            client, photo, **{**example, "steps": 3} | ({"hole": [4, 4]} if "hole" in example else {})
        ).status_code in (200, 422)
    assert client.get("/docs").status_code == 404  # it would load its scripts from elsewhere
