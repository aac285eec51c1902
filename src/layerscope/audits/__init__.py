"""Audits: questions about pairs of models, answered tensor by tensor.

Each audit turns pairs of tensors into a report, which has the rules, views and files of every other report.
"""
