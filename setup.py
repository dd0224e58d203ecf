from setuptools import Extension, setup

# One file for all versions of Python. Where it cannot be compiled, Python does the same.
native = Extension(
    "fsexchange.serialize._native",
    ["fsexchange/serialize/_native.c"],
    py_limited_api=True,
    optional=True,
)

setup(ext_modules=[native], options={"bdist_wheel": {"py_limited_api": "cp310"}})
