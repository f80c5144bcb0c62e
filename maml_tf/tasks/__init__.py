"""Where tasks come from; each source is a `TaskSource`.

The sources are classes; what belongs to one data set is a function named after it.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
