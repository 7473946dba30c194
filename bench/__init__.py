"""How fast the product is on this machine, beside the libraries as their READMEs show them.

    make bench                          # everything
    python -m bench --quick             # fewer rounds
    python -m bench --only clip,ocr     # some sections
    python -m bench --json              # for machines
    python -m bench --cpu               # by the processor's seconds: on a busy machine

What the figures mean: docs/performance.md. Nothing in the product imports this.
"""
