"""The report's figures, which are drawn without a display."""

import matplotlib

matplotlib.use("Agg")
