"""Synthetic captures: drawings of Wright-Giemsa smears with and without B-cell acute lymphoblastic leukaemia.

The four classes are drawn by what textbooks of haematology say about their looks (see `kinds`). This is a drawing and
not biology: a network trained on it knows these drawings and must never be used on real smears.
"""

GENERATOR_VERSION = 1
"""Goes up whenever the same seed gives other bytes."""

HEIGHT, WIDTH = 768, 1024
"""Size of a capture in pixels."""

PIXELS_PER_UM = 85 / 7.2
"""An erythrocyte, 7.2 µm across on a dried smear, is 85 px wide: a 100x oil objective on a small camera."""
