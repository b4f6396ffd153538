"""Pictures of a report for the pages of the documentation: parts of report.html as a browser shows them.

    python docs/make_pictures.py RUN docs/pictures [--browser chromium]

RUN is the folder of a finished refinement, those of the pages that of `halfmap demo` with the nonuniform regulariser.
Needs a Chromium browser and Pillow, which Halfmap itself does not.
"""

import argparse
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageChops

WIDTH, HEIGHT = 1100, 2600  # pixels of the browser's window
COLOURS = 128  # of a picture, which keeps it small
MARGIN = 24  # pixels


@dataclass(frozen=True)
class Picture:
    """Which parts of the page a picture shows: those with these headings, and the head of the page or not.

    most: pixels of its height."""

    name: str
    headings: tuple[str, ...]
    head: bool = False
    most: int = HEIGHT


PICTURES = (
    Picture("report.png", ("Resolution",), head=True),
    Picture("report_map.png", ("Map",), most=830),
    Picture("report_cutoff.png", ("Local cut-off",)),
    Picture("report_course.png", ("Progress",)),
    Picture("report_views.png", ("Images without a particle", "Views")),
)

# Leaves only the wanted parts on the page.
SCRIPT = """<script>addEventListener('load', () => {
  const wanted = %s, head = %s;
  const parts = [...document.querySelectorAll('h2')].map(h => h.closest('section') || h.parentElement);
  for (const part of parts)
    if (!wanted.includes(part.querySelector('h2').textContent.trim())) part.style.display = 'none';
  for (const e of document.querySelectorAll(head ? 'footer' : 'footer, header')) e.style.display = 'none';
  if (!head) for (let e = parts[0].previousElementSibling; e; e = e.previousElementSibling) e.style.display = 'none';
});</script>"""


def taken(page: str, picture: Picture, browser: str, folder: Path) -> Image.Image:
    """The picture, cut to what is on it."""
    script = SCRIPT % (list(picture.headings), str(picture.head).lower())
    html, shot = folder / "page.html", folder / "page.png"
    html.write_text(page.replace("</body>", script + "</body>"), encoding="utf-8")
    command = [
        browser,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        "--virtual-time-budget=8000",
        f"--window-size={WIDTH},{HEIGHT}",
        f"--screenshot={shot}",
        html.as_uri(),
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    image = Image.open(shot).convert("RGB")
    box = ImageChops.difference(image, Image.new("RGB", image.size, image.getpixel((2, HEIGHT - 2)))).getbbox()
    return image.crop((0, max(0, box[1] - MARGIN), WIDTH, min(picture.most + box[1], box[3] + MARGIN)))


def main() -> None:
    """Read the command line and make every picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("--browser", default="chromium")
    given = parser.parse_args()
    page = (given.run / "report.html").read_text(encoding="utf-8")
    page = page.replace(f"{given.run.resolve().parent}/", "")  # whose folder it was does not matter
    with tempfile.TemporaryDirectory() as folder:
        for picture in PICTURES:
            image = taken(page, picture, given.browser, Path(folder))
            small = image.quantize(COLOURS, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
            small.save(given.pictures / picture.name, optimize=True)
            written = (given.pictures / picture.name).stat().st_size
            print(f"{picture.name}: {image.size[0]} x {image.size[1]}, {written} bytes")


if __name__ == "__main__":
    main()
