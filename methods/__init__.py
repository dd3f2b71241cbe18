"""One method a file. Every module here is imported, so that a new file is a new method without another edit."""

import importlib
import pkgutil

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
