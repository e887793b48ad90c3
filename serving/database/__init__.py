"""SQL shared by campaigns, accounts, the ledger and reports: engine, tables, column types, cursors, migrations.

SQLite is the embedded database, PostgreSQL the one for production; every query runs on both.
"""
