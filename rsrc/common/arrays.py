"""Types of arrays."""

import numpy as np
import numpy.typing as npt

ByteArray = npt.NDArray[np.uint8]
