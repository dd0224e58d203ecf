"""Tasks of doit hand each other arrays through a store: doit -n 2, and at last doit clean

What is in the store is up to date: after a failure the next run goes on from there.
"""

import os

os.environ["FSEXCHANGE_STORE"] = os.path.abspath("store")
DOIT_CONFIG = {"default_tasks": ["collect"]}
TIMES = [1, 4]


def is_put(name):
    return f"fsexchange wait {name} --timeout 0 2>/dev/null"


def task_height():
    return {
        "actions": [
            'fsexchange init "$FSEXCHANGE_STORE"',
            "python height.py height.npy",
            "fsexchange put height.npy --name height",
        ],
        "uptodate": [is_put("height")],
        "clean": ["fsexchange clear"],
    }


def task_smooth():
    for times in TIMES:
        yield {
            "name": times,
            "actions": [f"python smooth.py {times}"],
            "task_dep": ["height"],
            "uptodate": [is_put(f"smooth/{times}")],
        }


def task_collect():
    return {
        "actions": [f"fsexchange get smooth/{times} -o smooth{times}.npy" for times in TIMES],
        "task_dep": ["smooth"],
        "targets": [f"smooth{times}.npy" for times in TIMES],
        "uptodate": [True],
    }
