"""The formulas of image augmentation in numpy, written apart from the Rust ones: writes augment_image.json beside this file.

    python augment_image.py
"""
import colorsys
import json
import pathlib

import numpy as np

LUMA = np.array([0.299, 0.587, 0.114])
LMS = np.array([[0.3811, 0.5783, 0.0402], [0.1967, 0.7244, 0.0782], [0.0241, 0.1288, 0.8444]])
LAB = np.diag([1 / 3**0.5, 1 / 6**0.5, 1 / 2**0.5]) @ np.array([[1, 1, 1], [1, 1, -2], [1, -1, 0]])


def image(seed, channels, height, width):
    return np.random.default_rng(seed).integers(0, 256, (channels, height, width)).astype(float)


def to_bytes(x):
    return np.clip(np.floor(x + 0.5), 0, 255).astype(int).ravel().tolist()


def sample(plane, rows, columns):
    """Bilinear at real places, the border goes on."""
    h, w = plane.shape
    rows, columns = np.clip(rows, 0, h - 1), np.clip(columns, 0, w - 1)
    r0, c0 = np.floor(rows).astype(int), np.floor(columns).astype(int)
    r1, c1 = np.minimum(r0 + 1, h - 1), np.minimum(c0 + 1, w - 1)
    fr, fc = rows - r0, columns - c0
    top = plane[r0, c0] * (1 - fc) + plane[r0, c1] * fc
    bottom = plane[r1, c0] * (1 - fc) + plane[r1, c1] * fc
    return top * (1 - fr) + bottom * fr


def crop(x, top, left, height, width):
    _, h, w = x.shape
    part = x[:, top:top + height, left:left + width]
    rows = (np.arange(h) + 0.5) * height / h - 0.5
    columns = (np.arange(w) + 0.5) * width / w - 0.5
    grid = np.meshgrid(rows, columns, indexing="ij")
    return np.stack([sample(plane, *grid) for plane in part])


def rotate(x, turns):
    _, h, w = x.shape
    angle = 2 * np.pi * turns
    y, c = np.meshgrid(np.arange(h) - (h - 1) / 2, np.arange(w) - (w - 1) / 2, indexing="ij")
    rows = (h - 1) / 2 + np.sin(angle) * c + np.cos(angle) * y
    columns = (w - 1) / 2 + np.cos(angle) * c - np.sin(angle) * y
    return np.stack([sample(plane, rows, columns) for plane in x])


def blur(x, sigma):
    radius = int(np.ceil(3 * sigma))
    bell = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    bell /= bell.sum()
    for axis in (2, 1):
        padded = np.pad(x, [(radius, radius) if a == axis else (0, 0) for a in range(3)], mode="edge")
        x = sum(weight * np.take(padded, range(i, i + x.shape[axis]), axis) for i, weight in enumerate(bell))
    return x


def contrast(x, factor):
    means = x.mean((1, 2))
    mean = LUMA @ means if len(x) == 3 else means.mean()
    return mean + factor * (x - mean)


def saturation(x, factor):
    gray = np.tensordot(LUMA, x, 1)
    return gray + factor * (x - gray)


def hue(x, turns):
    out = np.empty_like(x)
    for at in np.ndindex(*x.shape[1:]):
        h, s, v = colorsys.rgb_to_hsv(*x[(slice(None), *at)] / 255)
        out[(slice(None), *at)] = np.array(colorsys.hsv_to_rgb((h + turns) % 1, s, v)) * 255
    return out


def planes(x):
    if len(x) != 3:
        return x.reshape(len(x), -1)
    cones = np.maximum(LMS @ (x.reshape(3, -1) / 255), 1 / 255)
    return LAB @ np.log(cones)


def style(x, reference, share):
    own, other = planes(x), planes(reference)
    mean, std = own.mean(1, keepdims=True), own.std(1, keepdims=True)
    moved = (own - mean) / std * other.std(1, keepdims=True) + other.mean(1, keepdims=True)
    if len(x) == 3:
        moved = 255 * np.linalg.inv(LMS) @ np.exp(np.linalg.inv(LAB) @ moved)
    return x + share * (np.clip(moved, 0, 255).reshape(x.shape) - x)


def cutout(x, row, column, side):
    out = x.copy()
    r, c = max(row - side // 2, 0), max(column - side // 2, 0)
    fill = np.floor(x.mean((1, 2)) + 0.5)
    out[:, r:row + side - side // 2, c:column + side - side // 2] = fill[:, None, None]
    return out


def main():
    cases = []
    for channels in (1, 3):
        x, reference = image(channels, channels, 7, 9), image(9 + channels, channels, 5, 4) / 2 + 60
        reference = np.floor(reference)
        def case(name, arguments, out):
            cases.append({"name": name, "channels": channels, "arguments": arguments, "out": to_bytes(out)})
        cases.append({"name": "input", "channels": channels, "arguments": [], "out": to_bytes(x)})
        cases.append({"name": "reference", "channels": channels, "arguments": [5, 4], "out": to_bytes(reference)})
        for factor in (0.6, 1.4):
            case("brightness", [factor], x * factor)
            case("contrast", [factor], contrast(x, factor))
            if channels == 3:
                case("saturation", [factor], saturation(x, factor))
        if channels == 3:
            for turns in (-0.1, 0.05, 0.5):
                case("hue", [turns], hue(x, turns))
        for box in ([0, 0, 7, 9], [1, 2, 5, 4], [3, 0, 1, 9]):
            case("crop", box, crop(x, *box))
        for turns in (0.03, -0.1, 0.25):
            case("rotate", [turns], rotate(x, turns))
        case("flip", [], x[:, :, ::-1])
        for sigma in (0.4, 1.3):
            case("blur", [sigma], blur(x, sigma))
        for share in (0.5, 1.0):
            case("style", [share], style(x, reference, share))
        for place in ([3, 4, 3], [0, 8, 4], [6, 0, 0]):
            case("cutout", place, cutout(x, *place))
    path = pathlib.Path(__file__).with_suffix(".json")
    path.write_text("[\n" + ",\n".join(json.dumps(case) for case in cases) + "\n]\n")


if __name__ == "__main__":
    main()
