"""Synthetic captures: drawings of Wright-Giemsa smears with and without B-cell acute lymphoblastic leukaemia.

The four classes are drawn as haematology textbooks describe them (see `kinds`), in several looks that have nothing to
do with them (see `looks`); `truth` says where the nucleated cells are. These are drawings and not biology: a
network trained on them knows only drawings and must never be used on real smears.
"""

GENERATOR_VERSION = 2
"""Increases whenever the same seed gives different bytes."""

HEIGHT, WIDTH = 768, 1024
"""Size of a capture in pixels."""

PIXELS_PER_UM = 85 / 7.2
"""An erythrocyte, 7.2 µm across on a dried smear, is 85 px wide: a 100x oil objective on a small camera."""
