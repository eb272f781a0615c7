"""The journal: every settled answer, kept so that nothing is asked or paid twice.

Public: `rows.Answer`, `writer.JournalWriter`, `reader.Journal`, `compaction.compact_journal`, and `recovery` for what dead
processes left. It keeps answers and does not make them: it must not import jobs.money, jobs.lanes or jobs.route.
"""
