"""The report's figures, which are drawn without a display, in colours that colour-blind people can tell apart."""

import matplotlib
from cycler import cycler

from pointrend.drawing import PALETTE

matplotlib.use("Agg")
# Yellow lines cannot be seen on white.
COLORS = ("#0072B2", *(color for color in PALETTE if color not in ("#0072B2", "#F0E442")), "#000000")
matplotlib.rcParams.update({"axes.prop_cycle": cycler(color=COLORS), "savefig.dpi": 200})
