"""Arrays as pictures of Qt."""

import numpy as np
import qt


def pixmapOf(picture: np.ndarray) -> qt.QPixmap:
    """(h, w, 3) uint8 as a pixmap, by way of the plainest format that Qt reads without a plug-in."""
    height, width = picture.shape[:2]
    data = f"P6 {width} {height} 255\n".encode() + np.ascontiguousarray(picture, np.uint8).tobytes()
    pixmap = qt.QPixmap()
    pixmap.loadFromData(qt.QByteArray(data), "PPM")
    return pixmap
