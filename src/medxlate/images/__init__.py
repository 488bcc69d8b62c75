"""Reading and writing medical images, geometry, intensity recipes.

The only code that touches pixels on disk.
"""
