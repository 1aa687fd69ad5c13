"""The rooms of stage 1, behind `stages/extract.py`."""
