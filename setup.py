"""The native relay.  Optional: without a compiler the package is complete, its packets go through Python."""

from glob import glob

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "sfu._relay",
            sources=[*sorted(glob("sfu/_*.c")), *sorted(glob("sfu/native/*.c"))],
            depends=[*sorted(glob("sfu/_*.h")), *sorted(glob("sfu/native/*.h"))],
            define_macros=[("_GNU_SOURCE", "1")],
            extra_compile_args=["-std=c11", "-O2", "-fvisibility=hidden", "-pthread", "-Wall", "-Wextra"],
            extra_link_args=["-pthread"],
            libraries=["m"],
            optional=True,
        )
    ]
)
