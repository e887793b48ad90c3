"""The SQL side of the router: campaigns, API keys, the ledger of charges and its reports.

SQLite is the embedded database, PostgreSQL the one for production; every module here runs on both. Which ads may take
part in an auction, and what arrives over HTTP, is decided elsewhere.
"""
