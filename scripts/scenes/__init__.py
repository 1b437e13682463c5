"""Rendered RGB-D scenes with instance masks, for the demo, the benchmarks and the tests. Not in the paper.

A small ray caster in numpy: ellipsoids, boxes and cylinders on a textured table in front of a wall, lit by one area
light. Everything is drawn from one seed, so that the same seed gives the same scene.
"""

from scenes.files import write_scenes
from scenes.layout import Kind, render_scene
from scenes.tracer import Scene

__all__ = ["Kind", "Scene", "render_scene", "write_scenes"]
