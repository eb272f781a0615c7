"""Which files a path of the job file means: patterns, tables that are more than their files, columns that are folders.

It must not import anything of jobs.route but this folder: what a file holds is `formats`' concern.
"""
