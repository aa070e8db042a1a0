"""The public datasets as they are published, at a size for tests: drawn images in their files, archives, keys and prompts.

    python -m tests.public_shapes FOLDER --rows 120

writes the folder that recipes/spatialreward-8b/data.yaml calls `raw`, the same bytes for the same seed. `training` has one
function for each dataset that is trained on, `benchmarks` for each that is evaluated. What they assume and nobody has seen is
the list "What is assumed of the public files" in docs/data.md; texts are ours, of the published length and form.
"""
