"""Use frugal-rt like a pipeline of diffusers: loaded once, called with a picture and a mask, returning a picture.

python examples/pipeline.py photo.jpg mask.png restored.png
"""

import sys

from PIL import Image

from frugal_rt import Restorer


def main() -> None:
    photo, mask, out = sys.argv[1:]
    pipe = Restorer.load("photo")
    result = pipe(Image.open(photo), task="inpaint", mask=Image.open(mask), preset="fast", seed=0)
    result.image.save(out)
    print(result.because[0])


if __name__ == "__main__":
    main()
