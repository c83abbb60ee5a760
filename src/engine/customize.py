# Put in place of `usercustomize`, the last module that Python imports before it opens the main file:
# imports modules that the job may need, has others in the data directory found, gives the program the
# name that its file was sent with, and leaves no other trace. NAMES, REPORT and DATA are filled in: the
# names of modules that cannot be imported are written to the file REPORT below HOME, and DATA is empty
# or has the main file's name and the data directory.
def load():
    import gc
    import os
    import sys

    silent = os.open(os.devnull, os.O_RDWR)
    kept = os.dup(1), os.dup(2)
    os.dup2(silent, 1)
    os.dup2(silent, 2)
    failed = []
    for name in NAMES:
        try:
            __import__(name)
        except BaseException:
            failed.append(name)
    try:
        with open(os.path.join(os.environ["HOME"], REPORT), "w") as report:
            report.write("\n".join(failed))
    except OSError:
        pass
    # The end of the interpreter would go through all that was loaded.
    gc.freeze()
    sys.stdout.flush()
    sys.stderr.flush()
    for fd, copy in zip((1, 2), kept):
        os.dup2(copy, fd)
        os.close(copy)
    os.close(silent)


def leave():
    import os
    import sys

    here = os.path.dirname(__file__)
    sys.path[:] = [place for place in sys.path if place != here]
    sys.path_importer_cache.pop(here, None)
    try:
        os.unlink(__file__)
        os.unlink(__cached__)
        folder = os.path.dirname(__cached__)
        while folder != os.environ["HOME"]:
            os.rmdir(folder)
            folder = os.path.dirname(folder)
    except OSError:
        # Not all of it is this file's.
        pass
    for main, data in DATA:
        # Last, so that no file there is taken for a module of Python's own.
        sys.path.append(data)
        sys.argv[0] = main


if NAMES:
    load()
leave()
del load, leave
# As if there were no such module.
raise ImportError(name="usercustomize")
