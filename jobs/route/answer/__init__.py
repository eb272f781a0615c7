"""The stage that asks and pays: which rows go to which lane, in which order, until rows or dollars are gone.

`session.spending` opens a `Session`, the only thing that starts lanes; `waves` knows which rows are open, `bands` which are next
where dollars are tight, `reuse.reuse_answers` copies what earlier runs have answered. Plans are read and cut again through
`jobs.route.plan`; the pilot, the cascade and the accounting come later and are not imported.
"""
