from .rows import rows as rows
