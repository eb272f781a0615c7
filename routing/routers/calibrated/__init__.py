"""Any router under a head fitted on a pilot of the set at hand.

Public: `CalibratedRouter`, and `fit_calibration` (isotonic, Platt) alone. Uses `auto` and `text`; only the registry
imports it, and it must not import what makes a pilot (routing.pilot).
"""
