"""How many accelerators a traffic needs under an SLO, and which number rests on what."""
