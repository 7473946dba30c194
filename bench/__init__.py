"""How fast the product is on this machine, beside the libraries as their READMEs show them.

    make bench                          # everything, about ten minutes on two quiet cores
    python -m bench --quick             # fewer rounds: about three minutes
    python -m bench --only clip,ocr     # some sections
    python -m bench --json              # for machines

What the figures mean: docs/performance.md. Nothing in the product imports this.
"""
