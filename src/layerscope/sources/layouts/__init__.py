"""Interpret tensors as weight matrices: which axes are outputs and inputs, and which projections are fused.

Names and operations determine the meaning of an axis; its size does not.
"""
