"""Pictures and what Pillow's bilinear filter makes of them: run with Pillow, in this folder.

Each picture is resized to several sizes in color and in gray; the pixels stand channel by channel in
expected.json.
"""

import json
import random

from PIL import Image

random.seed(7)
WIDTH, HEIGHT = 23, 17


def smooth(x, y):
    return (x * 11 % 256, y * 15 % 256, (x * y) % 256)


color = Image.new("RGB", (WIDTH, HEIGHT))
color.putdata([smooth(x, y) for y in range(HEIGHT) for x in range(WIDTH)])
gray = Image.new("L", (WIDTH, HEIGHT))
gray.putdata([random.randrange(256) for _ in range(WIDTH * HEIGHT)])
clear = color.copy()
clear.putalpha(128)

color.save("color.png")
gray.save("gray.png")
clear.save("alpha.png")
color.quantize(16).save("palette.png")
color.save("color.jpg", quality=95, subsampling=0)
color.save("half.jpg", quality=80)
gray.save("gray.jpg", quality=90)

expected = []
for name in ["color.png", "gray.png", "alpha.png", "palette.png", "color.jpg", "half.jpg", "gray.jpg"]:
    for mode in ["RGB", "L"]:
        for width, height in [(8, 8), (5, 30), (46, 17), (23, 17), (1, 1)]:
            image = Image.open(name)
            # What is transparent is taken as it stands.
            image = image.convert("RGB" if name != "gray.png" and name != "gray.jpg" else "L")
            image = image.convert(mode).resize((width, height), Image.Resampling.BILINEAR)
            planes = [list(plane.getdata()) for plane in image.split()]
            expected.append({"name": name, "channels": len(planes), "height": height, "width": width, "pixels": sum(planes, [])})
with open("expected.json", "w") as file:
    json.dump(expected, file, separators=(",", ":"))
