"""The injected-fault suite: `python -m benchmarks.faults`, or `make faults`.

Thousands of small trials, each with one fault at a random place: a cancelled request, memory that
runs out, a NaN, a full disk, a kill, a hostile file, a judge that replies nonsense. What a trial
comes to is compared with the same work without the fault. Each failure has one of these names:

- wrong: a result (token, score, figure, verdict, vector) that differs from that of the fault-free
  work, without an error or a note.
- lost: a result that was complete before the fault and can't be had afterwards, or a request that
  never gets an outcome, though its process goes on or has died.
- hung: no outcome within the trial's bound of time, or more memory than its bound.
- executed: code in a file ran. Every hostile file that could run code would write a marker file.
- half-written: a file or folder under its final name that is neither the old nor the new content,
  or leftovers that a later run takes for whole.
- traceback: a failure that a user would see as a Python traceback, or as several lines, or too late
  (after weights have loaded), where one line before that is promised.

A trial is decided by its kind and its seed alone, so each failure is printed with the command that
repeats it. Results are in `benchmarks/results/faults.md`.
"""
