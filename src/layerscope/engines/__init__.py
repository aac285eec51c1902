"""How jobs are run: one engine per file, a module with ``run(fn, jobs, *, workers, memory)``.

``run`` yields ``(job, result)`` in any order, one BLAS thread per worker, and lets no exception of ``fn`` end it: what
``fn`` raises is yielded in place of the result. Closing the generator, or Ctrl-C, leaves no work behind.
"""
