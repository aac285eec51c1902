"""References that several modules of metrics cite."""

from __future__ import annotations

CLAUSET = "Clauset, Shalizi & Newman, SIAM Rev. 51 (2009)"
HTSR = "Martin & Mahoney, JMLR 22(165)"
