import sysconfig

from setuptools import Extension, setup

# One file for all versions of Python. What cannot be compiled, Python does as well.
native = [
    Extension(
        f"fsexchange.{layer}._native",
        [f"fsexchange/{layer}/_native.c"],
        depends=[f"fsexchange/filesystem/{name}.h" for name in ("limited", "pages", "whole")],
        py_limited_api=True,
        optional=True,
    )
    for layer in ("connector", "filesystem", "mpi", "serialize")
]

if sysconfig.get_config_var("Py_GIL_DISABLED"):  # it has no limited API before 3.15
    setup()
else:
    setup(ext_modules=native, options={"bdist_wheel": {"py_limited_api": "cp310"}})
