"""Lens 2"""
