"""What the authors stored: numbers to compare with, never to report as ours.

Decoded from the plot arrays of the published lambda-loop notebook (method A, J0; 401
lambdas, 200 trials and one draw of data each) and from the files of a public fork of
the authors' code (method B, 10 seeds). The code, under MIT, is
github.com/NonlinearArtificialIntelligenceLab/N3.
"""

from typing import NamedTuple


class Bin(NamedTuple):
    """Growing / static test loss over a range of log10 lambda.

    `data` is growing's data part over static's *total*, whose size part isn't stored.
    """

    low: float
    high: float
    total: float
    data: float


LAMBDA_BINS = (
    Bin(-2.00, -1.75, 10.2, 2.56),
    Bin(-1.75, -1.50, 7.3, 1.02),
    Bin(-1.50, -1.25, 3.5, 0.34),
    Bin(-1.25, -1.00, 1.16, 0.36),
    Bin(-1.00, -0.75, 0.33, 0.28),
    Bin(-0.75, -0.50, 0.33, 0.33),
    Bin(-0.50, -0.25, 0.56, 0.56),
    Bin(-0.25, 0.00, 0.54, 0.54),
    Bin(0.00, 0.25, 0.64, 0.64),
    Bin(0.25, 0.50, 0.75, 0.75),
    Bin(1.00, 1.50, 0.94, 0.94),
    Bin(1.50, 2.00, 0.87, 0.87),
)

# Method B: the control after so many epochs, Bessel and spirals alike.
CONTROL = {100: 0.09919, 1000: 0.74278, 2000: 0.97940}
# Bessel, width 10, mean test loss of 10 seeds at epoch 4900.
BESSEL_GROWING, BESSEL_STATIC = 1.4e-4, 1.32e-3
