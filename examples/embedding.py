"""Use a pool in a web application of your own: all requests share the network's calls.

pip install '.[cpu,serve]'    # in a checkout
FRUGAL_RT_PLAN=photo uvicorn --app-dir examples embedding:app
curl --data-binary @small.png http://127.0.0.1:8000/upscale -o large.png
"""

import io
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, HTTPException, Request, Response

from frugal_rt import BusyError, InputError, Pool, operators, read, to_pil

LARGEST = 256 * 256


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    with Pool(os.environ["FRUGAL_RT_PLAN"]) as app.state.pool:  # opened once; closing it finishes the requests taken
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/upscale")
async def upscale(request: Request) -> Response:
    """Return a picture enlarged four times."""
    pool: Pool = request.app.state.pool
    try:
        y = read(io.BytesIO(await request.body()))
        channels, height, width = y.shape
        if height * width > LARGEST:
            raise HTTPException(413, f"the picture has more than {LARGEST} pixels")
        operator = operators.SuperResolution((channels, 4 * height, 4 * width), 4)
        result = await pool.restore(y, operator, sigma=0.01, preset="fast")
    except BusyError as error:
        raise HTTPException(429, str(error), {"Retry-After": str(round(error.retry_after))}) from error
    except InputError as error:  # the body is no picture, or does not fit
        raise HTTPException(422, str(error)) from error
    png = io.BytesIO()
    to_pil(result.image).save(png, "PNG")
    return Response(png.getvalue(), media_type="image/png")
