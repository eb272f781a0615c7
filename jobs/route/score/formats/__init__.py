"""Rows of one file as `Record`s: the kinds of files that hold prompts, a module each. Public: `Record`, and what `records` calls.

It must not import anything of jobs.route but this folder.
"""
