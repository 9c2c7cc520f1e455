"""The script beside each exported file, which reads it without catdog; the file is scored by way of its script as well."""

from catdog.deployment.export.conversion import Format

HEAD = '''"""Says what is in photos, with {file}: python {reader} PHOTO.jpg ...

Needs: pip install {installs} numpy pillow
"""

import json
import os
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
'''
PHOTO = '''
HERE = Path(__file__).parent
MODEL, ABOUT = HERE / "{file}", json.loads((HERE / "model.json").read_text("utf-8"))
CLASSES, SIDE = ABOUT["classes"], ABOUT["image_size"]


def read_photo(path):
    """Returns a photo as the model takes it: uint8 (SIDE, SIDE, 3), upright, on white where it is transparent."""
    with Image.open(path) as photo:
        photo.draft(None, (2 * SIDE, 2 * SIDE))  # JPEG only: a large one is decoded at half its size or less
        if photo.mode[0] in "IF":
            raise ValueError("more than 8 bits a channel: save it with 8 bits first")
        photo = photo.convert("RGBA" if photo.has_transparency_data else "RGB")
        photo = ImageOps.exif_transpose(photo.resize((SIDE, SIDE), Image.Resampling.BILINEAR))
        if photo.mode == "RGBA":
            photo = Image.alpha_composite(Image.new("RGBA", photo.size, "white"), photo)
        return np.asarray(photo.convert("RGB"))

'''
MAIN = """

if __name__ == "__main__":
    answer = load()
    for path in sys.argv[1:]:
        probabilities = answer(read_photo(path))
        listed = ", ".join(f"{name} {share:.4f}" for name, share in zip(CLASSES, probabilities))
        print(f"{path}: {CLASSES[int(probabilities.argmax())]} ({listed})")
"""


def render_reader(format: Format) -> str:
    """Returns the text of the script that reads a file of this format."""
    imports, _, loads = format.loads.strip().partition("\n\n\n")
    names = {"{file}": format.file, "{reader}": format.reader, "{installs}": format.installs}
    text = HEAD + imports + "\n" + PHOTO + "\n" + loads + "\n" + MAIN
    if "os." not in loads:
        text = text.replace("import os\n", "")
    for name, value in names.items():
        text = text.replace(name, value)
    return text
