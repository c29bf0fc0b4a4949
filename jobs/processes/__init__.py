"""Processes that make calls for this one: figures are drawn and rows are added up by several."""
