"""Lens 3"""
