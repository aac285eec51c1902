"""What the verdicts are worth: small networks with a known outcome, and what layerscope says about each of them."""
