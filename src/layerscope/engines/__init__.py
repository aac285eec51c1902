"""Engines that run jobs. Each engine is a module with a function ``run(fn, jobs, *, workers, memory)``.

``run`` yields ``(job, result)`` in any order and uses one BLAS thread per worker. An exception of ``fn`` is yielded in
place of its result. Closing the generator, or Ctrl-C, stops all workers.
"""
