"""Names over pictures and slates without a picture, drawn with Pillow (FFmpeg here has no drawtext)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import structlog
from av.video.frame import VideoFrame
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Plane = NDArray[np.uint8]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
log = structlog.get_logger(__name__)

_FONT_FOLDERS = ("/usr/share/fonts", "/usr/local/share/fonts", "~/.local/share/fonts", "~/.fonts")
# Regular weights with Chinese, the best first; part of the file name in lower case.
_FONT_NAMES = (
    "notosanscjk-medium", "notosanscjk-regular", "notosanscjksc-regular", "notosanssc-regular",
    "sourcehansanssc-regular", "sourcehansanscn-regular", "sourcehansans-regular", "wqy-microhei",
    "wqy-zenhei", "droidsansfallback", "msyh", "simhei", "notosanscjk-bold", "notosans-regular",
    "dejavusans.",
)  # fmt: skip
_BACK = (17, 22, 28)
_TEXT = (236, 240, 244)
_QUIET = (150, 160, 172)


@dataclass(frozen=True, slots=True)
class Label:
    """A drawn text with its transparency, ready to be laid on yuv420p planes at (left, top), both even."""

    left: int
    top: int
    luma: NDArray[np.float32]
    chroma: tuple[NDArray[np.float32], NDArray[np.float32]]
    alpha: NDArray[np.float32]
    alpha_half: NDArray[np.float32]

    def lay(self, planes: tuple[Plane, Plane, Plane]) -> None:
        for plane, ink, alpha, scale in (
            (planes[0], self.luma, self.alpha, 1),
            (planes[1], self.chroma[0], self.alpha_half, 2),
            (planes[2], self.chroma[1], self.alpha_half, 2),
        ):
            height, width = alpha.shape
            top, left = self.top // scale, self.left // scale
            part = plane[top : top + height, left : left + width]
            part[...] = part * (1 - alpha) + ink * alpha + 0.5


class Titles:
    """Draws for one picture size; remembers what it drew (as many as there are venues)."""

    def __init__(self, width: int, height: int) -> None:
        self._width, self._height = width, height
        path = find_font()
        if path is None:
            log.warning("no font with Chinese found: names in recordings show what the built-in font has")
        self._path = path
        self._labels: dict[str, Label] = {}
        self._slates: dict[tuple[str, str], tuple[Plane, Plane, Plane]] = {}

    def label(self, text: str) -> Label:
        found = self._labels.get(text)
        if found is None:
            found = self._labels[text] = self._draw_label(text)
        return found

    def slate(self, title: str, line: str) -> tuple[Plane, Plane, Plane]:
        """Planes of a whole picture: ``title`` large, ``line`` small below."""
        found = self._slates.get((title, line))
        if found is None:
            found = self._slates[title, line] = self._draw_slate(title, line)
        return found

    def _font(self, size: int) -> Font:
        size = max(8, size)
        if self._path is None:
            return ImageFont.load_default(size)
        return ImageFont.truetype(str(self._path), size)

    def _draw_label(self, text: str) -> Label:
        unit = self._height / 720
        text = _short(text, 40)
        font = self._font(round(30 * unit))
        left, top, right, bottom = font.getbbox(text)
        pad_x, pad_y = round(16 * unit), round(9 * unit)
        # Even, so that the half-size colour planes fit exactly; never wider than the picture.
        width = min(_even(right - left + 2 * pad_x), self._width - _even(64 * unit))
        height = min(_even(bottom - top + 2 * pad_y), self._height // 2 * 2)
        image = Image.new("RGBA", (width, height), (*_BACK, 190))
        ImageDraw.Draw(image).text((pad_x - left, pad_y - top), text, font=font, fill=(*_TEXT, 255))
        pixels = np.asarray(image)
        alpha = pixels[:, :, 3].astype(np.float32) / np.float32(255)
        y, u, v = _planes(VideoFrame.from_ndarray(np.ascontiguousarray(pixels[:, :, :3]), format="rgb24"))
        half = alpha.reshape(height // 2, 2, width // 2, 2).mean(axis=(1, 3))
        return Label(
            left=_even(32 * unit),
            top=max(0, self._height - height - _even(32 * unit)) // 2 * 2,
            luma=y.astype(np.float32),
            chroma=(u.astype(np.float32), v.astype(np.float32)),
            alpha=alpha,
            alpha_half=half,
        )

    def _draw_slate(self, title: str, line: str) -> tuple[Plane, Plane, Plane]:
        image = Image.new("RGB", (self._width, self._height), _BACK)
        draw = ImageDraw.Draw(image)
        middle = self._width / 2
        for text, y, size, ink in (
            (_short(title, 30), 0.46, 0.075, _TEXT),
            (_short(line, 40), 0.58, 0.04, _QUIET),
        ):
            if not text:
                continue
            pixels = round(self._height * size)
            font = self._font(pixels)
            while font.getlength(text) > self._width * 0.9 and pixels > 8:
                pixels -= 2
                font = self._font(pixels)
            box = font.getbbox(text)
            draw.text(
                (middle - (box[0] + box[2]) / 2, self._height * y - (box[1] + box[3]) / 2),
                text,
                font=font,
                fill=ink,
            )
        frame = VideoFrame.from_ndarray(np.asarray(image), format="rgb24")
        return _planes(frame)


def find_font() -> Path | None:
    """The best installed font for Chinese names, None when there is none of those known."""
    known: dict[str, Path] = {}
    for folder in _FONT_FOLDERS:
        for path in Path(folder).expanduser().rglob("*.[to]t[fc]"):
            known.setdefault(path.name.lower(), path)
    for wanted in _FONT_NAMES:
        for name in sorted(known):
            if wanted in name:
                return known[name]
    return None


def plane_views(frame: VideoFrame) -> tuple[Plane, Plane, Plane]:
    """The planes of a yuv420p frame without the padding of their lines; views, not copies."""
    views = []
    for plane, scale in zip(frame.planes, (1, 2, 2), strict=True):
        width, height = -(-frame.width // scale), -(-frame.height // scale)
        lines = np.frombuffer(memoryview(plane), np.uint8)[: plane.line_size * height].reshape(
            height, plane.line_size
        )
        views.append(lines[:, :width])
    return views[0], views[1], views[2]


def _planes(frame: VideoFrame) -> tuple[Plane, Plane, Plane]:
    y, u, v = plane_views(frame.reformat(format="yuv420p", dst_color_range="MPEG"))
    return y.copy(), u.copy(), v.copy()


def _short(text: str, length: int) -> str:
    text = "".join(c if c.isprintable() else " " for c in text).strip()
    return text if len(text) <= length else text[: length - 1] + "…"


def _even(value: float) -> int:
    return max(2, round(value / 2) * 2)
