"""Array types of the search, spelled out: importing numpy.typing for `NDArray` would cost a solve 15 ms."""

from typing import Any

import numpy as np

Ints = np.ndarray[Any, np.dtype[np.int64]]
Floats = np.ndarray[Any, np.dtype[np.float64]]
Strings = np.ndarray[Any, np.dtype[np.str_]]
Bools = np.ndarray[Any, np.dtype[np.bool_]]
