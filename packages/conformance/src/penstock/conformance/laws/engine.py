"""Laws of engines: `Engine`, which holds the model in training.

They are held with a small model that has a router, a buffer that counts its passes, and dropout where a law asks for
it; those on several ranks with processes that are forked for each law.
"""

from __future__ import annotations

from penstock.conformance.law import laws_in
from penstock.conformance.laws import engine_alone, engine_ends, engine_ranks, engine_resumes

# In an order in which no law needs a later one.
_PARTS = (engine_alone, engine_ranks, engine_resumes, engine_ends)
LAWS = tuple(law for part in _PARTS for law in laws_in(vars(part)))
