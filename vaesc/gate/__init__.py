"""Whether a retrained model may replace the champion: measured on one frozen split, then decided.

Two models are compared on the same images, which neither was trained on and which never change as
data is added (:mod:`.frozen`); what each does with them is measured once (:mod:`.measurement`).
A paired bootstrap over the images gives every metric's ratio an interval, and the intervals decide
(:mod:`.decision`), not the point estimates: a candidate that is better by luck is not better.
Atoms are matched with the champion's, so that an atom keeps its number through retraining
(:mod:`.atoms`).

Nothing here knows of MLflow: :mod:`vaesc.registry.promotion` moves the alias.
"""
